/** Process-wide state: threads, allocator, devices, versions. */
import { native } from './native.js';
import { guard } from './tensor.js';

/** Tensors that JavaScript holds now, and the bytes of their storages (each storage once). */
export function liveTensors(): { tensors: number; bytes: number } {
  return native.live();
}

/** Threads of one operator. */
export function threads(): number {
  return native.threads();
}

export function setThreads(count: number): void {
  if (!Number.isInteger(count) || count < 1) throw new RangeError(`Expected at least 1 thread but received ${count}`);
  guard(() => native.setThreads(count));
}

/**
 * Keeps the memory of freed tensors for the next ones instead of giving it back to the system: a training step frees and allocates the
 * same sizes over and over, and every fresh page costs a fault. The cache never makes the process larger than its tensors once were.
 */
export function tuneAllocator(): void {
  native.tuneAllocator();
}

/** Gives freed memory back to the system. */
export function trimMemory(): void {
  native.trimMemory();
}

/**
 * Bytes of CPU tensors' large blocks (256 KiB and more) since `tuneAllocator`: `inUse` by tensors, also those that only a graph holds;
 * `kept` for the next ones; `peak`, the most that tensors ever took at once. `inUse + kept` never passes `peak`.
 */
export function blockBytes(): { inUse: number; kept: number; peak: number } {
  return native.blockBytes();
}

/**
 * Bytes of CPU tensors since `tuneAllocator`, those of small tensors and of tensors that only a graph holds among them; not of mapped files.
 * `peak`: the most at once since `resetTensorPeak`.
 */
export function tensorBytes(): { inUse: number; peak: number } {
  return native.tensorBytes();
}

export function resetTensorPeak(): void {
  native.resetTensorPeak();
}

let metaStandsFor: 'cpu' | 'cuda' | 'mps' = 'cuda';

/** Counts the bytes of meta tensors that are made from now on, as if they were tensors of a device of this kind. */
export function countMetaBytes(device: 'cpu' | 'cuda' | 'mps'): void {
  metaStandsFor = device;
  native.countMetaBytes(device === 'cpu');
}

/** Whether tensors of a device are computed as on the CPU. */
export function isCpu(device: string): boolean {
  return device === 'cpu' || (device === 'meta' && metaStandsFor === 'cpu');
}

/** Bytes of meta tensors since `countMetaBytes`: now, also those that only a graph holds, and the most since `resetMetaPeak`. */
export function metaBytes(): { inUse: number; peak: number } {
  return native.metaBytes();
}

export function resetMetaPeak(): void {
  native.resetMetaPeak();
}

/** The most resident memory this process ever had, in bytes. */
export function peakResidentBytes(): number {
  return native.peakResidentBytes();
}

/** libtorch's version, CPU instruction set in use, and which devices there are. */
export function about(): { version: string; cpuCapability: string; cuda: boolean; mps: boolean; mkldnn: boolean } {
  return native.about();
}

/**
 * Lets the event loop turn once. A long run of synchronous steps has to do this between them: signals, messages of worker threads and
 * finalizers wait for it.
 */
export async function yieldToEventLoop(): Promise<void> {
  await new Promise((resolve) => setImmediate(resolve));
}

/** Refuses operators that give other numbers at each run. */
export function setDeterministic(enabled: boolean): void {
  native.setDeterministic(enabled);
}

/**
 * Answers SIGINT and SIGTERM at once, also in the middle of a long native call, when Node's own handlers (set before) cannot run yet: the
 * first one writes `answer` to standard error and goes on to Node, another one half a second later or more ends the process with code 130.
 * Returns a function that undoes it, to be called before Node's handlers are removed.
 */
export function watchSignals(answer: string): () => void {
  native.watchSignals(answer);
  return () => native.unwatchSignals();
}
