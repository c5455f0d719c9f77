/**
 * Keys and values of the earlier positions of one sequence. Only new positions are computed. One block of memory per
 * layer, which grows by a quarter when it is full; the tensors live outside of all scopes until `dispose`.
 */
import type { LlmConfig } from '@minicpm-finetune/processor';
import { type DType, keep, noGrad, ops, scope, type Tensor } from '@minicpm-finetune/torch';

/** Positions are reserved in multiples of this. */
const STEP = 64;

/** The cache of all layers. For generation only: no gradient flows through it. */
export class KVCache {
  /** Of each layer: keys and values (2, kv heads, capacity, headDim). */
  readonly #blocks: Tensor[] = [];
  readonly #sizes: readonly [numLayers: number, heads: number, headDim: number];
  readonly #place: { readonly dtype: DType; readonly device: string };
  #length = 0;
  #capacity = 0;

  constructor(config: LlmConfig, place: { readonly dtype: DType; readonly device: string }) {
    this.#sizes = [config.numLayers, config.numKeyValueHeads, config.headDim];
    this.#place = place;
  }

  /** Positions seen so far. */
  get length(): number {
    return this.#length;
  }

  /** The block of a layer (2, kv heads, capacity, headDim): keys, then values. Another one after `reserve`. */
  block(layer: number): Tensor {
    return this.#blocks[layer]!;
  }

  /** Makes room for `count` new positions. */
  reserve(count: number): void {
    const needed = this.#length + count;
    if (needed <= this.#capacity) return;
    const wanted = Math.max(needed, Math.ceil(1.25 * this.#capacity));
    const capacity = Math.ceil(wanted / STEP) * STEP;
    const [numLayers, heads, headDim] = this.#sizes;
    for (let layer = 0; layer < numLayers; layer++) {
      const before = this.#blocks[layer];
      this.#blocks[layer] = noGrad(() =>
        scope(() => {
          const larger = keep(ops.empty([2, heads, capacity, headDim], this.#place));
          if (before !== undefined)
            ops.copy_(ops.narrow(larger, 2, 0, this.#length), ops.narrow(before, 2, 0, this.#length));
          return larger;
        }),
      );
      before?.dispose();
    }
    this.#capacity = capacity;
  }

  /**
   * Writes keys and values (1, kv heads, L, headDim) of new positions of a layer, for which there is room, and returns all of them, old and new,
   * as views of the caller's scope. The length stays until `advance`.
   */
  write(layer: number, keys: Tensor, values: Tensor): [keys: Tensor, values: Tensor] {
    const block = ops.unsqueeze(this.block(layer), 1); // (2, 1, kv heads, capacity, headDim)
    const count = keys.size(2);
    return [keys, values].map((fresh, part) => {
      const all = ops.narrow(ops.select(block, 0, part), 2, 0, this.#length + count);
      ops.copy_(ops.narrow(all, 2, this.#length, count), fresh);
      return all;
    }) as [Tensor, Tensor];
  }

  /** Counts positions that every layer has now. */
  advance(count: number): void {
    this.#length += count;
  }

  /** A copy of positions `from` to `to`: (layers, 2, kv heads, to - from, headDim), of the caller's scope. */
  copyOf(from: number, to: number): Tensor {
    return ops.stack(this.#blocks.map((block) => ops.narrow(block, 2, from, to - from)));
  }

  /** Appends positions that `copyOf` gave. */
  append(positions: Tensor): void {
    const count = positions.size(3);
    this.reserve(count);
    scope(() => {
      for (const [layer, block] of this.#blocks.entries())
        ops.copy_(ops.narrow(block, 2, this.#length, count), ops.select(positions, 0, layer));
    });
    this.advance(count);
  }

  dispose(): void {
    for (const block of this.#blocks) block.dispose();
    this.#blocks.length = 0;
    this.#length = 0;
    this.#capacity = 0;
  }
}
