/**
 * Compiles and links the native addon. One call of the C++ compiler for each file of native/, then one that links. No
 * make, no Python, no shell, so paths may have spaces; Node-API's headers come from npm. Objects are kept by what they
 * were made from, so that only changes compile.
 */
import { execFile, spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync } from 'node:fs';
import { createRequire } from 'node:module';
import { availableParallelism, freemem } from 'node:os';
import { dirname, join } from 'node:path';
import { explainFailure } from './diagnose.mjs';

/** What one compiler process takes at most: measured 1.3 GB with g++ 12 and libtorch 2.13. */
const BYTES_PER_JOB = 1.5e9;
/** The version of Node-API that the addon uses: every Node from 12.22 on has it, so one addon serves them all. */
export const NAPI_VERSION = 8;

/** The compiler: CXX where it is set (words after the first are arguments), else the first of these on PATH. */
export function findCompiler() {
  const given = process.env.CXX?.trim();
  const candidates = given ? [existsSync(given) ? [given] : given.split(/\s+/)] : [['c++'], ['g++'], ['clang++']];
  for (const words of candidates) {
    const asked = spawnSync(words[0], [...words.slice(1), '--version'], { encoding: 'utf8' });
    if (asked.status === 0) return { words, version: asked.stdout.split('\n')[0] };
  }
  return undefined;
}

/** Every file below `folder`, sorted, with `/` between names. */
function filesBelow(folder) {
  return readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath ?? entry.path, entry.name))
    .sort();
}

/** A hash of everything in native/ and of how it is compiled. */
export function sourcesHash(here) {
  const hash = createHash('sha256');
  for (const file of [...filesBelow(join(here, 'native')), join(here, 'scripts', 'compile.mjs')]) {
    hash.update(file.slice(here.length)).update(readFileSync(file));
  }
  return hash.digest('hex');
}

function includeFolders(libtorch) {
  const require = createRequire(import.meta.url);
  const folderOf = (name) => dirname(require.resolve(`${name}/package.json`));
  return {
    own: [join(folderOf('node-api-headers'), 'include'), folderOf('node-addon-api')],
    libtorch: [join(libtorch, 'include'), join(libtorch, 'include', 'torch', 'csrc', 'api', 'include')],
  };
}

const words = (text) => text?.split(/\s+/).filter((word) => word !== '') ?? [];

function compileFlags(here, libtorch) {
  const { own, libtorch: torch } = includeFolders(libtorch);
  const flags = ['-std=c++20', '-O2', '-fPIC', '-pthread', '-fexceptions', '-frtti', '-fno-omit-frame-pointer'];
  flags.push('-Wall', '-Wextra', '-Wno-unused-parameter', '-Wno-missing-field-initializers');
  flags.push(`-DNAPI_VERSION=${NAPI_VERSION}`, '-DNODE_ADDON_API_DISABLE_DEPRECATED', '-DBUILDING_NODE_EXTENSION');
  if (process.platform === 'linux') flags.push('-fopenmp');
  if (process.platform === 'darwin') flags.push('-stdlib=libc++', '-mmacosx-version-min=14.0');
  return [
    ...flags,
    ...[join(here, 'native', 'declarations'), ...own].map((path) => `-I${path}`),
    ...torch.flatMap((path) => ['-isystem', path]),
    ...words(process.env.CXXFLAGS),
  ];
}

/** The addon looks for libtorch beside itself (`<package>/libtorch/lib`, a link): wherever that lies, the addon is the same. */
function linkFlags(libtorch) {
  const library = ['-L', join(libtorch, 'lib'), '-ltorch', '-ltorch_cpu', '-lc10'];
  return process.platform === 'darwin'
    ? [
        '-bundle',
        '-undefined',
        'dynamic_lookup',
        '-mmacosx-version-min=14.0',
        '-Wl,-rpath,@loader_path/../../libtorch/lib',
        ...library,
      ]
    : ['-shared', '-pthread', '-Wl,--no-as-needed', '-Wl,-rpath,$ORIGIN/../../libtorch/lib', ...library];
}

const ended = (command, args) =>
  new Promise((resolve) =>
    execFile(command, args, { maxBuffer: 1 << 28 }, (error, stdout, stderr) =>
      resolve({ error, output: `${stderr}${stdout}`, signal: error?.signal, missing: error?.code === 'ENOENT' }),
    ),
  );

/** How many compilers run at once: as many as there are processors and memory for. */
function jobs() {
  const limit = process.constrainedMemory?.() ?? 0;
  const memory = limit > 0 ? Math.min(freemem(), limit) : freemem();
  return Math.max(1, Math.min(availableParallelism(), Math.floor(memory / BYTES_PER_JOB)));
}

/** The headers of this package that a source file includes, and those that they include. */
function headersOf(path, seen = new Set()) {
  for (const [, name] of readFileSync(path, 'utf8').matchAll(/^#include "([^"]+)"/gm)) {
    const header = join(dirname(path), name);
    if (seen.has(header) || !existsSync(header)) continue;
    seen.add(header);
    headersOf(header, seen);
  }
  return [...seen].sort();
}

/**
 * Every source file with the object it becomes, whose name holds a hash of all that it is made from: its text, its headers, compiler and
 * flags. Where the package and libtorch lie does not count.
 */
function planObjects({ here, libtorch, objects, compiler, flags }) {
  const placeless = flags.map((flag) =>
    flag
      .replace(libtorch, 'libtorch')
      .replace(here, '')
      .replace(/^-I.*node_modules/, '-I'),
  );
  const common = createHash('sha256').update([compiler.version, ...placeless].join('\n'));
  for (const name of ['torch/headeronly/version.h', 'ATen/Config.h']) {
    const file = join(libtorch, 'include', name);
    if (existsSync(file)) common.update(readFileSync(file));
  }
  const native = filesBelow(join(here, 'native'));
  const declarations = join(here, 'native', 'declarations'); // libtorch's headers include them
  for (const file of native.filter((path) => path.startsWith(declarations))) common.update(readFileSync(file));
  const shared = common.digest('hex');
  return native
    .filter((path) => path.endsWith('.cc'))
    .map((path) => {
      const name = path.slice(join(here, 'native').length + 1).replaceAll('/', '-');
      const hash = createHash('sha256').update(shared);
      for (const file of [path, ...headersOf(path)]) hash.update(readFileSync(file));
      return { path, object: join(objects, `${name}-${hash.digest('hex').slice(0, 16)}.o`) };
    });
}

/** Runs the compiler and gives what it writes its name; throws with its first error line. */
async function produce(context, args, output, source) {
  const { words } = context.compiler;
  const temporary = `${output}.${process.pid}.tmp`;
  const result = await ended(words[0], [...words.slice(1), ...args, '-o', temporary]);
  if (result.error) {
    rmSync(temporary, { force: true });
    throw explainFailure({ ...context, ...result, file: source });
  }
  renameSync(temporary, output);
}

/**
 * Compiles native/ against the libtorch in `libtorch` and links `output`; `objects` is the folder of the object files. Returns the compiler's
 * version.
 *
 * @throws with the first error line of the compiler and its cure.
 */
export async function compileAddon({ here, libtorch, output, objects, log }) {
  const compiler = findCompiler();
  const context = { compiler, libtorch, folder: dirname(output) };
  if (compiler === undefined) throw explainFailure({ ...context, missing: true });
  mkdirSync(objects, { recursive: true });
  mkdirSync(dirname(output), { recursive: true });
  const flags = compileFlags(here, libtorch);
  const sources = planObjects({ here, libtorch, objects, compiler, flags });
  const waiting = sources.filter(({ object }) => !existsSync(object));
  const total = waiting.length;
  let done = 0;
  let failed = false;
  const work = async () => {
    for (let next = waiting.shift(); next !== undefined && !failed; next = waiting.shift()) {
      try {
        await produce(context, [...flags, '-c', next.path], next.object, next.path);
      } catch (error) {
        failed = true;
        throw error;
      }
      done++;
      if (done % 4 === 0 || done === total) log(`compiled ${done} of ${total} files`);
    }
  };
  const ends = await Promise.allSettled(Array.from({ length: Math.min(jobs(), total) }, work));
  const failure = ends.find(({ status }) => status === 'rejected');
  if (failure) throw failure.reason;

  const parts = [...sources.map(({ object }) => object), ...linkFlags(libtorch), ...words(process.env.LDFLAGS)];
  await produce(context, parts, output, output);
  const kept = new Set(sources.map(({ object }) => object));
  for (const file of filesBelow(objects)) if (!kept.has(file)) rmSync(file);
  return compiler.version;
}
