/**
 * A tensor: handle, shape, type, values and disposal.
 *
 * Operators are not methods: they are in `ops` (see operators.ts), one function for each operator of the curated list.
 */
import { DTYPES, type DType, dtypeOfCode } from './dtype.js';
import { type Handle, native } from './native.js';
import { adopt } from './scope.js';

/** An error of libtorch: the message names the operator and its operands' types and shapes. */
export class TorchError extends Error {
  override readonly name: string = 'TorchError';
}

/** A device (not the CPU) has no memory left for a tensor. */
export class OutOfMemoryError extends TorchError {}

/** Runs a native function; what libtorch throws becomes a TorchError. */
export function guard<T>(fn: () => T): T {
  try {
    return fn();
  } catch (error) {
    const code = error instanceof Error ? (error as NodeJS.ErrnoException).code : undefined;
    if (code === 'TORCH') throw new TorchError((error as Error).message, { cause: error });
    if (code === 'TORCH_OUT_OF_MEMORY') throw new OutOfMemoryError((error as Error).message, { cause: error });
    throw error;
  }
}

/** The net: frees a tensor that nobody disposed of after JavaScript has dropped it. */
const collector = new FinalizationRegistry<Handle>((handle) => native.release(handle));

export type TypedArray =
  | Float32Array
  | Float64Array
  | BigInt64Array
  | Int32Array
  | Int16Array
  | Int8Array
  | Uint8Array
  | Uint16Array;

export class Tensor {
  #handle: Handle;
  #shape: readonly number[] | undefined;
  #dtype: DType | undefined;
  #guarded = false;

  /** Wraps a handle of the native table. Not for users: use `tensor`, `zeros`, `fromTypedArray` or an operator. */
  constructor(handle: Handle) {
    this.#handle = handle;
    if (!adopt(this)) this.guardedByCollector();
  }

  /** The native handle. Throws after dispose, naming the operator that wanted it. */
  handle(user: string): Handle {
    if (this.#handle === 0) {
      const what = this.#shape === undefined ? 'a tensor' : `a tensor of shape [${this.#shape.join(', ')}]`;
      throw new TorchError(`${user}: Expected a live tensor but received ${what} that was disposed of`);
    }
    return this.#handle;
  }

  get shape(): readonly number[] {
    this.#shape ??= guard(() => native.shape(this.handle('shape')));
    return this.#shape;
  }

  get dtype(): DType {
    this.#dtype ??= dtypeOfCode(guard(() => native.dtype(this.handle('dtype'))));
    return this.#dtype;
  }

  /** `cpu`, `cuda:0`, `mps:0` */
  get device(): string {
    return guard(() => native.device(this.handle('device')));
  }

  /** Number of elements. */
  get numel(): number {
    return this.shape.reduce((product, size) => product * size, 1);
  }

  /** Bytes of the elements. */
  get nbytes(): number {
    return this.numel * DTYPES[this.dtype].bytes;
  }

  get isContiguous(): boolean {
    return guard(() => native.isContiguous(this.handle('isContiguous')));
  }

  get requiresGrad(): boolean {
    return guard(() => native.requiresGrad(this.handle('requiresGrad')));
  }

  set requiresGrad(value: boolean) {
    guard(() => native.setRequiresGrad(this.handle('requiresGrad'), value));
  }

  get isDisposed(): boolean {
    return this.#handle === 0;
  }

  /** Size of a dimension; negative dimensions count from the end. */
  size(dimension: number): number {
    const size = this.shape.at(dimension);
    if (size === undefined)
      throw new TorchError(`size: Expected a dimension of [${this.shape.join(', ')}] but received ${dimension}`);
    return size;
  }

  /** The only element as a number (bool: 0 or 1). */
  item(): number {
    return Number(guard(() => native.item(this.handle('item'))));
  }

  /** Copies the elements out; contiguous CPU tensors only. bfloat16 and float16 come as their 16 bits. */
  toTypedArray(): TypedArray {
    const bytes = new Uint8Array(this.nbytes);
    this.readBytes(0, bytes);
    switch (this.dtype) {
      case 'float32':
        return new Float32Array(bytes.buffer);
      case 'float64':
        return new Float64Array(bytes.buffer);
      case 'int64':
        return new BigInt64Array(bytes.buffer);
      case 'int32':
        return new Int32Array(bytes.buffer);
      case 'int16':
        return new Int16Array(bytes.buffer);
      case 'int8':
        return new Int8Array(bytes.buffer);
      case 'float16':
      case 'bfloat16':
        return new Uint16Array(bytes.buffer);
      default:
        return bytes;
    }
  }

  /** The elements in row-major order as JavaScript numbers, whatever the dtype, strides and device. */
  toNumbers(): number[] {
    return Array.from(guard(() => native.doubles(this.handle('toNumbers'))));
  }

  /** Copies `target.length` bytes from `offset`; contiguous CPU tensors only. */
  readBytes(offset: number, target: Uint8Array): void {
    guard(() => native.readBytes(this.handle('readBytes'), offset, target));
  }

  /** Whether both share one storage (a view, an alias). */
  sharesStorage(other: Tensor): boolean {
    return guard(() => native.sameStorage(this.handle('sharesStorage'), other.handle('sharesStorage')));
  }

  /** Frees the tensor now. Harmless when it is freed already. */
  dispose(): void {
    if (this.#handle === 0) return;
    if (this.#guarded) collector.unregister(this);
    native.release(this.#handle);
    this.#handle = 0;
  }

  [Symbol.dispose](): void {
    this.dispose();
  }

  /** Lets the garbage collector free it should nobody else. Called when a tensor leaves its last scope. */
  guardedByCollector(): void {
    if (this.#guarded || this.#handle === 0) return;
    this.#guarded = true;
    collector.register(this, this.#handle, this);
  }

  toString(): string {
    return this.isDisposed ? 'Tensor(disposed)' : `Tensor(${this.dtype}[${this.shape.join(', ')}])`;
  }
}
