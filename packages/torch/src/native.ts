/**
 * Loads the native addon and types its functions.
 *
 * Not here: anything that knows what a tensor means. Tensors are numbers (handles) on this side of the border.
 */
import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';
import { addonFile, explainLoadFailure, explainMissing, factsOf } from './load-failure.js';

/** A tensor in the native table. 0 is never a tensor. */
export type Handle = number;
export interface Mapping {
  readonly mapping: unique symbol;
}

/** What a device was asked up to some moment. */
export interface Mark {
  readonly mark: unique symbol;
}

export interface Native {
  fromBytes(bytes: Uint8Array, shape: readonly number[], dtype: number, pinned: boolean): Handle;
  readBytes(handle: Handle, offset: number, target: Uint8Array): void;
  shape(handle: Handle): number[];
  dtype(handle: Handle): number;
  device(handle: Handle): string;
  isContiguous(handle: Handle): boolean;
  doubles(handle: Handle): Float64Array;
  item(handle: Handle): number | boolean;
  sameStorage(a: Handle, b: Handle): boolean;
  alias(handle: Handle): Handle;
  release(handle: Handle): void;
  live(): { tensors: number; bytes: number };

  resolve(name: string, overload: string): { index: number; names: string[] };
  call(index: number, ...args: unknown[]): unknown;

  grad(
    outputs: Handle[],
    inputs: Handle[],
    gradOutputs: (Handle | null)[] | null,
    retainGraph: boolean,
    createGraph: boolean,
  ): (Handle | null)[];
  requiresGrad(handle: Handle): boolean;
  setRequiresGrad(handle: Handle, value: boolean): void;
  setGradMode(enabled: boolean): boolean;
  manualSeed(seed: number, device: string | null): void;
  rngState(device: string): Handle;
  setRngState(device: string, state: Handle): void;

  dropStorage(handle: Handle): void;
  fillStorage(handle: Handle): void;
  hasStorage(handle: Handle): boolean;
  ownsStorage(handle: Handle): boolean;
  piece(flat: Handle, start: number, shape: readonly number[]): Handle;

  mapFile(path: string): Mapping;
  mappedTensor(mapping: Mapping, offset: number, shape: readonly number[], dtype: number): Handle;
  fileTensor(folder: string, shape: readonly number[], dtype: number): Handle;
  adviseFile(handle: Handle, ahead: boolean): void;

  threads(): number;
  setThreads(count: number): void;
  tuneAllocator(): void;
  newStream(device: string): number;
  exchangeStream(device: string, stream: number): number;
  currentStream(device: string): number;
  isIdle(device: string): boolean;
  streamWaits(device: string, waiting: number, awaited: number): void;
  recordMark(device: string): Mark;
  waitForMark(mark: Mark): void;
  recordStream(handle: Handle, stream: number): void;
  synchronize(device: string): void;
  deviceMemory(device: string): { allocated: number; peak: number; reserved: number; free: number; total: number };
  resetPeakMemory(device: string): void;
  emptyDeviceCache(device: string): void;
  flashAttention(device: string): boolean;
  setTf32(allowed: boolean): void;
  deviceWaits(): number;
  trimMemory(): void;
  blockBytes(): { inUse: number; kept: number; peak: number };
  tensorBytes(): { inUse: number; peak: number };
  resetTensorPeak(): void;
  peakResidentBytes(): number;
  about(): { version: string; cpuCapability: string; cuda: boolean; mps: boolean; mkldnn: boolean };
  setDeterministic(enabled: boolean): void;
  countMetaBytes(standsForCpu: boolean): void;
  metaBytes(): { inUse: number; peak: number };
  resetMetaPeak(): void;

  addressTowards(host: string, port: number): string;
  listenOn(address: string, port: number): number;
  openStore(host: string, port: number, server: boolean, timeout: number, listening: number): number;
  closeStore(store: number): void;
  storeSet(store: number, key: string, text: string): void;
  storeGet(store: number, key: string): string | null;
  storeAdd(store: number, key: string, amount: number): number;
  joinGroup(
    store: number,
    name: string,
    rank: number,
    size: number,
    address: string,
    timeout: number,
    device: string | null,
    nccl: string | null,
  ): number;
  leaveGroup(group: number): void;
  groupWait(group: number, operation: number): void;
  groupDone(group: number, operation: number): boolean;
  gather(group: number, whole: Handle, share: Handle, label: string): number;
  scatterAdd(group: number, sum: Handle, whole: Handle, label: string): number;
  alltoall(group: number, outgoing: Handle[], incoming: Handle[], label: string): number;

  watchLauncher(socket: number): void;
  startWatch(
    host: string,
    port: number,
    timeout: number,
    prefix: string,
    rank: number,
    machines: readonly string[],
    interval: number,
    patience: number,
    texts: readonly string[],
  ): void;
  failWatched(entry: string, timeout: number): boolean;
  stopWatch(): void;
  watchAt(where: string): void;
  watchSilent(): string;

  watchSignals(answer: string): void;
  unwatchSignals(): void;
}

function load(): Native {
  const here = fileURLToPath(new URL('..', import.meta.url)).replace(/\/$/, '');
  const file = addonFile(here);
  if (file === undefined) throw explainMissing(factsOf(here));
  // libtorch reads this once, before its first large allocation: back large blocks with huge pages.
  process.env.THP_MEM_ALLOC_ENABLE ??= '1';
  // GNU OpenMP's threads spin at every barrier, for longer than most operators take. On a machine that has other work (our own loader
  // threads), they keep each other from the processor: measured, a step up to twenty times slower. Spin for microseconds, then sleep.
  process.env.GOMP_SPINCOUNT ??= '1000';
  try {
    return createRequire(import.meta.url)(file) as Native;
  } catch (cause) {
    throw explainLoadFailure(factsOf(here), file, cause as Error);
  }
}

export const native: Native = load();
