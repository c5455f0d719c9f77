/** Finds libtorch and builds the native addon with node-gyp; does nothing when both are as they were. */
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { availableParallelism } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { findLibtorch } from './libtorch.mjs';

const here = join(dirname(fileURLToPath(import.meta.url)), '..');
const stampFile = join(here, 'build', 'built.json');

function sourcesHash() {
  const hash = createHash('sha256');
  for (const file of ['binding.gyp', ...readdirSync(join(here, 'native')).map((name) => `native/${name}`)].sort()) {
    hash.update(file).update(readFileSync(join(here, file)));
  }
  return hash.update(process.versions.modules).digest('hex');
}

/** Node's own headers where they came with Node; node-gyp downloads them otherwise. */
function nodeHeaders() {
  const prefix = join(dirname(process.execPath), '..');
  return existsSync(join(prefix, 'include', 'node', 'node_api.h')) ? [`--nodedir=${prefix}`] : [];
}

function isBuilt(sources) {
  if (!existsSync(stampFile) || !existsSync(join(here, 'build', 'Release', 'torch.node'))) return false;
  const stamp = JSON.parse(readFileSync(stampFile, 'utf8'));
  const sameChoice = (process.env.LIBTORCH ?? '') === stamp.LIBTORCH;
  return sameChoice && stamp.sources === sources && existsSync(join(stamp.root, 'lib'));
}

/** Returns a line that says what was done. */
export function buildAddon(log = console.log) {
  const sources = sourcesHash();
  if (isBuilt(sources)) return 'native addon: up to date';
  const libtorch = findLibtorch(log);
  log(`libtorch ${libtorch.version} (${libtorch.source}) in ${libtorch.root}`);
  const gyp = createRequire(import.meta.url).resolve('node-gyp/bin/node-gyp.js');
  const started = Date.now();
  log('compiling the native addon (about half a minute on two cores)');
  const run = spawnSync(process.execPath, [gyp, 'rebuild', '-j', String(availableParallelism()), ...nodeHeaders()], {
    cwd: here,
    env: { ...process.env, LIBTORCH_ROOT: libtorch.root },
    encoding: 'utf8',
    maxBuffer: 1 << 28,
  });
  if (run.status !== 0) {
    const output = `${run.stdout ?? ''}\n${run.stderr ?? ''}`.trim().split('\n').slice(-40).join('\n');
    throw new Error(
      `${output}\n\nExpected the native addon to compile but it did not. It needs a C++20 compiler (g++ 11 or clang 14 or newer), make and python3: on Debian \`apt install g++ make python3\`, on macOS \`xcode-select --install\`.`,
    );
  }
  writeFileSync(
    stampFile,
    JSON.stringify({ root: libtorch.root, version: libtorch.version, LIBTORCH: process.env.LIBTORCH ?? '', sources }),
  );
  return `native addon: built in ${((Date.now() - started) / 1000).toFixed(0)} s`;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  try {
    console.log(buildAddon());
  } catch (error) {
    console.error(error.message);
    process.exitCode = 1;
  }
}
