/** Hundreds of runs and a long one: in the memory that they may take, and (with room for slow machines) in time. */
import { execFileSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { expect, it } from 'vitest';

const SCRIPT = fileURLToPath(new URL('../scripts/measure.mjs', import.meta.url));

it('lists 500 runs below 120 MB', () => {
  const words = [SCRIPT, '--runs', '500', '--steps', '100', '--long', '20000'];
  const found = JSON.parse(execFileSync(process.execPath, words, { encoding: 'utf8' }));
  expect(found.listed).toBe(500);
  expect(found.rss).toBeLessThan(120e6);
  expect(found.list_seconds).toBeLessThan(5);
  expect(found.first_series_seconds).toBeLessThan(3);
  expect(found.next_series_seconds).toBeLessThan(1.5);
});
