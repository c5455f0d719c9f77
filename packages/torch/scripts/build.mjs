/**
 * Makes the native addon ready: finds libtorch (or fetches it), then takes the prebuilt addon if that fits, else compiles. Does nothing when
 * all is as it was. npm runs this when the package is installed; in a clone `npm run setup` does.
 */
import {
  existsSync,
  mkdirSync,
  readFileSync,
  readlinkSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { dirname, join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import { compileAddon, findCompiler, sourcesHash } from './compile.mjs';
import { explainFailure } from './diagnose.mjs';
import { checkHost } from './host.mjs';
import { libtorchCandidates } from './libtorch.mjs';
import { readPrebuilt, whyNotPrebuilt } from './prebuilt.mjs';
import { PINNED } from './wheels/pinned.mjs';

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
    state.sources === sourcesHash(here) &&
    existsSync(join(here, state.addon)) &&
    linkTarget(here) === state.root &&
    existsSync(join(state.root, 'lib'))
  );
}

/** Lets `<package>/libtorch` point to the libtorch in use: the addon looks for its libraries there. */
function linkLibtorch(here, root) {
  const temporary = join(here, `.libtorch-${process.pid}`);
  rmSync(temporary, { force: true });
  symlinkSync(root, temporary);
  renameSync(temporary, join(here, 'libtorch'));
}

function finish(here, { root, version, source }, addon) {
  linkLibtorch(here, root);
  mkdirSync(dirname(stateFile(here)), { recursive: true });
  const state = {
    addon: relative(here, addon),
    root,
    version,
    source,
    LIBTORCH: process.env.LIBTORCH ?? '',
    sources: sourcesHash(here),
  };
  writeFileSync(stateFile(here), `${JSON.stringify(state, null, 2)}\n`);
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
    const reason = prebuilt && whyNotPrebuilt(here, prebuilt, libtorch.version);
    if (prebuilt && reason === undefined) {
      rmSync(join(here, 'build', 'Release'), { recursive: true, force: true });
      finish(here, libtorch, prebuilt.file);
      return 'native addon: prebuilt';
    }
    if (prebuilt) log(`The prebuilt addon does not fit: ${reason}.`);
    if (compiler === undefined) {
      if (libtorch.given) throw explainFailure({ missing: true });
      log(`There is no compiler to build the addon for libtorch ${libtorch.version}; looking for libtorch ${PINNED}.`);
      continue;
    }
    const started = Date.now();
    log(`compiling the native addon with ${compiler.version} (about two minutes on two cores)`);
    await compileAddon({ here, libtorch: libtorch.root, output: compiledFile(here), log });
    finish(here, libtorch, compiledFile(here));
    return `native addon: compiled in ${((Date.now() - started) / 1000).toFixed(0)} s`;
  }
  throw explainFailure({ missing: true });
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  try {
    console.log(await buildAddon());
  } catch (error) {
    console.error(error.message);
    process.exitCode = 1;
  }
}
