/**
 * Accelerators: asynchronous copies, streams, memory. All through libtorch's generic interfaces.
 *
 * Tested on an NVIDIA H200 with libtorch 2.11 (LOG.md). Not tested on `mps`.
 */
import { native } from './native.js';
import { ops } from './ops.js';
import { guard, type Tensor } from './tensor.js';

/**
 * A queue of work on a device, beside the one that is in use from the start. Where a device has no queues to choose from (`cpu`, `meta`, `mps`)
 * its work is in the one that there is, in order.
 */
export class Stream {
  readonly #id: number | null;

  readonly device: string;

  constructor(device: string) {
    this.device = device;
    this.#id = /^(cpu|meta|mps)/.test(device) ? null : guard(() => native.newStream(device));
  }

  /** Runs a function whose operators go to this stream. */
  run<T>(body: () => T): T {
    const id = this.#id;
    if (id === null) return body();
    const before = guard(() => native.exchangeStream(this.device, id));
    try {
      return body();
    } finally {
      guard(() => native.exchangeStream(this.device, before));
    }
  }

  /**
   * Later work of the current stream waits for the work in this one; `tensors` made here may be used there. Their memory is given out again only
   * after the current stream is done with what it was asked to do until they are freed.
   */
  join(tensors: readonly Tensor[]): void {
    const id = this.#id;
    if (id === null) return;
    guard(() => {
      const current = native.currentStream(this.device);
      native.streamWaits(this.device, current, id);
      for (const tensor of tensors) native.recordStream(tensor.handle('join'), current);
    });
  }
}

/** Whether a device's current stream has done all that was asked of it. Does not wait. */
export function isIdle(device: string): boolean {
  return guard(() => native.isIdle(device));
}

/**
 * The same values on a device, in the caller's scope; the tensor itself where it is there already. From the CPU to a device it goes through
 * pinned memory, without waiting: the device's queue keeps the order.
 */
export function copyTo(tensor: Tensor, device: string): Tensor {
  if (tensor.device === device || tensor.device.startsWith(`${device}:`)) return tensor;
  if (tensor.device !== 'cpu' || device.startsWith('mps')) return ops.toDevice(tensor, device, tensor.dtype);
  if (!device.startsWith('cuda')) return ops.toDevice(tensor, device, tensor.dtype, true);
  // libtorch keeps pinned blocks for the next copies, and gives one out again only after the device has read it
  const pinned = ops.pinMemory(tensor);
  try {
    return ops.toDevice(pinned, device, tensor.dtype, true);
  } finally {
    pinned.dispose();
  }
}

/** Waits until a device has nothing left to do. */
export function synchronize(device: string): void {
  guard(() => native.synchronize(device));
}

/** Bytes of a device. */
export interface DeviceMemory {
  /** Of tensors, now and at most so far. */
  readonly allocated: number;
  readonly peak: number;
  /** What the allocator holds, for tensors and for later. */
  readonly reserved: number;
  /** What is left for all programs, and what there is in all; 0 where this libtorch cannot tell. */
  readonly free: number;
  readonly total: number;
}

/** Memory of a device. Not of the CPU: see `blockBytes`. */
export function deviceMemory(device: string): DeviceMemory {
  return guard(() => native.deviceMemory(device));
}

/** Lets the peak of `deviceMemory` count from now on. */
export function resetPeakMemory(device: string): void {
  guard(() => native.resetPeakMemory(device));
}

/** Gives the memory that a device's allocator keeps for later back to the driver. */
export function emptyDeviceCache(device: string): void {
  guard(() => native.emptyDeviceCache(device));
}

/** Whether packed sequences in half precision run in one call of flash attention on a device. */
export function hasFlashAttention(device: string): boolean {
  return guard(() => native.flashAttention(device));
}

/** Whether float32 products on NVIDIA GPUs may round their operands to TF32, which has 10 bits of mantissa. From the start they may not. */
export function allowTf32(allowed: boolean): void {
  guard(() => native.setTf32(allowed));
}

/**
 * How often this thread has waited for a device so far: read a tensor's values, or copied to or from the CPU without `non_blocking`. Counted on the
 * CPU as well, where it costs nothing, so that a test can tell what would wait on a GPU.
 */
export function deviceWaits(): number {
  return native.deviceWaits();
}
