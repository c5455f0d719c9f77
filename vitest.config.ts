import { defineConfig } from 'vitest/config';

// Each test file gets a process of its own: libtorch keeps process-wide state (threads, RNG, allocator counters).
export default defineConfig({
  test: {
    include: ['packages/*/test/**/*.test.ts'],
    pool: 'forks',
    maxWorkers: 2,
    // One thread per test process: two processes with two threads each wait for each other far longer than they compute.
    // The tests hold for any number: `OMP_NUM_THREADS=2 npm test` runs them with two. The language of the command line must not depend on
    // who runs the tests.
    env: { OMP_NUM_THREADS: process.env.OMP_NUM_THREADS ?? '1', LC_ALL: 'C.UTF-8' },
    // For a machine that is several times slower, and busy: a test that hangs takes longer to fail, and none fails that does not.
    testTimeout: 300_000,
    hookTimeout: 300_000,
    expect: { poll: { timeout: 60_000 } },
  },
});
