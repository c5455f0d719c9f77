/**
 * Locks: one process owns a run folder or an output file. A lock is a small file that says who holds it; it appears whole or not at all,
 * and is removed at the end. A process that was killed leaves its file behind: the next one sees that its holder is gone and takes over,
 * one of several that try at once.
 *
 * Whether the holder is there is known on its own machine (process id and start of the process, boot of the machine). The holder on
 * another machine cannot be looked at, so its lock stays until a person removes it. No clock decides anything.
 */
import { randomBytes } from 'node:crypto';
import {
  closeSync,
  existsSync,
  fstatSync,
  fsyncSync,
  linkSync,
  openSync,
  readdirSync,
  readFileSync,
  realpathSync,
  rmdirSync,
  rmSync,
  writeSync,
} from 'node:fs';
import { basename, dirname, join, resolve } from 'node:path';
import { isGone, type LockHolder, self } from './lock-holder.js';
import { UserError } from './user-error.js';

export interface LockOptions {
  /** What is owned, as a message names it: the path that was given. */
  readonly what: string;
  /** The flag that names it, with its dashes. */
  readonly flag?: string;
}

const ID = /^[0-9a-f]{24}$/;
/** What may lie beside a lock, after its name and a dot: temporary files, and locks of locks. */
const BESIDE = /^([0-9a-f]{24}\.)*[0-9a-f]{24}(\.tmp)?$/;
const SHOWN_COMMAND = 80;
/** Another process makes or takes over the lock at this moment: milliseconds between two looks, and looks. */
const PAUSE = 20;
const LOOKS = 250;
/** Looks after which a file that is no whole lock is another's file, and not a lock that is being written. */
const LOOKS_AT_UNKNOWN = 5;
/** A lock that this process holds, until `release` or the end of a `using` block. */
export class FileLock {
  readonly path: string;
  readonly #id: string;

  /** Made by `takeLock`. */
  constructor(path: string, id: string) {
    this.path = path;
    this.#id = id;
  }

  /** Removes the file, if it still is this lock (the folder may have been removed meanwhile). */
  release(): void {
    if (readHolder(this.path)?.id === this.#id) rmSync(this.path, { force: true });
  }

  [Symbol.dispose](): void {
    this.release();
  }
}

/**
 * Makes the lock file `path`, whose folder must be there.
 *
 * @throws UserError saying who holds it, that the file is no lock, or that none can be written there
 */
export function takeLock(path: string, options: LockOptions): FileLock {
  for (let look = 0; look < LOOKS; look++) {
    const id = randomBytes(12).toString('hex');
    if (create(path, id, options)) {
      sweep(path);
      return new FileLock(path, id);
    }
    const holder = readHolder(path);
    if (holder === undefined) continue; // released at this moment
    if (holder === null) {
      if (look >= LOOKS_AT_UNKNOWN) throw noLock(path, options);
      pause();
      continue;
    }
    if (!isGone(holder, path)) throw inUse(holder, path, options);
    if (!remove(holder, path, options)) pause();
  }
  throw new UserError(`Expected to take over ${options.what} but other processes take it over all the time.`, {
    file: path,
    ...flagOf(options),
    cure: 'Start one process after the other.',
  });
}

/** The lock of an output file, or of a folder that is made when it is whole: beside it, the same however its path is written. */
export function lockOf(path: string): string {
  const real = existsSync(path) ? realpathSync(path) : join(realpathSync(dirname(resolve(path))), basename(path));
  return `${real}.lock`;
}

/** Removes a folder and those around it up to `top`, as long as they are empty. */
export function removeEmpty(folder: string, top: string): void {
  for (let path = resolve(folder); path.startsWith(resolve(top)); path = dirname(path)) {
    if (!existsSync(path)) continue;
    if (readdirSync(path).length > 0) return;
    rmdirSync(path);
  }
}

/** Throws as `takeLock` does if another process holds the lock, and changes nothing. */
export function requireUnlocked(path: string, options: LockOptions): void {
  const holder = lockHolder(path);
  if (holder !== undefined) throw inUse(holder, path, options);
}

/** Who holds a lock, or undefined if nobody does: what is left of a process that was killed counts as nobody. */
export function lockHolder(path: string): LockHolder | undefined {
  const holder = readHolder(path);
  return holder && !isGone(holder, path) ? holder : undefined;
}

/** Writes the file aside and gives it its name, which fails if there is one. False: there is one. */
function create(path: string, id: string, options: LockOptions): boolean {
  const temporary = `${path}.${id}.tmp`;
  try {
    writeHolder(temporary, path, id);
    try {
      linkSync(temporary, path);
      return true;
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException;
      if (code === 'EEXIST' || code === 'ENOENT') return false; // ENOENT: another process swept the temporary file
      if (code !== 'EPERM' && code !== 'ENOTSUP' && code !== 'ENOSYS' && code !== 'EMLINK') throw error;
      return createWithoutLinks(path, id); // a disk without hard links
    }
  } catch (cause) {
    throw new UserError(`Expected to write in ${dirname(path)} but received: ${(cause as Error).message}.`, {
      file: path,
      ...flagOf(options),
      cure: 'Name a folder that can be written, on a disk with free space.',
      cause,
    });
  } finally {
    rmSync(temporary, { force: true });
  }
}

function createWithoutLinks(path: string, id: string): boolean {
  try {
    writeHolder(path, path, id);
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EEXIST') return false;
    throw error;
  }
}

function writeHolder(file: string, path: string, id: string): void {
  const descriptor = openSync(file, 'wx');
  try {
    const { ino: inode } = fstatSync(descriptor);
    const holder: LockHolder = { ...self(), id, path: join(realpathSync(dirname(path)), basename(path)), inode };
    writeSync(descriptor, `${JSON.stringify(holder, null, 2)}\n`);
    fsyncSync(descriptor); // else the file may be empty after a loss of power
  } finally {
    closeSync(descriptor);
  }
}

/** Undefined: there is no such file. Null: it is no lock. */
export function readHolder(path: string): LockHolder | null | undefined {
  let text: string;
  try {
    text = readFileSync(path, 'utf8');
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === 'EISDIR') return null;
    if (code === 'ENOENT' || code === 'ENOTDIR') return undefined;
    throw error;
  }
  try {
    const value = JSON.parse(text) as LockHolder;
    return Number.isInteger(value.pid) && typeof value.host === 'string' && ID.test(value.id) ? value : null;
  } catch {
    return null;
  }
}

/**
 * Removes the lock of a process that is gone. Only who holds the lock of that lock (`<path>.<id>`) may, and only while it still is there:
 * so nobody removes the lock that another process has just made in its place. False: another process is at it.
 */
function remove(gone: LockHolder, path: string, options: LockOptions): boolean {
  let guard: FileLock;
  try {
    guard = takeLock(`${path}.${gone.id}`, options);
  } catch (error) {
    if (error instanceof UserError && error.cause === undefined) return false;
    throw error;
  }
  try {
    if (readHolder(path)?.id === gone.id) rmSync(path);
    return true;
  } finally {
    guard.release();
  }
}

/** Removes what processes that were killed while they took the lock left beside it. */
function sweep(path: string): void {
  const start = `${basename(path)}.`;
  for (const name of readdirSync(dirname(path))) {
    if (!name.startsWith(start) || !BESIDE.test(name.slice(start.length))) continue;
    const file = join(dirname(path), name);
    const holder = readHolder(file);
    if (holder === null || (holder !== undefined && isGone(holder, file))) rmSync(file, { force: true });
  }
}

function pause(): void {
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, PAUSE);
}

const flagOf = ({ flag }: LockOptions): { flag?: string } => (flag === undefined ? {} : { flag });

/** Process 1234 on this machine since 2026-01-31 12:00:00 UTC (minicpm-finetune train …). */
function describeHolder({ pid, host, machine, since, command }: LockHolder): string {
  const own = self();
  const where = host === own.host && machine === own.machine ? 'this machine' : host;
  const time = `${since.slice(0, 19).replace('T', ' ')} UTC`;
  const cut = command.length > SHOWN_COMMAND ? `${command.slice(0, SHOWN_COMMAND)}…` : command;
  return `process ${pid} on ${where} since ${time} (${cut})`;
}

function inUse(holder: LockHolder, path: string, options: LockOptions): UserError {
  const own = self();
  const here = holder.host === own.host && holder.machine === own.machine && holder.namespace === own.namespace;
  return new UserError(`Expected one process but ${options.what} is in use by ${describeHolder(holder)}.`, {
    ...flagOf(options),
    cure: here
      ? `Wait until it has ended, or end it with \`kill ${holder.pid}\`. If that process does not use it, delete ${path}.`
      : `Wait until it has ended. From here nobody can see whether it still runs: if it has ended, delete ${path}.`,
  });
}

function noLock(path: string, options: LockOptions): UserError {
  return new UserError(`Expected no file, or the lock of a process, but received ${path}, which is something else.`, {
    file: path,
    ...flagOf(options),
    cure: 'Move the file away: while it is in use, a file of this name is made there.',
  });
}
