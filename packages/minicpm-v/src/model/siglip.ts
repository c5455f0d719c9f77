/**
 * The vision tower of MiniCPM-V 2.5 and later: SigLIP. SigLIP (Zhai et al., 2023) on pictures of any shape, with the
 * patch positions of NaViT (Dehghani et al., 2023), as in transformers' Idefics2 vision model. Parameter names are the
 * checkpoint's.
 *
 * Shapes: N pictures, n patches, D hidden size, H heads.
 */
import type { MergerConfig, Version, VisionConfig } from '@minicpm-finetune/processor';
import { Embedding, fromTypedArray, LayerNorm, Module, ops, type Tensor } from '@minicpm-finetune/torch';
import { type Grid, PatchEmbedding, type PictureGroup } from './patches.js';
import { type Stage, stage, type VisionTower } from './stage.js';
import { VisionAttention } from './vision-attention.js';
import { VisionMlp } from './vision-mlp.js';
import { WindowMerger } from './window-merger.js';
import { mergedGrid } from './windows.js';

type Buckets = Version['buckets'];

const LANES = 8;
const UNROLLED = 16;

/**
 * The bucket of each of `n` patches along one axis, in a position table of `side` buckets: the number of boundaries k/side that are not
 * above i/n. Rounding decides where a patch on a boundary falls, so both are rounded as in the published code: it divides by a tensor,
 * hence a float32 step, and `torch.arange` works on eight lanes at a time, adding the steps inside a lane in float64.
 */
export function positionBuckets(n: number, side: number): number[] {
  const step = Math.fround(1 / n);
  const fractions: number[] = [];
  while (n - fractions.length >= UNROLLED) {
    for (let group = 0; group < UNROLLED / LANES; group++) {
      const base = Math.fround(step * fractions.length);
      for (let k = 0; k < LANES; k++) fractions.push(Math.fround(base + k * step));
    }
  }
  while (fractions.length < n) fractions.push(Math.fround(step * fractions.length));
  const boundaries = Array.from({ length: side - 1 }, (_, k) => Math.fround(1 / side + k * (1 / side)));
  let bucket = 0;
  return fractions.map((fraction) => {
    while (bucket < boundaries.length && boundaries[bucket]! <= fraction) bucket++;
    return bucket;
  });
}

/** The bucket of each of `n` patches without rounding: the whole number in side * i / n. */
export function exactBuckets(n: number, side: number): number[] {
  return Array.from({ length: n }, (_, i) => Math.floor((side * i) / n));
}

const BUCKETS: Readonly<Record<Buckets, typeof positionBuckets>> = { float32: positionBuckets, exact: exactBuckets };

/** Rows of the position table for a grid of patches, row by row. */
export function positionIds(rows: number, cols: number, side: number, buckets: Buckets): BigInt64Array {
  const bucketsOf = BUCKETS[buckets];
  const across = bucketsOf(cols, side);
  const ids = new BigInt64Array(rows * cols);
  bucketsOf(rows, side).forEach((row, i) => {
    for (let j = 0; j < cols; j++) ids[i * cols + j] = BigInt(row * side + across[j]!);
  });
  return ids;
}

/** The same of all grids, one after the other. Pictures of one shape share the work. */
function positionIdsOf(grids: readonly Grid[], side: number, buckets: Buckets): BigInt64Array {
  const known = new Map<string, BigInt64Array>();
  const ids = new BigInt64Array(grids.reduce((sum, { rows, cols }) => sum + rows * cols, 0));
  let start = 0;
  for (const { rows, cols } of grids) {
    const shape = `${rows}x${cols}`;
    if (!known.has(shape)) known.set(shape, positionIds(rows, cols, side, buckets));
    ids.set(known.get(shape)!, start);
    start += rows * cols;
  }
  return ids;
}

class SiglipEmbeddings extends Module {
  readonly patchEmbedding: PatchEmbedding;
  readonly positionEmbedding: Embedding;

  readonly config: VisionConfig;
  readonly #buckets: Buckets;

  constructor(config: VisionConfig, buckets: Buckets) {
    super();
    this.config = config;
    this.#buckets = buckets;
    const { hiddenSize, patchSize, positionSide } = config;
    this.patchEmbedding = this.child('patch_embedding', new PatchEmbedding(hiddenSize, patchSize));
    this.positionEmbedding = this.child('position_embedding', new Embedding(positionSide * positionSide, hiddenSize));
  }

  /** (N, n, D) */
  forward(group: PictureGroup): Tensor {
    const x = this.patchEmbedding.forward(group);
    const ids = positionIdsOf(group.lengths ? group.pictures : [group], this.config.positionSide, this.#buckets);
    return ops.add(x, this.positionEmbedding.forward(fromTypedArray(ids, [ids.length], 'int64', x.device)));
  }
}

class SiglipLayer extends Module {
  readonly selfAttn: VisionAttention;
  readonly layerNorm1: LayerNorm;
  readonly mlp: VisionMlp;
  readonly layerNorm2: LayerNorm;

  constructor({ hiddenSize, intermediateSize, numHeads, layerNormEps }: VisionConfig) {
    super();
    this.selfAttn = this.child('self_attn', new VisionAttention(hiddenSize, numHeads));
    this.layerNorm1 = this.child('layer_norm1', new LayerNorm(hiddenSize, layerNormEps));
    this.mlp = this.child('mlp', new VisionMlp(hiddenSize, intermediateSize, 'tanh'));
    this.layerNorm2 = this.child('layer_norm2', new LayerNorm(hiddenSize, layerNormEps));
  }

  forward(x: Tensor, lengths?: readonly number[]): Tensor {
    const y = ops.add(x, this.selfAttn.forward(this.layerNorm1.forward(x), lengths));
    return this.mlp.residual(y, this.layerNorm2);
  }
}

/** The tower of the navit models, with a merger of windows inside where patches are merged. */
export class SiglipVisionTower extends Module implements VisionTower {
  readonly embeddings: SiglipEmbeddings;
  readonly layers: readonly SiglipLayer[];
  readonly vitMerger: WindowMerger | undefined;
  readonly postLayernorm: LayerNorm;
  /** The layer after which patches are merged; undefined: nowhere. */
  readonly #mergesAfter: number | undefined;

  constructor(config: VisionConfig, buckets: Buckets, merger: MergerConfig | null) {
    super();
    this.embeddings = this.child('embeddings', new SiglipEmbeddings(config, buckets));
    this.layers = Array.from({ length: config.numLayers }, () => new SiglipLayer(config));
    this.vitMerger = merger === null ? undefined : new WindowMerger(config);
    for (const [i, layer] of this.layers.entries()) {
      this.child(`encoder.layers.${i}`, layer);
      if (this.vitMerger !== undefined && i === merger?.insertLayer) this.child('vit_merger', this.vitMerger);
    }
    this.postLayernorm = this.child('post_layernorm', new LayerNorm(config.hiddenSize, config.layerNormEps));
    this.#mergesAfter = merger?.downsampleMode === '16x' ? merger.insertLayer : undefined;
  }

  outputGrid(grid: Grid): Grid {
    return this.#mergesAfter === undefined ? grid : mergedGrid(grid);
  }

  /** The tower for one group of pictures, block by block; the last output is (N, n, D), N = 1 for a packed group. */
  stages(path: string, group: PictureGroup): Stage[] {
    const merged = group.lengths?.map((length) => length / 4);
    const layers = this.layers.flatMap((layer, i): Stage[] => {
      const lengths = this.#mergesAfter === undefined || i <= this.#mergesAfter ? group.lengths : merged;
      const block = stage(`${path}.encoder.layers.${i}`, layer, (x) => layer.forward(x, lengths));
      if (i !== this.#mergesAfter) return [block];
      const merger = this.vitMerger!;
      return [block, stage(`${path}.vit_merger`, merger, (x) => merger.forward(x, group))];
    });
    return [
      stage(`${path}.embeddings`, this.embeddings, () => this.embeddings.forward(group)),
      ...layers,
      stage(`${path}.post_layernorm`, this.postLayernorm, (x) => this.postLayernorm.forward(x)),
    ];
  }
}
