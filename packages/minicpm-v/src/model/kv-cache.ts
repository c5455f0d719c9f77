/**
 * What a sequence keeps of its earlier positions. Keys and values of attention, states of linear attention. Only new
 * positions are computed. One block of memory per layer of attention, which grows by a quarter when it is full; a state
 * has one size. The tensors live outside of all scopes until `dispose`.
 */
import type { LlmConfig } from '@minicpm-finetune/processor';
import { type DType, keep, noGrad, ops, scope, type Tensor } from '@minicpm-finetune/torch';

/** Positions are reserved in multiples of this. */
const STEP = 64;

/** What a layer of linear attention keeps: the last inputs of its convolution (taps - 1, channels), and its state (value heads, dk, dv), float32. */
export interface LinearState {
  readonly convolution: Tensor;
  readonly delta: Tensor;
}

/** A copy of what some positions added, of the caller's scope. */
export interface CachedPositions {
  /** Keys and values: (layers of attention, 2, kv heads, positions, headDim). */
  readonly keyValues: Tensor;
  /** The numbers of all states after the last position, float32; null: there are none. */
  readonly states: Tensor | null;
}

/** The cache of all layers. For generation only: no gradient flows through it. */
export class KVCache {
  /** Of each layer of attention: keys and values (2, kv heads, capacity, headDim). */
  readonly #blocks = new Map<number, Tensor>();
  readonly #states: ReadonlyMap<number, LinearState>;
  readonly #config: LlmConfig;
  readonly #place: { readonly dtype: DType; readonly device: string };
  /** Of the next position from the number of positions, where pictures have rows and columns: what they have saved. */
  readonly #shift: number;
  #length = 0;
  #capacity = 0;

  /** @param shift what to add to the number of positions to get the next one: 0 unless positions are on a canvas */
  constructor(config: LlmConfig, place: { readonly dtype: DType; readonly device: string }, shift = 0) {
    this.#config = config;
    this.#place = place;
    this.#shift = shift;
    this.#states = new Map([...config.linearLayers].map((layer) => [layer, emptyState(config, place)]));
  }

  /** Positions seen so far. */
  get length(): number {
    return this.#length;
  }

  /** The position of the next token, after a prompt that was read. */
  get nextPosition(): number {
    return this.#length + this.#shift;
  }

  /** The block of a layer (2, kv heads, capacity, headDim): keys, then values. Another one after `reserve`. */
  block(layer: number): Tensor {
    return this.#blocks.get(layer)!;
  }

  /** The state of a layer of linear attention, which is updated in place. */
  state(layer: number): LinearState {
    return this.#states.get(layer)!;
  }

  /** Makes room for `count` new positions. */
  reserve(count: number): void {
    const needed = this.#length + count;
    if (needed <= this.#capacity) return;
    const wanted = Math.max(needed, Math.ceil(1.25 * this.#capacity));
    const capacity = Math.ceil(wanted / STEP) * STEP;
    const { numLayers, numKeyValueHeads: heads, headDim, linearLayers } = this.#config;
    for (let layer = 0; layer < numLayers; layer++) {
      if (linearLayers.has(layer)) continue;
      const before = this.#blocks.get(layer);
      const block = noGrad(() =>
        scope(() => {
          const larger = keep(ops.empty([2, heads, capacity, headDim], this.#place));
          if (before !== undefined)
            ops.copy_(ops.narrow(larger, 2, 0, this.#length), ops.narrow(before, 2, 0, this.#length));
          return larger;
        }),
      );
      this.#blocks.set(layer, block);
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

  /** A copy of positions `from` to the last one. */
  copyFrom(from: number): CachedPositions {
    const blocks = [...this.#blocks.values()].map((block) => ops.narrow(block, 2, from, this.#length - from));
    const states = this.#stateTensors().map((state) => ops.to(ops.reshape(state, [-1]), 'float32'));
    return { keyValues: ops.stack(blocks), states: states.length === 0 ? null : ops.cat(states) };
  }

  /** Appends positions that `copyFrom` gave of a cache that had the same positions before. */
  append({ keyValues, states }: CachedPositions): void {
    const count = keyValues.size(3);
    this.reserve(count);
    scope(() => {
      for (const [i, block] of [...this.#blocks.values()].entries())
        ops.copy_(ops.narrow(block, 2, this.#length, count), ops.select(keyValues, 0, i));
      let at = 0;
      for (const state of this.#stateTensors()) {
        const size = state.shape.reduce((product, side) => product * side, 1);
        ops.copy_(state, ops.reshape(ops.narrow(states!, 0, at, size), state.shape));
        at += size;
      }
    });
    this.advance(count);
  }

  #stateTensors(): Tensor[] {
    return [...this.#states.values()].flatMap(({ convolution, delta }) => [convolution, delta]);
  }

  dispose(): void {
    for (const tensor of [...this.#blocks.values(), ...this.#stateTensors()]) tensor.dispose();
    this.#blocks.clear();
    this.#length = 0;
    this.#capacity = 0;
  }
}

function emptyState({ linearAttention }: LlmConfig, { dtype, device }: { dtype: DType; device: string }): LinearState {
  const { numKeyHeads, numValueHeads, keyHeadDim, valueHeadDim, convKernel } = linearAttention!;
  const channels = 2 * numKeyHeads * keyHeadDim + numValueHeads * valueHeadDim;
  return scope(() => ({
    convolution: keep(ops.zeros([convKernel - 1, channels], { dtype, device })),
    delta: keep(ops.zeros([numValueHeads, keyHeadDim, valueHeadDim], { dtype: 'float32', device })),
  }));
}
