/**
 * Remembers what was computed from a file until it changes. Hashes of weights: kept in the user's cache folder, so that the
 * next command does not read 16 GB again.
 *
 * A file is taken for unchanged if its path, inode, size, time of content (mtime) and time of change (ctime) are the same. A program can
 * restore mtime, but not ctime: the system sets it at every write. So only file systems that are known to keep it are trusted; nothing
 * is remembered of a file that changed moments ago, when two writes could have one time; and the state before and after the computation
 * has to be the same. In every other case the content is read again.
 */
import { createHash } from 'node:crypto';
import {
  closeSync,
  fstatSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  realpathSync,
  renameSync,
  rmSync,
  statfsSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { homedir } from 'node:os';
import { join } from 'node:path';
import type { Steps } from './steps.js';

/** The user's cache folder of this project. */
export function cacheFolder(): string {
  const base =
    process.env.XDG_CACHE_HOME ||
    (process.platform === 'darwin' ? join(homedir(), 'Library', 'Caches') : join(homedir(), '.cache'));
  return join(base, 'minicpm-finetune');
}

/** Linux file systems whose ctime changes with every write, by their magic numbers. */
const KEEPS_CTIME: ReadonlySet<number> = new Set([
  0xef53, // ext2, ext3, ext4
  0x58465342, // xfs
  0x9123683e, // btrfs
  0x01021994, // tmpfs
  0x794c7630, // overlayfs
  0x2fc12fc1, // zfs
  0xf2f52010, // f2fs
  0x6969, // nfs: opening a file asks the server
  0x0bd00bd0, // lustre
  0x47504653, // gpfs
  0x00c36400, // ceph
]);

/** A file that changed less than this ago, or in the future, is not remembered; in milliseconds. */
const SETTLED = 3000;
/** What was not asked for as long as this is forgotten, in milliseconds. */
const KEPT = 90 * 24 * 3_600_000;

/**
 * The state of a file as the system tells it: any write changes it, and so does a copy. For questions like "was this file written meanwhile?"
 *
 * @throws the system's error for a file that cannot be opened
 */
export function fileState(path: string): string {
  return stateOf(path).text;
}

interface State {
  readonly text: string;
  /** Milliseconds since 1970. */
  readonly changed: number;
}

function stateOf(path: string): State {
  const file = openSync(path, 'r');
  try {
    const { ino, size, mtimeNs, ctimeNs } = fstatSync(file, { bigint: true });
    return { text: [ino, size, mtimeNs, ctimeNs].join(' '), changed: Number(ctimeNs / 1_000_000n) };
  } finally {
    closeSync(file);
  }
}

/**
 * What `compute` makes of the content of a file, or what it made when the file was as it is now.
 *
 * @param kind names the computation; another kind or another version of it is another name
 * @param compute reads the file; its result is stored as JSON
 */
export function* remembering<T>(kind: string, path: string, compute: () => Steps<T>): Steps<T> {
  const real = realpathSync(path);
  if (!keepsChangeTime(real)) return yield* compute();
  const folder = join(cacheFolder(), 'files', kind);
  const entry = join(folder, `${sha256(real)}.json`);
  const before = stateOf(real);
  const known = readEntry<T>(entry, real, before.text);
  if (known !== undefined) return known.value;
  const value = yield* compute();
  const age = Date.now() - before.changed;
  if (age > SETTLED && stateOf(real).text === before.text)
    writeEntry(folder, entry, { path: real, state: before.text, value });
  return value;
}

function keepsChangeTime(path: string): boolean {
  return process.platform === 'linux' && KEEPS_CTIME.has(statfsSync(path).type);
}

interface Entry<T> {
  readonly path: string;
  readonly state: string;
  readonly value: T;
}

const sha256 = (text: string): string => createHash('sha256').update(text).digest('hex');

/** The first line is the hash of the second one: a damaged entry is none. */
function readEntry<T>(entry: string, path: string, state: string): Entry<T> | undefined {
  let lines: string[];
  try {
    lines = readFileSync(entry, 'utf8').split('\n');
  } catch {
    return undefined; // not there, or not readable: to be computed
  }
  const [hash, text] = lines;
  if (hash === undefined || text === undefined || sha256(text) !== hash) return undefined;
  const found = JSON.parse(text) as Entry<T>;
  return found.path === path && found.state === state ? found : undefined;
}

/** A folder that cannot be written costs time only: the content is read again. */
function writeEntry(folder: string, entry: string, content: Entry<unknown>): void {
  const text = JSON.stringify(content);
  const temporary = `${entry}.${process.pid}.tmp`;
  try {
    mkdirSync(folder, { recursive: true });
    forgetOld(folder);
    try {
      writeFileSync(temporary, `${sha256(text)}\n${text}\n`);
      renameSync(temporary, entry);
    } finally {
      rmSync(temporary, { force: true });
    }
  } catch {
    // read again next time
  }
}

function forgetOld(folder: string): void {
  for (const name of readdirSync(folder)) {
    const file = join(folder, name);
    const status = statSync(file, { throwIfNoEntry: false });
    if (status !== undefined && Date.now() - status.mtimeMs > KEPT) rmSync(file, { force: true });
  }
}
