import { join } from 'node:path';
import { defineConfig } from 'vitest/config';

/** Tests that need a browser: `npm run test:browser` finds one and runs them. */
export default defineConfig({
  root: join(import.meta.dirname, '..', '..', '..', '..'),
  test: {
    include: ['packages/dashboard/test/browser/*.browser.ts', 'packages/minicpm-v/test/gguf/*.browser.ts'],
    pool: 'forks',
    maxWorkers: 1,
    env: { LC_ALL: 'C.UTF-8' },
    // A busy machine takes its time.
    expect: { poll: { timeout: 60_000 } },
    testTimeout: 300_000,
    hookTimeout: 300_000,
  },
});
