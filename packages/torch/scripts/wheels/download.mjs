/**
 * Downloads one file, resumable and verified. It resumes an earlier try, shows its progress, and keeps a temporary name
 * until its SHA-256 is right.
 */
import { createHash } from 'node:crypto';
import { createReadStream, createWriteStream, existsSync, mkdirSync, renameSync, rmSync, statSync } from 'node:fs';
import { dirname } from 'node:path';
import { Transform } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { fileURLToPath } from 'node:url';

/** Without a byte for so long, a connection is given up and opened again. */
const STALL_MS = 60_000;
/** Files below this many bytes come without lines of progress. */
const SMALL = 20e6;
/** Tries in a row that bring nothing. */
const TRIES = 5;

export const sizeText = (bytes) => (bytes >= 1e9 ? `${(bytes / 1e9).toFixed(2)} GB` : `${(bytes / 1e6).toFixed(1)} MB`);

/** What to do when the cache folder cannot take more. */
export const ELSEWHERE = 'Free some space, or set XDG_CACHE_HOME to a folder on another disk.';
/** An error of this machine's disk: no other index and no pip can help. */
export const localError = (message, cause) => Object.assign(new Error(message, { cause }), { local: true });

/** The SHA-256 of a file, in hexadecimal. */
export async function hashOf(path) {
  const hash = createHash('sha256');
  await pipeline(createReadStream(path, { highWaterMark: 1 << 20 }), hash);
  return hash.digest('hex');
}

/** Opens `url` from byte `from` on: `{ body, from, total }`; a server that knows no ranges starts at 0. `total` may be undefined. */
async function open(url, from, signal) {
  if (url.startsWith('file:')) {
    const path = fileURLToPath(url);
    return { body: createReadStream(path, { start: from }), from, total: statSync(path).size };
  }
  const headers = { 'accept-encoding': 'identity', ...(from > 0 ? { range: `bytes=${from}-` } : {}) };
  const response = await fetch(url, { headers, signal });
  if (response.status === 416) return { body: null, from, total: from };
  if (!response.ok)
    throw Object.assign(new Error(`the server answered ${response.status} ${response.statusText}`), {
      final: response.status < 500 && response.status !== 429,
    });
  const range = /bytes (\d+)-\d+\/(\d+)/.exec(response.headers.get('content-range') ?? '');
  if (response.status === 206 && range) return { body: response.body, from: Number(range[1]), total: Number(range[2]) };
  const length = response.headers.get('content-length');
  return { body: response.body, from: 0, total: length === null ? undefined : Number(length) };
}

/** One connection: appends to `part` until the end. Returns whether the file is complete. */
async function receive(url, part, stallMs, onBytes) {
  const have = existsSync(part) ? statSync(part).size : 0;
  const stalled = new AbortController();
  let timer;
  const alive = () => {
    clearTimeout(timer);
    timer = setTimeout(() => stalled.abort(new Error(`no byte came for ${stallMs / 1000} s`)), stallMs);
  };
  alive();
  try {
    const { body, from, total } = await open(url, have, stalled.signal);
    if (body === null) return;
    if (from !== have && from !== 0)
      throw new Error(`Expected bytes from ${have} on but the server sent them from ${from}`);
    let received = from;
    const count = new Transform({
      transform(chunk, _, done) {
        alive();
        received += chunk.length;
        onBytes(received, total);
        done(null, chunk);
      },
    });
    await pipeline(body, count, createWriteStream(part, { flags: from === 0 ? 'w' : 'a' }), { signal: stalled.signal });
    if (total !== undefined && received < total)
      throw new Error(`the connection ended after ${received} of ${total} bytes`);
  } catch (error) {
    throw stalled.signal.aborted ? stalled.signal.reason : error;
  } finally {
    clearTimeout(timer);
  }
}

function progress(label, log) {
  let next = 10;
  let start;
  return (received, total) => {
    start ??= { time: Date.now(), received };
    if (!total || total < SMALL || (received * 100) / total < next) return;
    next = Math.floor((received * 10) / total) * 10 + 10;
    const seconds = (Date.now() - start.time) / 1000;
    const speed = seconds > 1 ? `, ${((received - start.received) / 1e6 / seconds).toFixed(1)} MB/s` : '';
    log(`${label}: ${Math.floor((received * 100) / total)} % of ${sizeText(total)}${speed}`);
  };
}

/**
 * Downloads `url` to `file` and returns its size in bytes. What came of an interrupted download lies in `<file>.part` and is resumed.
 *
 * @throws when `sha256` is not that of the file (which is then deleted), and when the server cannot be reached; what came is kept then.
 */
export async function download({ url, file, sha256, label, log, stallMs = STALL_MS, waitMs = 1000 }) {
  if (existsSync(file) && (await hashOf(file)) === sha256) return statSync(file).size;
  mkdirSync(dirname(file), { recursive: true });
  const part = `${file}.part`;
  const size = () => (existsSync(part) ? statSync(part).size : 0);
  if (size() > 0) log(`${label}: resuming after ${sizeText(size())}`);
  const report = progress(label, log);
  for (let tries = 1; ; tries++) {
    const before = size();
    try {
      await receive(url, part, stallMs, report);
      break;
    } catch (error) {
      const full = ['ENOSPC', 'EDQUOT', 'EACCES', 'EROFS'].includes(error.code);
      if (size() > before) tries = 0;
      const broke = ['UND_ERR_SOCKET', 'ECONNRESET'].includes(error.cause?.code ?? error.code);
      const said = broke ? 'the connection broke off' : (error.cause?.code ?? error.cause?.message ?? error.message);
      if (error.final || full || tries >= TRIES) {
        const kept = size() > 0 ? ` ${sizeText(size())} are kept and will be resumed.` : '';
        if (full)
          throw localError(
            `Expected ${dirname(file)} to take ${label} but received: ${said}.${kept} ${ELSEWHERE}`,
            error,
          );
        throw new Error(`Expected to download ${url} but it failed: ${said}.${kept}`, { cause: error });
      }
      log(`${label}: ${said}; trying again`);
      await new Promise((resolve) => setTimeout(resolve, waitMs * 2 ** tries));
    }
  }
  const found = await hashOf(part);
  if (found !== sha256) {
    const bytes = size();
    rmSync(part);
    throw new Error(
      `Expected the SHA-256 ${sha256} for ${url} but received ${found} (${sizeText(bytes)}). The file was changed on the way or in the index; it has been deleted. Try again, from another network if it comes again.`,
    );
  }
  renameSync(part, file);
  return statSync(file).size;
}
