/**
 * Where libtorch is. Looked for in this order:
 *
 *   1. LIBTORCH, a folder with `lib` and `include` (an unpacked libtorch, or the `torch` folder of a Python installation);
 *   2. a Python `torch` 2.6 or newer that `python3` can import;
 *   3. the pinned version in the user's cache folder, fetched when it is not there yet: the CUDA build that the NVIDIA driver can run, else
 *      the CPU build. LIBTORCH_BUILD (cpu, cu130, cu126) chooses another, LIBTORCH_INDEX (addresses with spaces between them) other indexes.
 */
import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { cacheFolder, compareVersions, findPython, nvidiaDriver, platformOf } from './host.mjs';
import { fetchLibtorch } from './wheels/fetch.mjs';
import { BUILDS, PINNED } from './wheels/pinned.mjs';

const OLDEST = '2.6';

const isLibtorch = (root) =>
  existsSync(join(root, 'include', 'ATen', 'ATen.h')) &&
  ['libtorch_cpu.so', 'libtorch_cpu.dylib'].some((file) => existsSync(join(root, 'lib', file)));

function versionOf(root) {
  const header = join(root, 'include', 'torch', 'csrc', 'api', 'include', 'torch', 'version.h');
  const other = join(root, 'include', 'torch', 'headeronly', 'version.h');
  for (const file of [header, other]) {
    const match = existsSync(file) && /TORCH_VERSION\s+"([^"]+)"/.exec(readFileSync(file, 'utf8'));
    if (match) return match[1];
  }
  return 'unknown';
}

function fromPython(interpreter, log) {
  const script = 'import os, torch; print(os.path.dirname(torch.__file__)); print(torch.__version__)';
  const run = spawnSync(interpreter, ['-c', script], { encoding: 'utf8' });
  if (run.status !== 0) return undefined;
  const [root, version] = run.stdout.trim().split('\n').slice(-2);
  if (compareVersions(version, OLDEST) < 0 || !isLibtorch(root)) {
    log(
      `The torch ${version} of ${interpreter} is not used: ${isLibtorch(root) ? `${OLDEST} or newer is needed` : 'it has no headers'}.`,
    );
    return undefined;
  }
  const driver = nvidiaDriver();
  if (driver !== undefined && version.endsWith('+cpu')) {
    log(
      `The torch ${version} of ${interpreter} is a CPU build, and this machine has NVIDIA driver ${driver}. To use the card, install a CUDA build of PyTorch or uninstall this one, then run the command again.`,
    );
  }
  return { root, version, source: `Python torch of ${interpreter}` };
}

/** The build to fetch for a driver (undefined: none), and a sentence about it where there is something to say. */
export function chooseBuild(driver, platform = platformOf(), given = process.env.LIBTORCH_BUILD) {
  if (given) {
    if (!(given in BUILDS)) {
      throw new Error(`Expected one of ${Object.keys(BUILDS).join(', ')} for LIBTORCH_BUILD but received ${given}`);
    }
    return { build: given };
  }
  if (driver === undefined || !platform.startsWith('linux')) return { build: 'cpu' };
  const cuda = Object.entries(BUILDS).filter(([, { driver: oldest }]) => oldest !== undefined);
  const [newest] = cuda;
  const fit = cuda.find(([, { driver: oldest }]) => compareVersions(driver, oldest) >= 0);
  const needs = `CUDA build ${newest[0]} needs NVIDIA driver ${newest[1].driver} or newer and this machine has ${driver}`;
  if (fit === undefined) {
    const [name, { driver: oldest }] = cuda.at(-1);
    return {
      build: 'cpu',
      note: `The ${needs}; the oldest one, ${name}, needs ${oldest}. The CPU build is taken: update the driver and run the command again to use the card.`,
    };
  }
  return fit === newest
    ? { build: fit[0], note: `NVIDIA driver ${driver}: taking CUDA build ${fit[0]}.` }
    : { build: fit[0], note: `The ${needs}: taking ${fit[0]}, which runs on it. Update the driver for the newer one.` };
}

/** The libtorch builds that can be used, best first: `{ root, version, source, build }`. Throws with what to do when there is none. */
export async function* libtorchCandidates(log = console.log) {
  const given = process.env.LIBTORCH;
  if (given) {
    if (!isLibtorch(given)) {
      throw new Error(
        `Expected libtorch in LIBTORCH=${given} (lib/libtorch_cpu and include/ATen) but it is not there. Correct LIBTORCH or unset it.`,
      );
    }
    const version = versionOf(given);
    if (version !== 'unknown' && compareVersions(version, OLDEST) < 0) {
      throw new Error(
        `Expected libtorch ${OLDEST} or newer in LIBTORCH=${given} but it is ${version}. Set LIBTORCH to a newer one, or unset it: ${PINNED} is then fetched.`,
      );
    }
    yield { root: resolve(given), version, source: 'LIBTORCH' };
    return;
  }
  const interpreter = findPython();
  const installed = interpreter && fromPython(interpreter, log);
  if (installed) yield installed;
  const { build, note } = chooseBuild(nvidiaDriver());
  if (note) log(note);
  yield await pinnedLibtorch({ build, interpreter, log });
}

/** The pinned version in the cache folder, fetched when it is not there: `{ root, version, source }`. */
export async function pinnedLibtorch({ build, interpreter, log }) {
  const name = `libtorch-${PINNED}-${platformOf()}`;
  const target = join(cacheFolder(), build === 'cpu' ? name : `${name}-${build}`);
  const root = join(target, 'torch');
  const found = { root, version: PINNED, build, source: `pinned version, ${build} build, in the cache folder` };
  if (isLibtorch(root)) return found;
  log(`fetching libtorch ${PINNED}, ${build} build (about ${BUILDS[build].about})`);
  const indexes = process.env.LIBTORCH_INDEX?.split(/\s+/).filter((index) => index !== '');
  try {
    await fetchLibtorch({ version: PINNED, build, target, indexes, interpreter, log });
  } catch (error) {
    if (error.local) throw error;
    throw new Error(
      [
        `Expected libtorch but found none, and fetching it failed: ${error.message}. Do one of these, then run the command again:`,
        ...(process.env.https_proxy || process.env.HTTPS_PROXY
          ? [
              '  - HTTPS_PROXY is set: Node uses it from version 24 on when NODE_USE_ENV_PROXY=1 is set, too; pip uses it always;',
            ]
          : []),
        ...(build === 'cpu' ? [] : ['  - set LIBTORCH_BUILD=cpu, to do without the card;']),
        '  - connect this machine to the index, or set LIBTORCH_INDEX to one that it reaches (a mirror of the index above);',
        `  - install PyTorch ${OLDEST} or newer for python3: python3 -m pip install torch==${PINNED};`,
        `  - unpack libtorch ${PINNED} from pytorch.org and set LIBTORCH to its folder.`,
      ].join('\n'),
      { cause: error },
    );
  }
  if (!isLibtorch(root)) throw new Error(`Expected libtorch in ${root} but the wheel has none for this platform.`);
  return found;
}
