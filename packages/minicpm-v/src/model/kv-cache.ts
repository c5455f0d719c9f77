/**
 * Keys and values of earlier positions, for generation. Only new positions are computed. One block of memory per layer
 * that doubles when it is full; the tensors live outside of all scopes until `dispose`.
 */
import { keep, noGrad, ops, scope, type Tensor } from '@minicpm-finetune/torch';

const FIRST_CAPACITY = 256;

/** The cache of one layer: keys and values (B, kv heads, length, headDim). */
export class LayerCache {
  #keys: Tensor | undefined;
  #values: Tensor | undefined;
  #length = 0;

  get length(): number {
    return this.#length;
  }

  /** Appends new positions and returns all keys and values, old and new. The results are views of the caller's scope. */
  append(keys: Tensor, values: Tensor): [keys: Tensor, values: Tensor] {
    const start = this.#length;
    const count = keys.size(2);
    this.#length += count;
    this.#keys = this.#grown(this.#keys, keys, start);
    this.#values = this.#grown(this.#values, values, start);
    noGrad(() =>
      scope(() => {
        ops.copy_(ops.narrow(this.#keys!, 2, start, count), keys);
        ops.copy_(ops.narrow(this.#values!, 2, start, count), values);
      }),
    );
    return [ops.narrow(this.#keys, 2, 0, this.#length), ops.narrow(this.#values, 2, 0, this.#length)];
  }

  /** The block itself where it has room, else one of twice the size with the first `used` positions copied. */
  #grown(block: Tensor | undefined, like: Tensor, used: number): Tensor {
    if (block !== undefined && block.size(2) >= this.#length) return block;
    const [B, heads, , dim] = like.shape as [number, number, number, number];
    const capacity = Math.max(FIRST_CAPACITY, this.#length, 2 * (block?.size(2) ?? 0));
    return scope(() => {
      const larger = keep(ops.empty([B, heads, capacity, dim], { dtype: like.dtype, device: like.device }));
      if (block !== undefined) ops.copy_(ops.narrow(larger, 2, 0, used), ops.narrow(block, 2, 0, used));
      block?.dispose();
      return larger;
    });
  }

  /** Forgets everything after the first `length` positions. */
  truncate(length: number): void {
    this.#length = Math.min(this.#length, length);
  }

  dispose(): void {
    this.#keys?.dispose();
    this.#values?.dispose();
    this.#keys = undefined;
    this.#values = undefined;
    this.#length = 0;
  }
}

/** The caches of all layers. For generation only: no gradient flows through it. */
export class KVCache {
  readonly layers: readonly LayerCache[];

  constructor(numLayers: number) {
    this.layers = Array.from({ length: numLayers }, () => new LayerCache());
  }

  /** Positions seen so far. */
  get length(): number {
    return this.layers[0]?.length ?? 0;
  }

  /** Forgets everything after the first `length` positions. */
  truncate(length: number): void {
    for (const layer of this.layers) layer.truncate(length);
  }

  dispose(): void {
    for (const layer of this.layers) layer.dispose();
  }
}
