/**
 * States that are not on the device. They are in host memory, or in files: masters, moments and shares of weights (ZeRO-Offload, Ren et
 * al., 2021; ZeRO-Infinity, Rajbhandari et al., 2021). The files are memory that the system brings to the disk when it wants room: read ahead before a
 * visit, given back after it, and flushed by nobody. They have no names (packages/torch/src/storage.ts).
 *
 * Not here: what is put there (sharding.ts, engine/optimizer.ts), and the flags (train/offload.ts).
 */
import { statfsSync } from 'node:fs';
import { formatBytes, UserError } from '@minicpm-finetune/run';
import {
  DTYPES,
  type DType,
  fileTensor,
  keep,
  leaveToFile,
  ops,
  readAhead,
  scope,
  type Tensor,
  TorchError,
  type Transfer,
} from '@minicpm-finetune/torch';
import { numbersOf } from './segment.js';

/** What helps where a folder's disk has too little room. */
export const OFFLOAD_CURE = 'Free some space, or name a folder of another disk.';

/** Where states are kept. */
export interface StatePlace {
  /** The folder of their files; null: host memory. */
  readonly folder: string | null;
  /** Zeros on the CPU, outside of every scope. */
  zeros(shape: readonly number[], dtype: DType): Tensor;
  /** These will be used soon. */
  ahead(tensors: Iterable<Tensor>): void;
  /** These are not used for a while. */
  behind(tensors: Iterable<Tensor>): void;
}

/** A place, and the way between it and the device. */
export interface Offload {
  readonly place: StatePlace;
  readonly transfer: Transfer;
}

/** Whether a setting of `--offload_…` moves anything: host memory is where the CPU has all already. */
export const isOffloaded = (setting: string, device: string): boolean =>
  setting !== 'none' && !(setting === 'cpu' && device === 'cpu');

/** Memory of the host. */
export const HOST_MEMORY: StatePlace = {
  folder: null,
  zeros: (shape, dtype) => scope(() => keep(ops.zeros(shape, { dtype }))),
  ahead: () => {},
  behind: () => {},
};

/** Files of a folder, which has to be there. */
export class FilePlace implements StatePlace {
  readonly folder: string;
  readonly #flag: string;

  /** @param flag that named the folder, for errors */
  constructor(folder: string, flag: string) {
    this.folder = folder;
    this.#flag = flag;
  }

  zeros(shape: readonly number[], dtype: DType): Tensor {
    if (shape.includes(0)) return HOST_MEMORY.zeros(shape, dtype); // a file has at least one number
    const bytes = numbersOf(shape) * DTYPES[dtype].bytes;
    const { bavail, bsize } = statfsSync(this.folder);
    if (bavail * bsize < bytes) throw this.#refused(bytes, formatBytes(bavail * bsize));
    try {
      return scope(() => keep(fileTensor(this.folder, shape, dtype)));
    } catch (cause) {
      throw cause instanceof TorchError ? this.#refused(bytes, cause.message, cause) : cause;
    }
  }

  #refused(bytes: number, received: string, cause?: Error): UserError {
    return new UserError(
      `Expected ${formatBytes(bytes)} free for offloaded states in ${this.folder} but received ${received}.`,
      { flag: this.#flag, file: this.folder, cure: OFFLOAD_CURE, cause },
    );
  }

  ahead(tensors: Iterable<Tensor>): void {
    for (const tensor of tensors) if (tensor.numel > 0) readAhead(tensor);
  }

  behind(tensors: Iterable<Tensor>): void {
    for (const tensor of tensors) if (tensor.numel > 0) leaveToFile(tensor);
  }
}
