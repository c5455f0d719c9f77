/**
 * Fetches libtorch with everything it needs to load. PyTorch's wheel, and for a CUDA build the NVIDIA packages that the
 * wheel's own METADATA asks for, unpacked beside it where its libraries look for them. Node downloads; pip does where
 * Node cannot reach an index.
 */
import { existsSync, mkdirSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { cacheFolder, glibcVersion, macosVersion, platformOf } from '../host.mjs';
import { download, hashOf, sizeText } from './download.mjs';
import { chooseWheel, listFiles, parseWheelName } from './index.mjs';
import { withLock } from './lock.mjs';
import { BUILDS, PYTHON, SHA256 } from './pinned.mjs';
import { pipDownload } from './pip.mjs';
import { requirementsOf } from './requirement.mjs';
import { readEntry, unpack } from './unpack.mjs';

/** The wheel by Node: found in the first index that has it. */
async function byNode({ name, specifier, local, plain, indexes, folder, log }) {
  const where = {
    specifier,
    local,
    plain,
    platform: platformOf(),
    system: macosVersion() ?? glibcVersion(),
    python: PYTHON,
  };
  const failures = [];
  for (const index of indexes) {
    try {
      const wheel = chooseWheel(await listFiles(index, name), where);
      if (wheel === undefined) {
        failures.push(`${index} has no ${name}${specifier} for ${where.platform}`);
        continue;
      }
      const pinned = SHA256[wheel.file];
      if (pinned && wheel.sha256 && pinned !== wheel.sha256) {
        throw new Error(`Expected the SHA-256 ${pinned} for ${wheel.file} but ${index} lists ${wheel.sha256}`);
      }
      const sha256 = pinned ?? wheel.sha256;
      if (sha256 === undefined) throw new Error(`${index} lists no SHA-256 for ${wheel.file}, so it cannot be checked`);
      log(
        `fetching ${wheel.file}${wheel.size ? ` (${sizeText(wheel.size)})` : ''} from ${new URL(wheel.url).host || 'disk'}`,
      );
      const file = join(folder, wheel.file);
      await download({ url: wheel.url, file, sha256, label: wheel.file, log });
      return { file, checked: pinned ? 'pinned' : 'index', sha256 };
    } catch (error) {
      if (error.local) throw error;
      failures.push(error.message);
    }
  }
  throw new Error(failures.join('; '));
}

async function byPip({ name, specifier, indexes, interpreter, folder, log }) {
  log(`fetching ${name}${specifier} with pip`);
  const index = name === 'torch' ? indexes[0] : undefined;
  const found = pipDownload({
    interpreter,
    requirement: `${name}${specifier}`,
    folder,
    platform: platformOf(),
    python: PYTHON,
    index,
  });
  const file = join(folder, found);
  const sha256 = await hashOf(file);
  const pinned = SHA256[found];
  if (pinned !== undefined && pinned !== sha256) {
    rmSync(file);
    throw new Error(
      `Expected the SHA-256 ${pinned} for ${found} but pip fetched a file with ${sha256}. It has been deleted.`,
    );
  }
  return { file, checked: pinned ? 'pinned' : 'pip', sha256 };
}

/** Fetches one wheel into `folder`: `{ file, checked, sha256, bytes }`; `checked` says whose hash it was compared with. */
async function fetchWheel(request) {
  const { interpreter, log } = request;
  let wheel;
  try {
    wheel = await byNode(request);
  } catch (error) {
    if (!interpreter || error.local) throw error;
    log(`Node could not fetch ${request.name}: ${error.message}`);
    try {
      wheel = await byPip(request);
    } catch (second) {
      throw new Error(`${error.message}; pip: ${second.message}`);
    }
  }
  return { ...wheel, bytes: statSync(wheel.file).size };
}

/** What libtorch needs of a wheel: its libraries, headers and licences. */
const wantedOf = (name) => (path) =>
  name === 'torch'
    ? /^torch\/(lib|include)\/|^torch\.libs\/|\.dist-info\/(METADATA|licenses\/)/.test(path)
    : (path.startsWith('nvidia/') && !path.endsWith('.a')) || /\.dist-info\/(METADATA|licenses\/)/.test(path);

const isNvidia = (name) => name.startsWith('nvidia-') || name === 'cuda-toolkit';
const CHECKED = {
  pinned: 'the pinned SHA-256 is right',
  index: 'the SHA-256 is the one that the index lists (none is pinned for this file)',
  pip: 'pip fetched it from an index of its own (no SHA-256 is pinned for this file)',
};

/** The NVIDIA packages that a wheel needs, with those that they need: fetched one after the other, `{ name: wheel }`. */
async function fetchNvidia(torch, request) {
  const wheels = new Map();
  const asked = new Set();
  const waiting = await nvidiaRequirements(torch.file, []);
  for (let next = waiting.shift(); next !== undefined; next = waiting.shift()) {
    const key = `${next.name}[${next.extras}]`;
    if (asked.has(key)) continue;
    asked.add(key);
    if (!wheels.has(next.name)) {
      const wheel = await fetchWheel({ ...request, name: next.name, specifier: next.specifier, local: undefined });
      request.log(`${parseWheelName(basename(wheel.file)).name} ${sizeText(wheel.bytes)}: ${CHECKED[wheel.checked]}`);
      wheels.set(next.name, wheel);
    }
    waiting.push(...(await nvidiaRequirements(wheels.get(next.name).file, next.extras)));
  }
  return wheels;
}

async function nvidiaRequirements(file, extras) {
  const metadata = await readEntry(file, /^[^/]+\.dist-info\/METADATA$/);
  if (metadata === undefined) throw new Error(`Expected METADATA in ${file} but it is not there`);
  return requirementsOf(metadata, { platform: platformOf(), python: PYTHON, extras }).filter(({ name }) =>
    isNvidia(name),
  );
}

/**
 * Fetches libtorch `version` of a build (`cpu`, `cu130`) into the folder `target`, under a temporary name until it is complete: `torch/lib`,
 * `torch/include`, for CUDA `nvidia/…`, and `libtorch.json`, which lists the wheels with their hashes.
 *
 * @param {{ version: string, build: string, target: string, indexes?: string[], folder?: string, interpreter?: string, log(line: string): void }} request
 * @throws with the reasons when a wheel cannot be had or its SHA-256 is wrong.
 */
export async function fetchLibtorch({
  version,
  build,
  target,
  indexes = BUILDS[build].indexes,
  folder = join(cacheFolder(), 'downloads'),
  interpreter,
  log,
}) {
  await withLock(`${target}.lock`, log, async () => {
    if (existsSync(join(target, 'libtorch.json'))) return;
    mkdirSync(folder, { recursive: true });
    const request = { indexes, folder, interpreter, log };
    const torch = await fetchWheel({
      ...request,
      name: 'torch',
      specifier: `==${version}`,
      local: build,
      plain: BUILDS[build].plain,
    });
    log(`torch ${version} ${sizeText(torch.bytes)}: ${CHECKED[torch.checked]}`);
    const needed = await nvidiaRequirements(torch.file, []);
    if (build === 'cpu' && needed.length > 0) {
      rmSync(torch.file);
      throw new Error(
        `Expected the CPU build of torch ${version} but the index gave a CUDA build. Set LIBTORCH_INDEX to an index with the CPU build, or LIBTORCH_BUILD to a CUDA build`,
      );
    }
    const wheels = new Map([['torch', torch], ...(needed.length > 0 ? await fetchNvidia(torch, request) : [])]);
    const temporary = `${target}.${process.pid}.tmp`;
    rmSync(temporary, { recursive: true, force: true });
    try {
      let unpacked = 0;
      for (const [name, { file }] of wheels) unpacked += (await unpack(file, temporary, wantedOf(name))).bytes;
      const sizes = [...wheels.values()].reduce((sum, { bytes }) => sum + bytes, 0);
      log(
        `unpacked ${wheels.size} ${wheels.size === 1 ? 'wheel' : 'wheels'} (${sizeText(sizes)}) to ${sizeText(unpacked)} in ${target}`,
      );
      const list = [...wheels.values()].map(({ file, sha256, checked, bytes }) => ({
        file: basename(file),
        sha256,
        checked,
        bytes,
      }));
      writeFileSync(
        join(temporary, 'libtorch.json'),
        `${JSON.stringify({ version, build, unpacked, wheels: list }, null, 2)}\n`,
      );
      rmSync(target, { recursive: true, force: true });
      renameSync(temporary, target);
    } finally {
      rmSync(temporary, { recursive: true, force: true });
    }
    for (const { file } of wheels.values()) rmSync(file, { force: true });
  });
}
