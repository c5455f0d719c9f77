/**
 * The process that holds a lock. Whether it is there is known on its own machine (process id and start of the process, boot of the machine);
 * no clock decides.
 */
import { execFileSync } from 'node:child_process';
import { readFileSync, readlinkSync, realpathSync, statSync } from 'node:fs';
import { hostname } from 'node:os';
import { basename, dirname, join } from 'node:path';

/** What a lock file says about the process that made it. */
export interface LockHolder {
  readonly pid: number;
  /** When the process started, as the system counts it; it tells a process from a later one of the same id. Null: not known. */
  readonly start: string | null;
  readonly host: string;
  /** /etc/machine-id: two machines may have one name. */
  readonly machine: string | null;
  /** Another one: the machine was started again, and no process of before is there. */
  readonly boot: string | null;
  /** The process ids' namespace: a container counts its processes by itself. */
  readonly namespace: string | null;
  /** For people. */
  readonly since: string;
  readonly command: string;
  /** Tells this lock from every other. */
  readonly id: string;
  /** Where the lock was made, and its inode: both are others in a copy of the folder. */
  readonly path: string;
  readonly inode: number;
}

/** The namespace of host names of the machine itself; a container with a name of its own has another. */
const HOST_NAMES = 'uts:[4026531838]';

/** Whether the process that made a lock is surely not there any more. */
export function isGone(holder: LockHolder, path: string): boolean {
  const own = self();
  if (holder.host !== own.host || holder.machine !== own.machine) return false;
  if (holder.boot !== own.boot) return true;
  // a container of the same name was started again, unless containers share the machine's name
  if (holder.namespace !== own.namespace) return linkOf('/proc/self/ns/uts') !== HOST_NAMES;
  if (isCopy(holder, path)) return true;
  const process = processOf(holder.pid);
  return process === undefined || (process.start !== null && holder.start !== null && process.start !== holder.start);
}

/** A folder that was copied while it was in use: the process owns the other one. */
function isCopy(holder: LockHolder, path: string): boolean {
  const status = statSync(path, { throwIfNoEntry: false });
  if (status === undefined || status.ino === holder.inode) return false;
  return join(realpathSync(dirname(path)), basename(path)) !== holder.path;
}

let made: Omit<LockHolder, 'id' | 'path' | 'inode'> | undefined;

/** This process, as a lock that it makes describes it. */
export function self(): Omit<LockHolder, 'id' | 'path' | 'inode'> {
  made ??= {
    pid: process.pid,
    start: processOf(process.pid)?.start ?? null,
    host: hostname(),
    machine: textOf('/etc/machine-id'),
    boot: textOf('/proc/sys/kernel/random/boot_id') ?? printed('sysctl', '-n', 'kern.bootsessionuuid'),
    namespace: linkOf('/proc/self/ns/pid'),
    since: '',
    command: [basename(process.argv[1] ?? 'node').replace(/\.js$/, ''), ...process.argv.slice(2)].join(' '),
  };
  return { ...made, since: new Date().toISOString() };
}

/** A running process, and when it started; undefined: there is none. One that ended and was not waited for is none. */
export function processOf(pid: number): { start: string | null } | undefined {
  const stat = textOf(`/proc/${pid}/stat`);
  if (stat !== null) {
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' '); // the name before may hold spaces and brackets
    return fields[0] === 'Z' || fields[0] === 'X' ? undefined : { start: fields[19] ?? null };
  }
  try {
    process.kill(pid, 0);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ESRCH') return undefined;
  }
  return { start: printed('ps', '-o', 'lstart=', '-p', String(pid)) };
}

function textOf(file: string): string | null {
  try {
    return readFileSync(file, 'utf8').trim();
  } catch {
    return null;
  }
}

function linkOf(file: string): string | null {
  try {
    return readlinkSync(file);
  } catch {
    return null;
  }
}

function printed(program: string, ...words: string[]): string | null {
  try {
    const env = { ...process.env, LC_ALL: 'C' };
    return execFileSync(program, words, { encoding: 'utf8', env, stdio: ['ignore', 'pipe', 'ignore'] }).trim() || null;
  } catch {
    return null;
  }
}
