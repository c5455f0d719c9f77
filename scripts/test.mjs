/**
 * `npm test`: lint, types and documents, then all tests. Those of operators and models run again without AVX-512, and
 * those of the page in a browser, where there is one or Debian's can be installed. The last line is `N passed, N failed`. `npm test -- --long` adds the long part (kills, mutations, whole official scripts:
 * some minutes more); other arguments go to vitest, which then runs once: `npm test -- packages/torch`.
 */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { BROWSER_TESTS, findChromium } from '../packages/dashboard/scripts/chromium.mjs';
import { lint } from './lint.mjs';

const folder = mkdtempSync(join(tmpdir(), 'minicpm-finetune-test-'));
const report = join(folder, 'report.json');
let { passed, failed } = await lint();

const words = process.argv.slice(2);
const long = words.includes('--long');
const chosen = words.filter((word) => word !== '--long');

/** Runs tests with variables in their environment, and adds to the totals. */
function run(args, variables) {
  rmSync(report, { force: true });
  const reporters = ['--reporter=default', '--reporter=json', `--outputFile.json=${report}`];
  const { status } = spawnSync(process.execPath, ['node_modules/vitest/vitest.mjs', 'run', ...reporters, ...args], {
    stdio: 'inherit',
    env: { ...process.env, ...variables },
  });
  let failures = 0;
  try {
    const { numPassedTests, numFailedTests } = JSON.parse(readFileSync(report, 'utf8'));
    passed += numPassedTests;
    failures = numFailedTests;
  } catch (error) {
    console.error(`Expected a report of the tests but received none: ${error.message}`);
    failures = 1;
  }
  failed += status === 0 ? failures : Math.max(failures, 1); // an error outside of any test counts as one
}

run(chosen, long ? { MINICPM_FINETUNE_LONG_TESTS: '1' } : {});
// Operators and models once more as on a processor with AVX2 alone, so that every machine tests the path without our own kernels.
if (chosen.length === 0 && process.arch === 'x64') {
  console.log('again without AVX-512:');
  run(['packages/torch', 'packages/processor', 'packages/minicpm-v'], {
    ONEDNN_MAX_CPU_ISA: 'AVX2',
    ATEN_CPU_CAPABILITY: 'avx2',
  });
}
if (chosen.length === 0) {
  console.log('the page in a browser:');
  const { path, reason } = findChromium((line) => console.log(line));
  if (path === undefined) console.log(`skipped: ${reason}`);
  else run(['--config', BROWSER_TESTS], { CHROMIUM: path });
}
rmSync(folder, { recursive: true, force: true });
console.log(`${passed} passed, ${failed} failed`);
process.exitCode = failed === 0 ? 0 : 1;
