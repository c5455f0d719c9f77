/**
 * Groups of processes that compute together. Each has a rank; operations are collective: every rank calls the same ones
 * in the same order. Ranks that do not are told so by name before any data travels, whatever their sizes.
 */
import { noGrad } from './autograd.js';
import { fromTypedArray } from './create.js';
import { native } from './native.js';
import { ops } from './ops.js';
import { scope } from './scope.js';
import type { Store } from './store.js';
import { guard, type Tensor } from './tensor.js';

/** An operation under way. Its tensors must not be freed or changed before `wait` returns. */
export interface Pending {
  readonly done: boolean;
  /**
   * Blocks until the operation is done. Call it once.
   *
   * @throws TorchError naming the rank that is gone, did not come in time, or is at another operation; the group is of no use after it
   */
  wait(): void;
}

/**
 * Tensors of an operation are all in host memory, or all on the device with which the group was joined. On a device an operation comes after what its
 * current stream was asked to do before, and once `wait` has returned, any stream may use its results.
 *
 * `label` says what an operation is for; it is part of errors, and has to be equal on all ranks. At most 90 characters of it count.
 */
export interface Group extends Disposable {
  readonly rank: number;
  readonly size: number;
  /** `whole` [size × n] gets the share [n] of every rank, in the order of the ranks. `share` may be a part of `whole`. */
  gather(whole: Tensor, share: Tensor, label: string): Pending;
  /**
   * Adds part `rank` of the `whole` [size × n] of every rank onto `sum` [n], float32, in the order of the ranks: the bits are those of one
   * process that adds them one after the other. `whole` is float32, bfloat16 or float16.
   */
  scatterAdd(sum: Tensor, whole: Tensor, label: string): Pending;
  /** `outgoing[r]` goes to rank r and `incoming[r]` comes from it; both sides know the sizes, which may differ and be 0. */
  alltoall(outgoing: readonly Tensor[], incoming: readonly Tensor[], label: string): Pending;
  /** The numbers of every rank, by rank. All give equally many. */
  exchange(values: readonly number[], label: string): readonly Float64Array[];
  /** Sums over the ranks, in float64 and in their order. */
  sum(values: readonly number[], label: string): number[];
  max(values: readonly number[], label: string): number[];
  /** Returns when all ranks have called it. */
  barrier(label: string): void;
}

/** Numbers that a process alone adds at a time. */
const ADDED = 1 << 18;

const DONE: Pending = { done: true, wait: () => {} };

abstract class AnyGroup {
  abstract exchange(values: readonly number[], label: string): readonly Float64Array[];

  sum(values: readonly number[], label: string): number[] {
    const all = this.exchange(values, label);
    return values.map((_, i) => all.reduce((sum, own) => sum + own[i]!, 0));
  }

  max(values: readonly number[], label: string): number[] {
    const all = this.exchange(values, label);
    return values.map((_, i) => all.reduce((most, own) => Math.max(most, own[i]!), -Infinity));
  }

  barrier(label: string): void {
    this.exchange([], label);
  }
}

/** A group of one: the same code runs alone. */
class SoloGroup extends AnyGroup implements Group {
  readonly rank = 0;
  readonly size = 1;

  gather(whole: Tensor, share: Tensor): Pending {
    if (!whole.sharesStorage(share)) noGrad(() => scope(() => ops.copy_(whole, share)));
    return DONE;
  }

  /** In pieces: of a smaller type, `whole` is copied in float32 before it is added. */
  scatterAdd(sum: Tensor, whole: Tensor): Pending {
    const piece = sum.dtype === whole.dtype ? sum.numel : ADDED;
    noGrad(() => {
      for (let start = 0; start < sum.numel; start += piece)
        scope(() => {
          const length = Math.min(piece, sum.numel - start);
          ops.add_(ops.narrow(sum, 0, start, length), ops.narrow(whole, 0, start, length));
        });
    });
    return DONE;
  }

  alltoall(outgoing: readonly Tensor[], incoming: readonly Tensor[]): Pending {
    noGrad(() => scope(() => ops.copy_(incoming[0]!, outgoing[0]!)));
    return DONE;
  }

  exchange(values: readonly number[]): readonly Float64Array[] {
    return [Float64Array.from(values)];
  }

  [Symbol.dispose](): void {}
}

/** Numbers of a share that are summed at a time: the room for those of the peers is bounded by it, as in native/group-functions.cc. */
const PIECE = 4 << 20;

/**
 * One rank of many in a process alone, to see what a rank takes. Its peers say and hold what it says and holds, and add zeros to sums; what
 * they send it is what it sends itself, or zeros where that is not as much. Each operation takes the memory that it takes among processes.
 */
class DryGroup extends AnyGroup implements Group {
  readonly rank: number;
  readonly size: number;

  constructor(rank: number, size: number) {
    super();
    this.rank = rank;
    this.size = size;
  }

  gather(whole: Tensor, share: Tensor): Pending {
    const places = Array.from({ length: this.size }, (_, r) => r).filter((r) => r !== this.rank);
    noGrad(() =>
      scope(() => {
        const own = this.#shareOf(whole, this.rank);
        ops.copy_(own, share);
        for (const r of places) ops.copy_(this.#shareOf(whole, r), own);
      }),
    );
    return DONE;
  }

  scatterAdd(sum: Tensor, whole: Tensor): Pending {
    noGrad(() =>
      scope(() => {
        ops.empty([this.size - 1, Math.min(sum.numel, PIECE)], { dtype: whole.dtype, device: whole.device });
        ops.add_(sum, this.#shareOf(whole, this.rank));
      }),
    );
    return { done: false, wait: () => {} }; // what is sent stays until it is waited for
  }

  alltoall(outgoing: readonly Tensor[], incoming: readonly Tensor[]): Pending {
    const own = outgoing[this.rank]!;
    noGrad(() =>
      scope(() => {
        for (const tensor of incoming) {
          if (tensor.numel === own.numel) ops.copy_(tensor, own);
          else ops.zero_(tensor);
        }
      }),
    );
    return DONE;
  }

  exchange(values: readonly number[]): readonly Float64Array[] {
    return Array.from({ length: this.size }, () => Float64Array.from(values));
  }

  #shareOf(whole: Tensor, rank: number): Tensor {
    const count = whole.numel / this.size;
    return ops.narrow(whole, 0, rank * count, count);
  }

  [Symbol.dispose](): void {}
}

class NativePending implements Pending {
  readonly #group: number;
  readonly #operation: number;

  constructor(group: number, operation: number) {
    this.#group = group;
    this.#operation = operation;
  }

  get done(): boolean {
    return guard(() => native.groupDone(this.#group, this.#operation));
  }

  wait(): void {
    guard(() => native.groupWait(this.#group, this.#operation));
  }
}

/** Processes connected by Gloo, and by NCCL where their tensors are on devices. */
class NativeGroup extends AnyGroup implements Group {
  readonly #id: number;

  readonly rank: number;
  readonly size: number;

  constructor(id: number, rank: number, size: number) {
    super();
    this.#id = id;
    this.rank = rank;
    this.size = size;
  }

  gather(whole: Tensor, share: Tensor, label: string): Pending {
    return this.#pending(() => native.gather(this.#id, whole.handle('gather'), share.handle('gather'), label));
  }

  scatterAdd(sum: Tensor, whole: Tensor, label: string): Pending {
    return this.#pending(() =>
      native.scatterAdd(this.#id, sum.handle('scatterAdd'), whole.handle('scatterAdd'), label),
    );
  }

  alltoall(outgoing: readonly Tensor[], incoming: readonly Tensor[], label: string): Pending {
    const handles = (tensors: readonly Tensor[]): number[] => tensors.map((tensor) => tensor.handle('alltoall'));
    return this.#pending(() => native.alltoall(this.#id, handles(outgoing), handles(incoming), label));
  }

  exchange(values: readonly number[], label: string): readonly Float64Array[] {
    return scope(() => {
      const whole = ops.zeros([this.size * values.length], { dtype: 'float64' });
      this.gather(whole, fromTypedArray(Float64Array.from(values), [values.length]), label).wait();
      const all = whole.toTypedArray() as Float64Array;
      return Array.from({ length: this.size }, (_, r) => all.slice(r * values.length, (r + 1) * values.length));
    });
  }

  #pending(start: () => number): Pending {
    return new NativePending(this.#id, guard(start));
  }

  [Symbol.dispose](): void {
    native.leaveGroup(this.#id);
  }
}

/** A group of this process alone. */
export function soloGroup(): Group {
  return new SoloGroup();
}

/** Rank `rank` of `size`, without the others. Numbers that follow from it are those of no training; memory is that of a rank. */
export function dryGroup(rank: number, size: number): Group {
  requireRank(rank, size);
  return size === 1 ? new SoloGroup() : new DryGroup(rank, size);
}

function requireRank(rank: number, size: number): void {
  if (!(Number.isInteger(size) && size >= 1 && Number.isInteger(rank) && rank >= 0 && rank < size))
    throw new RangeError(`Expected a rank below the size of the group but received rank ${rank} of ${size}`);
}

export interface JoinOptions {
  readonly store: Store;
  /** Groups of the same store have different names. */
  readonly name: string;
  readonly rank: number;
  readonly size: number;
  /** The address at which other ranks reach this one; the one towards the store unless given. */
  readonly address?: string;
  /** How long to wait for other ranks, here and in every operation, in milliseconds. */
  readonly timeout: number;
  /** A device such as `cuda` whose tensors the group moves, too, by NCCL; each rank has one of its own. */
  readonly device?: string;
  /** The path of NCCL's library; that which came with libtorch unless given. */
  readonly nccl?: string;
}

/**
 * Joins the group of `size` processes that share a store. Returns when all are connected. Leave it by `[Symbol.dispose]()`, or use `using`.
 *
 * @throws TorchError when not all come in time, or there is no NCCL for the device
 */
export function joinGroup({ store, name, rank, size, address, timeout, device, nccl }: JoinOptions): Group {
  requireRank(rank, size);
  const own = address ?? store.ownAddress;
  const id = guard(() => native.joinGroup(store.id, name, rank, size, own, timeout, device ?? null, nccl ?? null));
  return new NativeGroup(id, rank, size);
}
