/**
 * `npm test`: lint, types and documents, then all tests. Those of operators and models run again without AVX-512, and
 * those of the page in a browser, where there is one or Debian's can be installed. The last line is `N passed, N failed`. `npm test -- --long` adds the long part (kills, mutations, whole official scripts:
 * some minutes more); other arguments go to vitest, which then runs once: `npm test -- packages/torch`.
 */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, relative } from 'node:path';
import { BROWSER_TESTS, findChromium } from '../packages/dashboard/scripts/chromium.mjs';
import { findProgram } from './debian.mjs';
import { lint } from './lint.mjs';
import { root } from './packages.mjs';

const folder = mkdtempSync(join(tmpdir(), 'minicpm-finetune-test-'));
const report = join(folder, 'report.json');
const failures = [];
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
  let found = 0;
  try {
    const { numPassedTests, numFailedTests, testResults } = JSON.parse(readFileSync(report, 'utf8'));
    passed += numPassedTests;
    found = numFailedTests;
    failures.push(...testResults.flatMap(describeFailures));
  } catch (error) {
    failures.push(`Expected a report of the tests but received none: ${error.message}`);
    found = 1;
  }
  failed += status === 0 ? found : Math.max(found, 1); // an error outside of any test counts as one
}

/** The failed tests of a file with what they say, or what kept the file from being read. */
function describeFailures({ name, status, message, assertionResults }) {
  const file = relative(root, name);
  const tests = assertionResults.filter((test) => test.status === 'failed');
  if (tests.length === 0) return status === 'failed' ? [`${file}\n${message}`] : [];
  return tests.map(({ fullName, failureMessages }) => `${file} > ${fullName}\n${failureMessages.join('\n')}`);
}

// Tests of video files need it; without it they are skipped.
const { reason: noFfmpeg } = findProgram('ffmpeg', ['ffmpeg'], 'install it', (line) => console.log(line));
if (noFfmpeg !== undefined) console.log(`tests of video files skipped: ${noFfmpeg}`);
run(chosen, long ? { MINICPM_FINETUNE_LONG_TESTS: '1' } : {});
// Operators and models once more as on a processor with AVX2 alone, so that every machine tests the path without our own kernels.
if (chosen.length === 0 && process.arch === 'x64') {
  console.log('again without AVX-512:');
  const without = ['group.test.ts', 'scripts/**'].flatMap((name) => ['--exclude', `packages/torch/test/${name}`]);
  run(['packages/torch', 'packages/minicpm-v', ...without], {
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
// Once more at the end, where whoever reads the tail of a long log sees them.
for (const failure of failures) console.log(`FAILED ${failure}`);
console.log(`${passed} passed, ${failed} failed`);
process.exitCode = failed === 0 ? 0 : 1;
