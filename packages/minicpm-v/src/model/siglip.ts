/**
 * The vision tower of MiniCPM-V 2.5 and later: SigLIP. SigLIP (Zhai et al., 2023) on pictures of any shape, with the
 * patch positions of NaViT (Dehghani et al., 2023), as in transformers' Idefics2 vision model. Parameter names are the
 * checkpoint's.
 *
 * Shapes: N pictures, n patches, D hidden size, H heads.
 */

import type { VisionConfig } from '@minicpm-finetune/processor';
import { Embedding, fromTypedArray, LayerNorm, Linear, Module, ops, type Tensor } from '@minicpm-finetune/torch';
import { PatchEmbedding, type PictureGroup } from './patches.js';
import { type Stage, stage, type VisionTower } from './stage.js';
import { VisionMlp } from './vision-mlp.js';

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

/** Rows of the position table for a grid of patches, row by row. */
export function positionIds(rows: number, cols: number, side: number): BigInt64Array {
  const down = positionBuckets(rows, side);
  const across = positionBuckets(cols, side);
  return BigInt64Array.from(down.flatMap((row) => across.map((col) => BigInt(row * side + col))));
}

class SiglipEmbeddings extends Module {
  readonly patchEmbedding: PatchEmbedding;
  readonly positionEmbedding: Embedding;

  constructor(readonly config: VisionConfig) {
    super();
    const { hiddenSize, patchSize, positionSide } = config;
    this.patchEmbedding = this.child('patch_embedding', new PatchEmbedding(hiddenSize, patchSize));
    this.positionEmbedding = this.child('position_embedding', new Embedding(positionSide * positionSide, hiddenSize));
  }

  /** (N, n, D) */
  forward({ pictures, rows, cols }: PictureGroup): Tensor {
    const n = rows * cols;
    const x = this.patchEmbedding.forward(pictures, n);
    const ids = fromTypedArray(positionIds(rows, cols, this.config.positionSide), [n], 'int64', x.device);
    return ops.add(x, this.positionEmbedding.forward(ids));
  }
}

class SiglipAttention extends Module {
  readonly qProj: Linear;
  readonly kProj: Linear;
  readonly vProj: Linear;
  readonly outProj: Linear;

  constructor(
    dim: number,
    readonly heads: number,
  ) {
    super();
    this.kProj = this.child('k_proj', new Linear(dim, dim, { bias: true }));
    this.vProj = this.child('v_proj', new Linear(dim, dim, { bias: true }));
    this.qProj = this.child('q_proj', new Linear(dim, dim, { bias: true }));
    this.outProj = this.child('out_proj', new Linear(dim, dim, { bias: true }));
  }

  forward(x: Tensor): Tensor {
    const [N, n, D] = x.shape as [number, number, number];
    const split = (y: Tensor): Tensor => ops.transpose(ops.reshape(y, [N, n, this.heads, D / this.heads]), 1, 2); // (N, H, n, D/H)
    const y = ops.attention(split(this.qProj.forward(x)), split(this.kProj.forward(x)), split(this.vProj.forward(x)));
    return this.outProj.forward(ops.reshape(ops.transpose(y, 1, 2), [N, n, D]));
  }
}

class SiglipLayer extends Module {
  readonly selfAttn: SiglipAttention;
  readonly layerNorm1: LayerNorm;
  readonly mlp: VisionMlp;
  readonly layerNorm2: LayerNorm;

  constructor({ hiddenSize, intermediateSize, numHeads, layerNormEps }: VisionConfig) {
    super();
    this.selfAttn = this.child('self_attn', new SiglipAttention(hiddenSize, numHeads));
    this.layerNorm1 = this.child('layer_norm1', new LayerNorm(hiddenSize, layerNormEps));
    this.mlp = this.child('mlp', new VisionMlp(hiddenSize, intermediateSize, 'tanh'));
    this.layerNorm2 = this.child('layer_norm2', new LayerNorm(hiddenSize, layerNormEps));
  }

  forward(x: Tensor): Tensor {
    const y = ops.add(x, this.selfAttn.forward(this.layerNorm1.forward(x)));
    return ops.add(y, this.mlp.forward(this.layerNorm2.forward(y)));
  }
}

/** `vpm` of the navit models. */
export class SiglipVisionTower extends Module implements VisionTower {
  readonly embeddings: SiglipEmbeddings;
  readonly layers: readonly SiglipLayer[];
  readonly postLayernorm: LayerNorm;

  constructor(config: VisionConfig) {
    super();
    this.embeddings = this.child('embeddings', new SiglipEmbeddings(config));
    this.layers = this.childList(
      'encoder.layers',
      Array.from({ length: config.numLayers }, () => new SiglipLayer(config)),
    );
    this.postLayernorm = this.child('post_layernorm', new LayerNorm(config.hiddenSize, config.layerNormEps));
  }

  /** The tower for one group of pictures, block by block; the last output is (N, n, D). */
  stages(path: string, group: PictureGroup): Stage[] {
    return [
      stage(`${path}.embeddings`, this.embeddings, () => this.embeddings.forward(group)),
      ...this.layers.map((layer, i) => stage(`${path}.encoder.layers.${i}`, layer, (x) => layer.forward(x))),
      stage(`${path}.post_layernorm`, this.postLayernorm, (x) => this.postLayernorm.forward(x)),
    ];
  }
}
