/**
 * Sets up a clone: npm packages, libtorch, addon, code, page. Skips what is done. `--quiet` prints only when something
 * has to be done. Plain JavaScript without dependencies, since it runs before any are installed.
 */
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
const quiet = process.argv.includes('--quiet');
const started = Date.now();

function say(line) {
  console.error(`setup: ${line}`);
}

function run(command, args) {
  const result = spawnSync(command, args, { cwd: root, stdio: ['ignore', 2, 2], shell: process.platform === 'win32' });
  if (result.status !== 0)
    throw new Error(
      `Expected \`${command} ${args.join(' ')}\` to succeed but it ended with ${result.status ?? result.signal}.`,
    );
}

function installPackages() {
  const stamp = join(root, 'node_modules', '.minicpm-finetune-lock');
  const lock = createHash('sha256')
    .update(readFileSync(join(root, 'package-lock.json')))
    .digest('hex');
  if (existsSync(stamp) && readFileSync(stamp, 'utf8') === lock) return false;
  say('[1/4] installing npm packages');
  run('npm', ['ci', '--ignore-scripts', '--no-audit', '--no-fund']);
  writeFileSync(stamp, lock);
  return true;
}

async function main() {
  const [major, minor] = process.versions.node.split('.').map(Number);
  if (major < 20 || (major === 20 && minor < 19))
    throw new Error(`Expected Node 20.19 or newer but received ${process.versions.node}. Install a current Node.`);
  const installed = installPackages();
  if (!installed && !quiet) say('[1/4] npm packages: up to date');
  const { buildAddon } = await import('../packages/torch/scripts/build.mjs');
  const built = await buildAddon((line) => say(`[2/4] ${line}`));
  if (!quiet || !built.endsWith('up to date')) say(`[2/4] ${built}`);
  if (!quiet) say('[3/4] compiling TypeScript');
  run(process.execPath, [join(root, 'node_modules', 'typescript', 'bin', 'tsc'), '-b']);
  const { buildPage } = await import('../packages/dashboard/scripts/build-page.mjs');
  const page = await buildPage();
  if (!quiet || !page.endsWith('up to date')) say(`[4/4] ${page}`);
  if (!quiet) say(`ready after ${((Date.now() - started) / 1000).toFixed(0)} s`);
}

try {
  await main();
} catch (error) {
  console.error(error.message);
  process.exitCode = 1;
}
