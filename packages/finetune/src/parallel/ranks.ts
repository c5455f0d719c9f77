/** The processes of a run: which one this is, and how it reaches the others. */
import { hostname } from 'node:os';
import { type Group, joinGroup, Store, soloGroup } from '@minicpm-finetune/torch';

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
}

/** The place of a process in a run, as it is known before it joins. */
export interface Place {
  readonly rank: number;
  readonly size: number;
  readonly localRank: number;
  readonly localSize: number;
  /** Where rank 0 serves the store. */
  readonly masterAddr: string;
  readonly masterPort: number;
  /** A listening socket of that address, which rank 0 inherited. */
  readonly listening?: number;
}

export interface JoinRanksOptions {
  /** How long to wait for the other processes, here and in every operation, in milliseconds. */
  readonly timeout: number;
}

/** A run of this process alone. */
export function soloRanks(): Ranks {
  const group = soloGroup();
  const alone = { rank: 0, size: 1, localRank: 0, localSize: 1, host: hostname(), group, store: null };
  return { ...alone, [Symbol.dispose]: () => group[Symbol.dispose]() };
}

/**
 * Joins the processes of a run. Returns when all are connected.
 *
 * @throws TorchError when not all come within the timeout
 */
export async function joinRanks(place: Place, { timeout }: JoinRanksOptions): Promise<Ranks> {
  const { rank, size, localRank, localSize, masterAddr, masterPort, listening } = place;
  const server = rank === 0;
  const store = new Store({
    host: masterAddr,
    port: masterPort,
    server,
    timeout,
    ...(server && listening !== undefined && { listening }),
  });
  const group = joinGroup({ store, name: 'world', rank, size, timeout });
  const leave = (): void => {
    group[Symbol.dispose]();
    store.close();
  };
  return { rank, size, localRank, localSize, host: hostname(), group, store, [Symbol.dispose]: leave };
}
