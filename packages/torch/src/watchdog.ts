/**
 * Watches the processes of a group. From native threads that run while JavaScript waits: it names who holds the others up, and ends this
 * process after another one failed.
 */
import { native } from './native.js';
import { guard } from './tensor.js';

/** What the watchdog says, with numbered holes. `texts` of `startWatch` has the same in the words of another language. */
export const WATCH_TEXTS = [
  'rank {1} ({2})',
  'the start',
  '{1} has not answered for {2} s, last at {3}',
  '{1} is at {2} since {3} s',
  '{1}, which serves the store, has not answered for {2} s; rank {3} waits at {4}.',
  'all ranks wait at {1} since {2} s: look at the network between them.',
  'rank {1} waits at {2}.',
  'ranks {1} wait at {2}.',
  '{1} failed:',
  'error: {1}, which serves the store, is gone.',
] as const;

export interface WatchOptions {
  /** Where the store is served. */
  readonly host: string;
  readonly port: number;
  /** How long to try to connect to it, in milliseconds. */
  readonly timeout: number;
  /** Before the names of its entries in the store: `alive/<rank>`, `failed`, `told`. */
  readonly prefix: string;
  readonly rank: number;
  /** The name of each rank's machine. All have met: who says nothing from now on does not answer. */
  readonly machines: readonly string[];
  /** Between two words to the others, in milliseconds. */
  readonly interval: number;
  /** A wait that is longer than this is reported, in milliseconds. */
  readonly patience: number;
  /** What it says, in the order of `WATCH_TEXTS`. */
  readonly texts?: readonly string[];
}

/**
 * Ends this process when the other end of an inherited socket is closed: when the process that holds it is gone. What the watchdog says goes
 * there from then on, as lines of JSON (`kind`, `text`, `code`), and no longer to standard error.
 */
export function watchLauncher(socket: number): void {
  native.watchLauncher(socket);
}

/**
 * Starts to watch; one watchdog in a process. The entry `failed` that any process makes in the store (lines with its exit code, its rank and its machine,
 * then what it printed) ends this one a second later with that code, even while it waits in native code.
 *
 * @throws TorchError when the store cannot be reached
 */
export function startWatch(options: WatchOptions): void {
  const { host, port, timeout, prefix, rank, machines, interval, patience, texts = WATCH_TEXTS } = options;
  guard(() => native.startWatch(host, port, timeout, prefix, rank, machines, interval, patience, texts));
}

/** Ends it: the others may end now, and so may the store. */
export function stopWatch(): void {
  native.stopWatch();
}

/**
 * Makes the entry `failed` for this process, unless another one made it before, and stops to watch. Returns whether it did; false, too, where
 * the store does not answer within `timeout` milliseconds.
 */
export function failWatched(entry: string, timeout: number): boolean {
  return native.failWatched(entry, timeout);
}

/** Tells the watchdog where this process is: a step and a block, or the record that it waits for. */
export function watchAt(where: string): void {
  native.watchAt(where);
}

/** Who of the other processes does not answer, and where it was last; empty: all do, or it is not known. In the words of `texts`. */
export function watchSilent(): string {
  return native.watchSilent();
}
