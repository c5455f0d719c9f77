/**
 * Where libtorch is. Looked for in this order:
 *
 *   1. LIBTORCH, a folder with `lib` and `include` (an unpacked libtorch, or the `torch` folder of a Python installation);
 *   2. a Python `torch` 2.6 or newer that `python3` can import;
 *   3. the pinned wheel, fetched with pip; only its `lib` and `include` are unpacked, into the user's cache folder.
 */
import { execFileSync, spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, renameSync, rmSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { cacheFolder, findPython } from './host.mjs';

export const PINNED = '2.13.0';
const OLDEST = [2, 6];
const CPU_INDEX = 'https://download.pytorch.org/whl/cpu';
const PLATFORMS = {
  'linux-x64': 'manylinux_2_28_x86_64',
  'linux-arm64': 'manylinux_2_28_aarch64',
  'darwin-arm64': 'macosx_11_0_arm64',
};

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

const isNewEnough = (version) => {
  const [major, minor] = version.split('.').map(Number);
  return major > OLDEST[0] || (major === OLDEST[0] && minor >= OLDEST[1]);
};

function fromPython(interpreter) {
  const script = 'import os, torch; print(os.path.dirname(torch.__file__)); print(torch.__version__)';
  const run = spawnSync(interpreter, ['-c', script], { encoding: 'utf8' });
  if (run.status !== 0) return undefined;
  const [root, version] = run.stdout.trim().split('\n').slice(-2);
  return isNewEnough(version) && isLibtorch(root)
    ? { root, version, source: `Python torch of ${interpreter}` }
    : undefined;
}

const UNPACK = `
import sys, zipfile
with zipfile.ZipFile(sys.argv[1]) as wheel:
    names = [n for n in wheel.namelist() if n.startswith(('torch/lib/', 'torch/include/')) or n.startswith('torch.libs/')]
    wheel.extractall(sys.argv[2], names)
`;

function fetchWheel(interpreter, target, log) {
  const platform = PLATFORMS[`${process.platform}-${process.arch}`];
  if (platform === undefined) throw new Error(`there is no pinned wheel for ${process.platform}-${process.arch}`);
  const nvidia = existsSync('/proc/driver/nvidia/version');
  const index = process.platform === 'linux' && !nvidia ? ['--index-url', CPU_INDEX] : [];
  mkdirSync(cacheFolder(), { recursive: true });
  const temporary = mkdtempSync(join(cacheFolder(), 'download-'));
  try {
    const args = [
      '-m',
      'pip',
      'download',
      '--no-deps',
      '--only-binary=:all:',
      '--retries',
      '1',
      '--dest',
      temporary,
      ...index,
    ];
    args.push(
      '--platform',
      platform,
      '--implementation',
      'cp',
      '--python-version',
      '3.11',
      '--abi',
      'cp311',
      `torch==${PINNED}`,
    );
    log(`fetching torch ${PINNED} (about 200 MB): ${interpreter} ${args.join(' ')}`);
    execFileSync(interpreter, args, { stdio: ['ignore', 'inherit', 'inherit'] });
    const wheel = readdirSync(temporary).find((name) => name.endsWith('.whl'));
    log(`unpacking its lib and include into ${target}`);
    execFileSync(interpreter, ['-c', UNPACK, join(temporary, wheel), join(temporary, 'unpacked')], {
      stdio: 'inherit',
    });
    rmSync(target, { recursive: true, force: true });
    renameSync(join(temporary, 'unpacked'), target);
  } finally {
    rmSync(temporary, { recursive: true, force: true });
  }
}

/** The libtorch builds that can be used, best first: `{ root, version, source, given }`. Throws with what to do when there is none. */
export async function* libtorchCandidates(log = console.log) {
  const given = process.env.LIBTORCH;
  if (given) {
    if (!isLibtorch(given)) {
      throw new Error(
        `Expected libtorch in LIBTORCH=${given} (lib/libtorch_cpu and include/ATen) but it is not there. Correct LIBTORCH or unset it.`,
      );
    }
    yield { root: resolve(given), version: versionOf(given), source: 'LIBTORCH', given: true };
    return;
  }
  const interpreter = findPython();
  const installed = interpreter && fromPython(interpreter);
  if (installed) yield installed;
  yield fetchPinned(interpreter, log);
}

function fetchPinned(interpreter, log) {
  const target = join(cacheFolder(), `libtorch-${PINNED}-${process.platform}-${process.arch}`);
  const root = join(target, 'torch');
  const cached = { root, version: PINNED, source: 'pinned wheel in the cache folder' };
  if (isLibtorch(root)) return cached;
  let reason = 'python3 is not there';
  if (interpreter) {
    try {
      fetchWheel(interpreter, target, log);
      if (isLibtorch(root)) return cached;
      reason = `the wheel has no libtorch in ${root}`;
    } catch (error) {
      reason = error.message.split('\n')[0];
    }
  }
  throw new Error(
    [
      `Expected libtorch but found none (${reason}). Do one of these, then run the command again:`,
      `  - unpack libtorch ${PINNED} from pytorch.org and set LIBTORCH to its folder;`,
      `  - install PyTorch 2.6 or newer for python3: python3 -m pip install torch==${PINNED};`,
      '  - give python3 with pip access to a package index, so that the pinned wheel can be fetched.',
    ].join('\n'),
  );
}
