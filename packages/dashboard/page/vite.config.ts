/** How Vite builds the page. Into dist/page, with nothing inlined that the content policy would refuse. */
import { svelte } from '@sveltejs/vite-plugin-svelte';
import { defineConfig } from 'vite';

export default defineConfig({
  root: import.meta.dirname,
  base: './',
  publicDir: 'public',
  plugins: [
    svelte({
      // Its warnings are mistakes of accessibility and dead code.
      onwarn: (warning) => {
        throw new Error(`${warning.filename}:${warning.start?.line}: ${warning.message}`);
      },
    }),
  ],
  logLevel: 'warn',
  build: {
    outDir: '../dist/page',
    emptyOutDir: true,
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    rolldownOptions: { checks: { pluginTimings: false } },
  },
});
