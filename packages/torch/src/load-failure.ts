/**
 * Why the native addon did not load, with the cure. Names the file, and checks platform, C library, Node and libtorch.
 *
 * Not here: building it (scripts/build.mjs). The addon finds libtorch through the link `<package>/libtorch`.
 */
import { existsSync, lstatSync, readFileSync, readlinkSync, realpathSync } from 'node:fs';
import { join } from 'node:path';

/** What is known about a failure to load; tests give their own. */
export interface LoadFacts {
  /** The folder of this package. */
  readonly here: string;
  readonly platform: NodeJS.Platform;
  readonly arch: string;
  /** undefined on musl and outside Linux. */
  readonly glibc: string | undefined;
  readonly node: string;
}

export function factsOf(here: string): LoadFacts {
  const report =
    process.platform === 'linux' ? (process.report.getReport() as { header: Record<string, string> }) : null;
  const { platform, arch } = process;
  return { here, platform, arch, glibc: report?.header.glibcVersionRuntime, node: process.versions.node };
}

/** The addon to load from this package's folder: the one compiled here, else the one that came with the package. */
export function addonFile(here: string, { platform, arch } = process): string | undefined {
  const files = [
    join(here, 'build', 'Release', 'torch.node'),
    join(here, 'prebuilds', `${platform}-${arch}`, 'torch.node'),
  ];
  return files.find((file) => existsSync(file));
}

/** The command that makes the addon ready: of the clone, or of the installed package. */
function setUp({ here }: LoadFacts): string {
  const root = join(here, '..', '..');
  const inClone = existsSync(join(root, 'scripts', 'setup.mjs')) && existsSync(join(root, 'package-lock.json'));
  return inClone ? `\`npm run setup\` in ${root}` : `\`node "${join(here, 'scripts', 'build.mjs')}"\``;
}

function versionIn(root: string): string | undefined {
  const headers = ['headeronly', join('csrc', 'api', 'include', 'torch')].map((path) =>
    join(root, 'include', 'torch', path, 'version.h'),
  );
  const found = headers.map((file) =>
    existsSync(file) ? /TORCH_VERSION\s+"([^"]+)"/.exec(readFileSync(file, 'utf8')) : null,
  );
  return found.find((match) => match !== null)?.[1];
}

interface Libtorch {
  /** Where the link points, or where it was expected. */
  readonly root: string;
  readonly state: 'there' | 'no link' | 'moved';
  readonly version?: string | undefined;
  readonly builtFor?: string | undefined;
}

function libtorchOf({ here }: LoadFacts, file: string): Libtorch {
  const link = join(here, 'libtorch');
  const record = [join(here, 'build', 'addon.json'), join(file, '..', 'torch.json')].find((path) => existsSync(path));
  const built = record ? (JSON.parse(readFileSync(record, 'utf8')) as { version?: string; libtorch?: string }) : {};
  const builtFor = record?.endsWith('torch.json') ? built.libtorch : built.version;
  if (!lstatSync(link, { throwIfNoEntry: false })) return { root: link, state: 'no link', builtFor };
  const root = lstatSync(link).isSymbolicLink() ? readlinkSync(link) : link;
  if (!existsSync(join(link, 'lib'))) return { root, state: 'moved', builtFor };
  return { root: realpathSync(link), state: 'there', version: versionIn(link), builtFor };
}

/** Why an addon that is not there is not there. */
export function explainMissing(facts: LoadFacts): Error {
  if (facts.platform === 'win32') {
    return new Error(
      'Expected Linux or macOS but this is Windows, which is not supported. Use WSL 2: `wsl --install`, then install inside it.',
    );
  }
  return new Error(
    `Expected the native addon of ${facts.here} but it is not there.\nThe package's install script has not run (--ignore-scripts, or a package manager that asks first, as npm 12: \`npm approve-scripts @minicpm-finetune/torch && npm rebuild\`) or it failed. Run ${setUp(facts)}: it finds libtorch and takes or compiles the addon.`,
  );
}

/** Why `file` did not load, from what the system's loader said and from what is there. */
export function explainLoadFailure(facts: LoadFacts, file: string, cause: Error): Error {
  const libtorch = libtorchOf(facts, file);
  const here = [
    `${facts.platform}-${facts.arch}`,
    ...(facts.platform === 'linux' ? [facts.glibc ? `glibc ${facts.glibc}` : 'no glibc'] : []),
    `Node ${facts.node}`,
    `addon built for libtorch ${libtorch.builtFor ?? 'unknown'}`,
    libtorch.state === 'there'
      ? `libtorch ${libtorch.version ?? 'of unknown version'} in ${libtorch.root}`
      : `libtorch not in ${libtorch.root}`,
  ].join(', ');
  const text = `Expected ${file} to load but received: ${cause.message}\n${reason(facts, libtorch, cause.message)}\n(${here})`;
  return new Error(text, { cause });
}

function reason(facts: LoadFacts, libtorch: Libtorch, message: string): string {
  const again = setUp(facts);
  if (facts.platform === 'linux' && facts.glibc === undefined) {
    return 'libtorch needs glibc and this system has another C library (musl, as on Alpine). Use a glibc system, for example the image node:22-bookworm-slim.';
  }
  if (libtorch.state === 'moved') {
    return `libtorch has moved: it was in ${libtorch.root}. Put it back (a container needs that folder, too), or run ${again}.`;
  }
  if (libtorch.state === 'no link') {
    return `The install script has not run: ${libtorch.root}, the link to libtorch, is not there. Run ${again}.`;
  }
  const symbol = /version [`'](GLIBC(?:XX)?_[\d.]+)' not found/.exec(message);
  if (symbol)
    return `The addon was built on a newer system: it needs ${symbol[1]}. Run ${again}: it compiles the addon here.`;
  if (
    /invalid ELF header|wrong architecture|incompatible architecture|cannot open shared object file: Exec format/.test(
      message,
    )
  ) {
    return `The addon is of another platform; node_modules was probably copied from another machine. Run ${again}.`;
  }
  if (/static TLS block/.test(message)) {
    const openmp = join(libtorch.root, 'lib', 'libgomp.so.1');
    return `An OpenMP library has to be loaded earlier on this system. Start with LD_PRELOAD=${openmp}.`;
  }
  const library = /(\S+\.(?:so|dylib)[\d.]*): cannot open shared object file|Library not loaded: (\S+)/.exec(message);
  if (library) {
    const cuda = /cuda|cublas|cudnn|cufft|cusolver|cusparse|nccl|nvrtc|nvshmem|nvJitLink|curand|cupti|cufile/i.test(
      message,
    );
    const why = cuda
      ? `libtorch is a CUDA build, and ${library[1] ?? library[2]}, which NVIDIA's packages bring, is not beside it`
      : `${library[1] ?? library[2]} is neither in ${libtorch.root}/lib nor on this system`;
    return `${why}. Run ${again}.`;
  }
  if (/undefined symbol|symbol not found/i.test(message)) {
    const changed = libtorch.builtFor !== libtorch.version ? `libtorch is now ${libtorch.version}; ` : '';
    return `${changed}the addon and libtorch do not fit each other. Delete ${join(facts.here, 'build')} and run ${again}.`;
  }
  return `Run ${again}. If that does not help, report the whole message.`;
}
