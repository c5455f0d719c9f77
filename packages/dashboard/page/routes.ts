/** The screens. The first word of the address, the name in the navigation, the component. */
import type { Component } from 'svelte';
import type { Messages } from './messages/current.svelte.js';
import Chat from './screens/chat/chat.svelte';
import Compare from './screens/compare/compare.svelte';
import Data from './screens/data/data.svelte';
import Machine from './screens/machine/machine.svelte';
import NewRun from './screens/new-run/new-run.svelte';
import Run from './screens/run/run.svelte';
import Runs from './screens/runs/runs.svelte';

export interface Screen {
  readonly path: string;
  /** Key of its name in the navigation. */
  readonly name: keyof Messages['common']['screens'];
  /** Gets the words of the path after the first one. */
  readonly component: Component<{ words: readonly string[] }>;
  /** A screen of one thing, such as a run: shown below the entry of its name. */
  readonly detail?: Component<{ words: readonly string[] }>;
}

export const SCREENS: readonly Screen[] = [
  { path: 'runs', name: 'runs', component: Runs, detail: Run },
  { path: 'compare', name: 'compare', component: Compare },
  { path: 'data', name: 'data', component: Data },
  { path: 'new-run', name: 'newRun', component: NewRun },
  { path: 'chat', name: 'chat', component: Chat },
  { path: 'machine', name: 'machine', component: Machine },
];
