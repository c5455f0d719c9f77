/** Unpacks parts of a wheel as a stream. A wheel is a zip file; single entries can be read, too. */
import { createWriteStream, mkdirSync, statfsSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { promisify } from 'node:util';
import yauzl from 'yauzl';
import { ELSEWHERE, localError, sizeText } from './download.mjs';

/** Calls `visit(entry, openStream)` for every file in the zip, one after the other. */
async function forEachEntry(path, visit) {
  try {
    await visitEntries(path, visit);
  } catch (cause) {
    if (cause.code !== undefined && !/^(Z_|ERR_ZLIB)/.test(cause.code)) throw cause; // the disk's
    throw new Error(
      `Expected a whole zip file in ${path} but received a damaged one: ${cause.message.slice(0, 200)}.`,
      { cause },
    );
  }
}

async function visitEntries(path, visit) {
  const zip = await promisify(yauzl.open)(path, { lazyEntries: true, autoClose: false });
  const openEntry = promisify(zip.openReadStream.bind(zip));
  // the reader hears of the first error; a damaged entry has others after it, which would end the process
  const openStream = async (entry) => (await openEntry(entry)).on('error', () => {});
  try {
    await new Promise((resolve, reject) => {
      zip.on('error', reject);
      zip.on('end', resolve);
      zip.on('entry', (entry) => {
        const visited = entry.fileName.endsWith('/') ? undefined : visit(entry, () => openStream(entry));
        Promise.resolve(visited).then(() => zip.readEntry(), reject);
      });
      zip.readEntry();
    });
  } finally {
    zip.close();
  }
}

/** The text of the first entry whose name fits; undefined without. */
export async function readEntry(path, pattern) {
  let text;
  await forEachEntry(path, async (entry, open) => {
    if (text !== undefined || !pattern.test(entry.fileName)) return;
    const chunks = [];
    for await (const chunk of await open()) chunks.push(chunk);
    text = Buffer.concat(chunks).toString('utf8');
  });
  return text;
}

/**
 * Unpacks the entries that `wanted(name)` picks into `target` and returns `{ files, bytes }`.
 *
 * @throws when the disk has too little room, before anything is written. Names that lead out of `target` are refused by the zip reader.
 */
export async function unpack(path, target, wanted) {
  let files = 0;
  let bytes = 0;
  await forEachEntry(path, (entry) => {
    if (wanted(entry.fileName)) bytes += entry.uncompressedSize;
  });
  mkdirSync(target, { recursive: true });
  const { bavail, bsize } = statfsSync(target);
  if (bavail * bsize < bytes) {
    throw localError(
      `Expected ${sizeText(bytes)} free on the disk of ${target} to unpack ${path} but there are ${sizeText(bavail * bsize)}. ${ELSEWHERE}`,
    );
  }
  await forEachEntry(path, async (entry, open) => {
    if (!wanted(entry.fileName)) return;
    const file = join(target, entry.fileName);
    mkdirSync(dirname(file), { recursive: true });
    await pipeline(await open(), createWriteStream(file));
    files++;
  });
  return { files, bytes };
}
