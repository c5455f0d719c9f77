/** All checks that need no test run: `npm run lint`. One line each, with the whole output of those that fail. */
import { spawn } from 'node:child_process';
import { availableParallelism } from 'node:os';
import { root } from './packages.mjs';

const CHECKS = [
  ['format, style, import circles', 'node_modules/@biomejs/biome/bin/biome', 'check', '.'],
  ['types of the tests', 'node_modules/typescript/bin/tsc', '-p', 'tsconfig.tests.json'],
  ['types of the page', 'node_modules/typescript/bin/tsc', '-p', 'packages/dashboard/page'],
  ['what npm would get', 'scripts/check-packages.mjs'],
  ['unused files, exports, dependencies', 'node_modules/knip/bin/knip.js', '--treat-config-hints-as-errors'],
  ['imports point down', 'scripts/imports.mjs'],
  ['one version', 'scripts/version.mjs'],
  ['file tree', 'scripts/tree.mjs'],
  ['docs of flags', 'scripts/flags.mjs'],
];

/** Runs one check and says how it went. */
function run([name, ...words]) {
  const started = Date.now();
  return new Promise((resolve) => {
    const child = spawn(process.execPath, words, { cwd: root, stdio: ['ignore', 'pipe', 'pipe'] });
    let output = '';
    for (const stream of [child.stdout, child.stderr])
      stream.setEncoding('utf8').on('data', (text) => (output += text));
    child.on('close', (status) => {
      const passed = status === 0;
      const seconds = ((Date.now() - started) / 1000).toFixed(1);
      console.log(`${passed ? 'ok    ' : 'FAILED'} ${name} (${seconds} s)${passed ? '' : `\n${output}`}`);
      resolve(passed);
    });
  });
}

/** Runs all checks, as many at a time as there are processors, and returns how many passed and failed. */
export async function lint() {
  const waiting = [...CHECKS];
  let passed = 0;
  const work = async () => {
    for (let check = waiting.shift(); check !== undefined; check = waiting.shift()) if (await run(check)) passed++;
  };
  await Promise.all(Array.from({ length: availableParallelism() }, work));
  return { passed, failed: CHECKS.length - passed };
}

if (process.argv[1] === import.meta.filename) process.exitCode = (await lint()).failed === 0 ? 0 : 1;
