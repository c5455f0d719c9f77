/**
 * Makes the native addon ready. Finds libtorch (or fetches it), then takes the prebuilt addon if that fits, else
 * compiles. Does nothing when all is as it was. npm runs this when the package is installed; in a clone `npm run setup`
 * does.
 */
import { spawnSync } from 'node:child_process';
import {
  existsSync,
  mkdirSync,
  readFileSync,
  readlinkSync,
  realpathSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { dirname, join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import { compileAddon, findCompiler, sourcesHash } from './compile.mjs';
import { explainFailure } from './diagnose.mjs';
import { checkHost, nvidiaDriver } from './host.mjs';
import { chooseBuild, libtorchCandidates } from './libtorch.mjs';
import { readPrebuilt, whyNotPrebuilt } from './prebuilt.mjs';

const package_ = join(dirname(fileURLToPath(import.meta.url)), '..');

const stateFile = (here) => join(here, 'build', 'addon.json');
const compiledFile = (here) => join(here, 'build', 'Release', 'torch.node');

function readState(here) {
  try {
    return JSON.parse(readFileSync(stateFile(here), 'utf8'));
  } catch {
    return undefined; // not built yet, or by hand
  }
}

function linkTarget(here) {
  try {
    return readlinkSync(join(here, 'libtorch'));
  } catch {
    return undefined;
  }
}

function isReady(here) {
  const state = readState(here);
  return (
    state !== undefined &&
    state.LIBTORCH === (process.env.LIBTORCH ?? '') &&
    (state.build === undefined || state.build === chooseBuild(nvidiaDriver()).build) &&
    state.sources === sourcesHash(here) &&
    existsSync(join(here, state.addon)) &&
    linkTarget(here) === state.root &&
    existsSync(join(state.root, 'lib'))
  );
}

/** Lets `<package>/libtorch` point to the libtorch in use: the addon looks for its libraries there. */
export function linkLibtorch(here, root) {
  const temporary = join(here, `.libtorch-${process.pid}`);
  rmSync(temporary, { force: true });
  symlinkSync(root, temporary);
  renameSync(temporary, join(here, 'libtorch'));
}

function finish(here, { root, version, source, build }, addon) {
  mkdirSync(dirname(stateFile(here)), { recursive: true });
  const state = {
    addon: relative(here, addon),
    root,
    version,
    source,
    build,
    LIBTORCH: process.env.LIBTORCH ?? '',
    sources: sourcesHash(here),
  };
  writeFileSync(stateFile(here), `${JSON.stringify(state, null, 2)}\n`);
}

/** Loads an addon in a process of its own and returns what Node says when it does not load. */
export function whyNotLoading(file) {
  const program = 'try { require(process.argv[1]) } catch (error) { console.error(error.message); process.exit(1) }';
  const run = spawnSync(process.execPath, ['-e', program, file], { encoding: 'utf8' });
  if (run.status === 0) return undefined;
  return run.stderr.trim().split('\n')[0] || `the process ended with ${run.status ?? run.signal}`;
}

/** Takes the prebuilt addon for a libtorch. Returns why it does not fit, or undefined when it is in use. */
function usePrebuilt(here, prebuilt, libtorch) {
  const reason = whyNotPrebuilt(here, prebuilt, libtorch.version);
  if (reason !== undefined) return reason;
  linkLibtorch(here, libtorch.root);
  const failure = whyNotLoading(prebuilt.file);
  if (failure !== undefined) return failure;
  rmSync(join(here, 'build', 'Release'), { recursive: true, force: true });
  finish(here, libtorch, prebuilt.file);
  return undefined;
}

async function useCompiled(here, libtorch, log) {
  await compileAddon({
    here,
    libtorch: libtorch.root,
    output: compiledFile(here),
    objects: join(here, 'build', 'objects'),
    log,
  });
  linkLibtorch(here, libtorch.root);
  const failure = whyNotLoading(compiledFile(here));
  if (failure !== undefined) {
    throw new Error(
      `Expected the compiled addon to load but received: ${failure}\nThe libtorch in ${libtorch.root} (${libtorch.version}) is incomplete or of another system. Correct LIBTORCH or repair that PyTorch; with neither, the pinned version is fetched.`,
    );
  }
  finish(here, libtorch, compiledFile(here));
}

/**
 * Returns a line that says what was done; `log` gets lines on the way.
 *
 * @throws when libtorch cannot be had or the addon does not compile, with the cure.
 */
export async function buildAddon(log = console.log, here = package_) {
  checkHost();
  if (isReady(here)) return 'native addon: up to date';
  const prebuilt = readPrebuilt(here);
  const compiler = findCompiler();
  const unfit = prebuilt && whyNotPrebuilt(here, prebuilt, undefined);
  if (compiler === undefined && (prebuilt === undefined || unfit !== undefined)) {
    if (unfit) log(`The prebuilt addon does not fit: ${unfit}.`);
    throw explainFailure({ missing: true });
  }
  for await (const libtorch of libtorchCandidates(log)) {
    log(`libtorch ${libtorch.version} (${libtorch.source}) in ${libtorch.root}`);
    const reason = prebuilt ? usePrebuilt(here, prebuilt, libtorch) : 'there is none';
    if (reason === undefined) return `native addon: prebuilt for libtorch ${prebuilt.libtorch}`;
    if (prebuilt) log(`The prebuilt addon does not fit: ${reason}.`);
    if (compiler !== undefined) {
      const started = Date.now();
      log(`compiling the native addon with ${compiler.version} (two to ten minutes on two cores)`);
      await useCompiled(here, libtorch, log);
      return `native addon: compiled in ${((Date.now() - started) / 1000).toFixed(0)} s`;
    }
    log(`There is no compiler to build the addon for libtorch ${libtorch.version}.`);
  }
  throw explainFailure({ missing: true });
}

if (process.argv[1] && realpathSync(process.argv[1]) === fileURLToPath(import.meta.url)) {
  try {
    console.log(await buildAddon());
  } catch (error) {
    console.error(error.message);
    process.exitCode = 1;
  }
}
