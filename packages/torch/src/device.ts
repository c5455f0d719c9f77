/**
 * Devices beside the CPU: copies that do not wait, streams, waiting, memory. All through libtorch's generic interfaces.
 *
 * Compiled and type-checked; not tested on a device yet.
 */
import { native } from './native.js';
import { ops } from './ops.js';
import { guard, type Tensor } from './tensor.js';

/** A queue of work on a device, beside the one that is in use from the start. */
export class Stream {
  readonly #id: number;

  constructor(readonly device: string) {
    this.#id = guard(() => native.newStream(device));
  }

  /** Runs a function whose operators go to this stream. */
  run<T>(body: () => T): T {
    const before = guard(() => native.exchangeStream(this.device, this.#id));
    try {
      return body();
    } finally {
      guard(() => native.exchangeStream(this.device, before));
    }
  }

  /** What comes next in the stream in use waits for what is in this one now; `tensors` made here may be used there. */
  join(tensors: readonly Tensor[]): void {
    guard(() => {
      const current = native.currentStream(this.device);
      native.streamWaits(this.device, current, this.#id);
      for (const tensor of tensors) native.recordStream(tensor.handle('join'), current);
    });
  }
}

/**
 * The same values on a device, in the caller's scope; the tensor itself where it is there already. From the CPU to a device it goes through
 * pinned memory, without waiting: the device's queue keeps the order.
 */
export function copyTo(tensor: Tensor, device: string): Tensor {
  if (tensor.device === device || tensor.device.startsWith(`${device}:`)) return tensor;
  if (tensor.device !== 'cpu' || !device.startsWith('cuda')) return ops.toDevice(tensor, device, tensor.dtype);
  return ops.toDevice(ops.pinMemory(tensor), device, tensor.dtype, true);
}

/** Waits until a device has nothing left to do. */
export function synchronize(device: string): void {
  guard(() => native.synchronize(device));
}

/** Bytes of tensors on a device: now, at most so far, and what its allocator holds. Not for the CPU: see `blockBytes`. */
export function deviceMemory(device: string): { allocated: number; peak: number; reserved: number } {
  return guard(() => native.deviceMemory(device));
}
