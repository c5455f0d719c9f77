/**
 * Shows that the CUDA build compiles and loads. A CUDA build of libtorch is fetched with everything it needs, the addon
 * compiles against it without CUDA's toolkit, and it loads: on a machine without a card it then reports `cuda: false`.
 * Takes about 6 GB of disk in a temporary folder. Prints JSON last.
 *
 *     node scripts/check-cuda-build.mjs [--version 2.14.1] [--index URL]… [--folder DIR] [--keep]
 */
import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { compileAddon } from '../packages/torch/scripts/compile.mjs';
import { checkHost, findPython, nvidiaDriver } from '../packages/torch/scripts/host.mjs';
import { fetchLibtorch } from '../packages/torch/scripts/wheels/fetch.mjs';
import { PINNED } from '../packages/torch/scripts/wheels/pinned.mjs';

const { values } = parseArgs({
  options: {
    version: { type: 'string', default: PINNED },
    build: { type: 'string', default: 'cu130' },
    index: { type: 'string', multiple: true },
    folder: { type: 'string' },
    keep: { type: 'boolean', default: false },
    help: { type: 'boolean', short: 'h', default: false },
  },
});
if (values.help) {
  console.log(/\/\*\*\n([\s\S]*?) \*\//.exec(readFileSync(import.meta.filename, 'utf8'))[1].replaceAll(/^ \* ?/gm, ''));
  process.exit();
}

const log = (line) => console.error(`check-cuda-build: ${line}`);
const here = resolve(import.meta.dirname, '..', 'packages', 'torch');

async function seconds(work) {
  const started = Date.now();
  await work();
  return Math.round((Date.now() - started) / 100) / 10;
}

/** Loads the addon in a process of its own and multiplies two matrices with it. */
function load(addon) {
  const program = `
    const native = require(process.argv[1]);
    const { index } = native.resolve('aten::matmul', '');
    const a = native.fromBytes(new Uint8Array(new Float32Array([1, 2, 3, 4]).buffer), [2, 2], 6, false);
    const product = [...native.doubles(native.call(index, a, a))];
    console.log(JSON.stringify({ ...native.about(), product }));`;
  return JSON.parse(execFileSync(process.execPath, ['-e', program, addon], { encoding: 'utf8' }));
}

checkHost();
if (process.platform !== 'linux') throw new Error('Expected Linux: there are CUDA builds for no other platform.');
const folder = values.folder ? resolve(values.folder) : mkdtempSync(join(tmpdir(), 'check-cuda-build-'));
mkdirSync(folder, { recursive: true });
try {
  const target = join(folder, `libtorch-${values.version}`);
  const request = {
    version: values.version,
    build: values.build,
    target,
    indexes: values.index,
    folder: join(folder, 'downloads'),
  };
  const fetching = await seconds(() => fetchLibtorch({ ...request, interpreter: findPython(), log }));
  const { unpacked, wheels } = JSON.parse(readFileSync(join(target, 'libtorch.json'), 'utf8'));
  const output = join(folder, 'build', 'Release', 'torch.node');
  const compiling = await seconds(() =>
    compileAddon({ here, libtorch: join(target, 'torch'), output, objects: join(folder, 'build', 'objects'), log }),
  );
  rmSync(join(folder, 'libtorch'), { force: true });
  symlinkSync(join(target, 'torch'), join(folder, 'libtorch'));
  let about;
  const loading = await seconds(() => {
    about = load(output);
  });
  const expected = nvidiaDriver() !== undefined;
  console.log(
    JSON.stringify({
      about,
      driver: nvidiaDriver() ?? null,
      wheels: wheels.map(({ file, bytes, checked }) => ({ file, bytes, checked })),
      bytes: { fetched: wheels.reduce((sum, { bytes }) => sum + bytes, 0), unpacked },
      seconds: { fetching, compiling, loading },
    }),
  );
  const multiplied = JSON.stringify(about.product) === '[7,10,15,22]';
  if (about.cuda !== expected || !multiplied) {
    throw new Error(
      `Expected cuda: ${expected} and the product 7,10,15,22 but received cuda: ${about.cuda} and ${about.product}`,
    );
  }
} finally {
  if (!values.keep && values.folder === undefined) rmSync(folder, { recursive: true, force: true });
}
