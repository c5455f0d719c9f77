/** The processes of a run. Which one this is, and how it reaches the others. */
import { hostname, networkInterfaces } from 'node:os';
import { ENGLISH, type Say } from '@minicpm-finetune/run';
import {
  about,
  failWatched,
  type Group,
  joinGroup,
  Store,
  setThreads,
  soloGroup,
  startWatch,
  stopWatch,
  threads,
  WATCH_TEXTS,
  watchAt,
  watchLauncher,
  watchSilent,
} from '@minicpm-finetune/torch';
import { compareFacts, type Facts } from './hello.js';
import { openTo } from './listening.js';
import { listenAt, masterAddress, waitForMaster } from './master.js';

/** This process among those of a run. */
export interface Ranks extends Disposable {
  readonly rank: number;
  readonly size: number;
  /** Among the processes of this machine. */
  readonly localRank: number;
  readonly localSize: number;
  /** The machine's name. */
  readonly host: string;
  readonly group: Group;
  /** What all processes share beside tensors; null: alone. */
  readonly store: Store | null;
  /** Says where this process is, such as `step 12, llm.model.layers.4`, for the line about who holds the others up. Cheap. */
  at(where: string): void;
  /** Who of the others does not answer, as a sentence; empty: all do, or it is not known. */
  silent(): string;
  /** Tells the others that this process fails, and what it printed; they end with its exit code. False: another one failed first. */
  fail(printed: string, code: number): boolean;
}

/** The place of a process in a run, as it is known before it joins. */
export interface Place {
  readonly rank: number;
  readonly size: number;
  readonly localRank: number;
  readonly localSize: number;
  /** Where the store is served, by rank 0 unless `served`. */
  readonly masterAddr: string;
  readonly masterPort: number;
  /** A listening socket of that address, which rank 0 inherited. */
  readonly listening?: number;
  /** Whether who started the processes serves the store, as torchrun does. */
  readonly served?: boolean;
  /** Before every name in a store that others use, too. */
  readonly prefix?: string;
  /** A socket whose other end the launcher of this process holds. */
  readonly launcher?: number;
}

export interface JoinRanksOptions {
  /** How long to wait for another process in every operation, in milliseconds. */
  readonly timeout: number;
  /** How long to wait until all have come; `timeout` unless given, at most ten minutes. */
  readonly joinTimeout?: number;
  /** Where the tensors of the ranks are; those on `cuda` travel between GPUs. The CPU unless given. */
  readonly device?: string;
  /** What has to be equal on all ranks. */
  readonly facts: Facts;
  /** Gets a line about what is waited for. */
  readonly notice: (line: string) => void;
  /** The language of what the watchdog says; English unless given. */
  readonly say?: Say;
  /** Of the watchdog, in milliseconds. */
  readonly interval?: number;
  readonly patience?: number;
}

const TEN_MINUTES = 600_000;
/** A wait of less than a minute is named: the ranks exchange words for some intervals before. */
const INTERVAL = 2000;
const PATIENCE = 50_000;
/** How long the process that serves the store stays for the others, in milliseconds. */
const LEAVING = 30_000;
const FAILING = 2000;
const POLL = 20;

/** A run of this process alone. */
export function soloRanks(): Ranks {
  const group = soloGroup();
  return {
    ...{ rank: 0, size: 1, localRank: 0, localSize: 1, host: hostname(), group, store: null },
    at: () => {},
    silent: () => '',
    fail: () => true,
    [Symbol.dispose]: () => group[Symbol.dispose](),
  };
}

/**
 * Joins the processes of a run. Returns when all have come, agree on `facts`, and are connected. Shares the cores out among the processes of
 * this machine. From then on the failure of one ends all (`fail`).
 *
 * @throws UserError when not all come in time, or one of them is another than it has to be
 */
export async function joinRanks(place: Place, options: JoinRanksOptions): Promise<Ranks> {
  const { rank, size, localSize, prefix = '', served = false } = place;
  const { timeout, notice, device = 'cpu' } = options;
  if (place.launcher !== undefined) watchLauncher(place.launcher);
  if (process.env.OMP_NUM_THREADS === undefined) setThreads(Math.max(1, Math.floor(threads() / localSize)));
  const limit = options.joinTimeout ?? Math.min(timeout, TEN_MINUTES);
  const server = rank === 0 && !served;
  const host = await masterAddress(place);
  const port = place.masterPort;
  const listening = server ? (place.listening ?? listenAt(host, port)) : undefined;
  if (!server) await waitForMaster(host, port, { rank, limit, notice });
  else if (place.launcher === undefined) notice(openTo(host, port));
  const store = new Store({ host, port, server, timeout, ...(listening !== undefined && { listening }) });
  try {
    const machines = await compareFacts(store, { rank, size, prefix, limit, notice, facts: options.facts, server });
    const { interval = INTERVAL, patience = PATIENCE, say = ENGLISH } = options;
    const texts = WATCH_TEXTS.map((text) => say(text));
    startWatch({ host, port, timeout, prefix, rank, machines, interval, patience, texts });
    const onGpus = device === 'cuda' && about().cuda;
    if (onGpus) process.env.NCCL_SOCKET_IFNAME ??= interfaceOf(store.ownAddress);
    const group = joinGroup({ store, name: `${prefix}world`, rank, size, timeout, ...(onGpus && { device }) });
    return new Joined(place, group, store, server);
  } catch (error) {
    stopWatch();
    store.close();
    throw error;
  }
}

/** The network interface that has an address, as NCCL takes the name: it listens there and nowhere else. */
function interfaceOf(address: string): string {
  const found = Object.entries(networkInterfaces()).find(([, all]) => all?.some((one) => one.address === address));
  return found === undefined ? '' : `=${found[0]}`;
}

class Joined implements Ranks {
  readonly rank: number;
  readonly size: number;
  readonly localRank: number;
  readonly localSize: number;
  readonly host = hostname();
  readonly group: Group;
  readonly store: Store;
  readonly #server: boolean;
  readonly #prefix: string;
  #failed = false;
  #left = false;

  constructor({ rank, size, localRank, localSize, prefix = '' }: Place, group: Group, store: Store, server: boolean) {
    [this.rank, this.size, this.localRank, this.localSize] = [rank, size, localRank, localSize];
    [this.group, this.store, this.#server, this.#prefix] = [group, store, server, prefix];
  }

  at(where: string): void {
    watchAt(where);
  }

  silent(): string {
    return watchSilent();
  }

  fail(printed: string, code: number): boolean {
    this.#failed = true;
    return failWatched([code, this.rank, this.host, printed].join('\n'), FAILING);
  }

  /** Leaves when all others do; after a failure, when they know of it. */
  [Symbol.dispose](): void {
    if (this.#left) return;
    this.#left = true;
    try {
      if (this.#failed) {
        if (this.#server) this.#untilAll('told', this.size - 1, FAILING);
      } else {
        this.group.barrier('the end');
        stopWatch();
        this.store.add(`${this.#prefix}left`, 1);
        if (this.#server) this.#untilAll('left', this.size, LEAVING);
      }
    } finally {
      stopWatch();
      this.group[Symbol.dispose]();
      this.store.close();
    }
  }

  #untilAll(counter: string, count: number, limit: number): void {
    const end = performance.now() + limit;
    while (this.store.add(this.#prefix + counter, 0) < count && performance.now() < end)
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, POLL);
  }
}
