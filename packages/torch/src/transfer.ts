/**
 * Large tensors on their way between host and device. They go through pinned memory: two buffers are made at the first use and stay: while one
 * travels, the other is filled or emptied. Where the device is the CPU itself, a copy is a copy. Small things: `copyTo` (device.ts).
 */
import { noGrad } from './autograd.js';
import { DTYPES, type DType } from './dtype.js';
import { type Mark, native } from './native.js';
import { ops } from './ops.js';
import { keep, scope } from './scope.js';
import { guard, type Tensor } from './tensor.js';

/** Bytes of each of the two buffers. */
const BUFFER = 64 << 20;

interface Buffer {
  /** (BUFFER) uint8, pinned. */
  readonly bytes: Tensor;
  /** The last copy to the device from it. */
  mark: Mark | null;
}

export class Transfer implements Disposable {
  readonly device: string;
  #buffers: readonly Buffer[] = [];

  constructor(device: string) {
    this.device = device;
  }

  get #direct(): boolean {
    return !this.device.startsWith('cuda');
  }

  /**
   * Gives `target`, contiguous and on the device (or in host memory), the values of `source`, contiguous and in host memory, in its own type. Does not wait
   * for the device; `source` may be changed as soon as this returns.
   */
  toDevice(target: Tensor, source: Tensor): void {
    noGrad(() =>
      scope(() => {
        if (this.#direct || target.device === 'cpu') {
          ops.copy_(target, source);
          return;
        }
        const [to, from] = [flat(target), flat(source)];
        for (const [start, length, i] of piecesOf(to)) {
          const buffer = this.#buffer(i);
          if (buffer.mark !== null) guard(() => native.waitForMark(buffer.mark!));
          const pinned = viewOf(buffer, to.dtype, length);
          ops.copy_(pinned, ops.narrow(from, 0, start, length));
          ops.copy_(ops.narrow(to, 0, start, length), pinned, true);
          buffer.mark = guard(() => native.recordMark(this.device));
        }
      }),
    );
  }

  /**
   * The values of a tensor in host memory, contiguous and in a type, in the caller's scope; the tensor itself where it is that already. Waits for the
   * device.
   */
  toHost(source: Tensor, dtype: DType): Tensor {
    if (source.device === 'cpu')
      return source.dtype === dtype && source.isContiguous ? source : this.#copied(source, dtype);
    return this.#direct
      ? scope(() => this.#copied(ops.toDevice(source, 'cpu', source.dtype), dtype))
      : this.#fetched(source, dtype);
  }

  #copied(source: Tensor, dtype: DType): Tensor {
    return noGrad(() => scope(() => ops.contiguous(ops.to(source, dtype))));
  }

  #fetched(source: Tensor, dtype: DType): Tensor {
    return noGrad(() =>
      scope(() => {
        const target = ops.empty(source.shape, { dtype });
        const [from, to] = [flat(ops.contiguous(source)), flat(target)];
        let before: (() => void) | null = null;
        for (const [start, length, i] of piecesOf(from)) {
          const buffer = this.#buffer(i);
          if (buffer.mark !== null) guard(() => native.waitForMark(buffer.mark!));
          const pinned = viewOf(buffer, from.dtype, length);
          ops.copy_(pinned, ops.narrow(from, 0, start, length), true);
          const mark = guard(() => native.recordMark(this.device));
          before?.();
          before = () => {
            guard(() => native.waitForMark(mark));
            ops.copy_(ops.narrow(to, 0, start, length), pinned);
          };
          buffer.mark = null;
        }
        before?.();
        return target;
      }),
    );
  }

  #buffer(i: number): Buffer {
    if (this.#buffers.length === 0) {
      const bytes = (): Tensor => scope(() => keep(ops.empty([BUFFER], { dtype: 'uint8', pin_memory: true })));
      this.#buffers = [
        { bytes: bytes(), mark: null },
        { bytes: bytes(), mark: null },
      ];
    }
    return this.#buffers[i % 2]!;
  }

  /** Frees the buffers: when nothing travels any more. */
  [Symbol.dispose](): void {
    for (const { bytes, mark } of this.#buffers) {
      if (mark !== null) guard(() => native.waitForMark(mark));
      bytes.dispose();
    }
    this.#buffers = [];
  }
}

const flat = (tensor: Tensor): Tensor => ops.view(ops.detach(tensor), [-1]);

const viewOf = ({ bytes }: Buffer, dtype: DType, length: number): Tensor =>
  ops.viewDtype(ops.narrow(bytes, 0, 0, length * DTYPES[dtype].bytes), dtype);

/** A flat tensor in pieces that fit into a buffer: start, length, and which piece it is. */
function* piecesOf({ numel, dtype }: Tensor): Generator<[start: number, length: number, i: number]> {
  const most = BUFFER / DTYPES[dtype].bytes;
  for (let start = 0, i = 0; start < numel; start += most, i++) yield [start, Math.min(most, numel - start), i];
}
