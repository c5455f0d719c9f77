/** Starts the page. */
import './styles/theme.css';
import './styles/base.css';
import { mount } from 'svelte';
import App from './app.svelte';

mount(App, { target: document.body });
