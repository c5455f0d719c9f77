/**
 * Lint, the types of the tests and the README's file tree, then all tests; the last line is `N passed, N failed`. `npm test -- --long` adds the long part (kills, mutations, whole official
 * scripts: some minutes more); other arguments go to vitest: `npm test -- packages/torch`.
 */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

const folder = mkdtempSync(join(tmpdir(), 'minicpm-finetune-test-'));
const report = join(folder, 'report.json');
let passed = 0;
let failed = 0;

/** Checks beside the tests: each counts as one. */
const CHECKS = [
  ['node_modules/@biomejs/biome/bin/biome', 'check', '.'],
  ['node_modules/typescript/bin/tsc', '-p', 'tsconfig.tests.json'],
  ['scripts/tree.mjs'],
];
for (const check of CHECKS) {
  if (spawnSync(process.execPath, check, { stdio: 'inherit' }).status === 0) passed++;
  else failed++;
}

const words = process.argv.slice(2);
const long = words.includes('--long');
const reporters = ['--reporter=default', '--reporter=json', `--outputFile.json=${report}`];
const tests = spawnSync(
  process.execPath,
  ['node_modules/vitest/vitest.mjs', 'run', ...reporters, ...words.filter((word) => word !== '--long')],
  { stdio: 'inherit', env: long ? { ...process.env, MINICPM_FINETUNE_LONG_TESTS: '1' } : process.env },
);
try {
  const result = JSON.parse(readFileSync(report, 'utf8'));
  passed += result.numPassedTests;
  failed += result.numFailedTests;
} catch (error) {
  console.error(`Expected a report of the tests but received none: ${error.message}`);
  failed++;
}
rmSync(folder, { recursive: true, force: true });
if (tests.status !== 0 && failed === 0) failed++; // an error outside of any test
console.log(`${passed} passed, ${failed} failed`);
process.exitCode = failed === 0 ? 0 : 1;
