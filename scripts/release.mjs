/**
 * Builds the prebuilt addon of this platform. packages/torch/prebuilds/<platform>-<arch>/torch.node for the pinned
 * libtorch, and torch.json beside it with the requirements of the addon, measured from the binary. Build on the oldest
 * system that is to be supported: its glibc is the floor.
 */
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdirSync, readFileSync, realpathSync, rmSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { linkLibtorch, whyNotLoading } from '../packages/torch/scripts/build.mjs';
import { compileAddon, NAPI_VERSION, sourcesHash } from '../packages/torch/scripts/compile.mjs';
import { checkHost, compareVersions, findPython, platformOf } from '../packages/torch/scripts/host.mjs';
import { pinnedLibtorch } from '../packages/torch/scripts/libtorch.mjs';
import { prebuiltFolder } from '../packages/torch/scripts/prebuilt.mjs';
import { PINNED } from '../packages/torch/scripts/wheels/pinned.mjs';

const here = resolve(import.meta.dirname, '..', 'packages', 'torch');
const log = (line) => console.error(`release: ${line}`);

/** The newest version that a binary's symbols ask of each library, such as `{ GLIBC: '2.34', GLIBCXX: '3.4.30' }`. */
export function symbolVersions(table) {
  const newest = {};
  for (const [, name, version] of table.matchAll(/\b(GLIBC|GLIBCXX|CXXABI|GCC)_(\d+(?:\.\d+)+)\b/g)) {
    if (newest[name] === undefined || compareVersions(version, newest[name]) > 0) newest[name] = version;
  }
  return newest;
}

/** What the addon needs of a system, read from the binary with the compiler's own tools. */
function measure(file) {
  const options = { encoding: 'utf8', maxBuffer: 1 << 28 };
  if (process.platform === 'darwin') {
    const oldest = /minos (\d+\.\d+)/.exec(execFileSync('otool', ['-l', file], options));
    return { glibc: null, glibcxx: null, macos: oldest?.[1] ?? null, cxx11Abi: null };
  }
  const table = execFileSync('objdump', ['-T', file], options);
  const { GLIBC, GLIBCXX } = symbolVersions(table);
  if (GLIBC === undefined) throw new Error(`Expected versions of glibc in ${file} but objdump shows none`);
  return { glibc: GLIBC, glibcxx: GLIBCXX ?? null, macos: null, cxx11Abi: /__cxx11/.test(table) };
}

async function main() {
  checkHost();
  const libtorch = await pinnedLibtorch({ build: 'cpu', interpreter: findPython(), log });
  const folder = prebuiltFolder(here);
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(folder, { recursive: true });
  const output = join(folder, 'torch.node');
  const objects = join(here, 'build', 'objects');
  const compiler = await compileAddon({ here, libtorch: libtorch.root, output, objects, log });
  linkLibtorch(here, libtorch.root);
  const reason = whyNotLoading(output);
  if (reason !== undefined) throw new Error(`Expected ${output} to load but received: ${reason}`);
  const { version } = JSON.parse(readFileSync(join(here, 'package.json'), 'utf8'));
  const sha256 = createHash('sha256').update(readFileSync(output)).digest('hex');
  const built = { version, libtorch: PINNED, napi: NAPI_VERSION, platform: platformOf(), ...measure(output) };
  const record = { ...built, compiler, sources: sourcesHash(here), sha256 };
  writeFileSync(join(folder, 'torch.json'), `${JSON.stringify(record, null, 2)}\n`);
  console.log(JSON.stringify({ file: output, ...record }));
}

if (process.argv[1] && realpathSync(process.argv[1]) === import.meta.filename) await main();
