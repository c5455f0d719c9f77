/**
 * The resampler: a picture's patches to a few tokens. A fixed number of learned queries attend once to the patches (one
 * cross-attention layer, as in Qwen-VL, Bai et al., 2023). Keys know their place by a two-dimensional sine-cosine
 * table, values do not.
 *
 * Shapes: N pictures, n patches, V vision width, D hidden size of the language model, Q queries, H heads.
 */
import {
  fromTypedArray,
  LayerNorm,
  Linear,
  linear,
  Module,
  ops,
  type Parameter,
  type Tensor,
} from '@minicpm-finetune/torch';
import type { Grid, Picture } from './patches.js';
import type { Connector } from './stage.js';

const HEAD_DIM = 128;
const EPS = 1e-6;
/** The time of pictures that have none. */
const NO_TIME = -1;

/** Sines and cosines of `count` positions along one axis: (count, dim), float32; the first half are the sines. */
function axisTable(count: number, dim: number, device: string): Tensor {
  const half = dim / 2;
  const exponents = ops.divScalar(ops.arange(0, half, 1, { dtype: 'float32', device }), half);
  const frequencies = ops.reciprocal(ops.powBase(10_000, exponents));
  const angles = ops.outer(ops.arange(0, count, 1, { dtype: 'float32', device }), frequencies);
  return ops.cat([ops.sin(angles), ops.cos(angles)], 1);
}

/** The position table of a grid: (rows * cols, dim), float32, row by row. The first half of `dim` encodes the column, the second the row. */
export function sinCosTable(rows: number, cols: number, dim: number, device = 'cpu'): Tensor {
  const across = ops.unsqueeze(axisTable(cols, dim / 2, device), 0);
  const down = ops.unsqueeze(axisTable(rows, dim / 2, device), 1);
  const half = [rows, cols, dim / 2];
  return ops.reshape(ops.cat([ops.expand(across, half), ops.expand(down, half)], 2), [rows * cols, dim]);
}

/**
 * Sines and cosines (dim) of the time of each patch of pictures one after the other: (patches of all, dim), float32. Zero where a picture has no
 * time. Frequencies and products are rounded to float32 before the sine.
 */
function timeTable(pictures: readonly TimedGrid[], dim: number, device: string): Tensor {
  const half = dim / 2;
  const frequencies = Array.from({ length: half }, (_, i) =>
    Math.fround(1 / Math.fround(10_000 ** Math.fround(i / half))),
  );
  const rows = pictures.map(({ temporalId = NO_TIME }) => {
    if (temporalId === NO_TIME) return new Float32Array(dim);
    const angles = frequencies.map((frequency) => Math.fround(temporalId * frequency));
    return Float32Array.from([...angles.map(Math.sin), ...angles.map(Math.cos)]);
  });
  const table = new Float32Array(rows.length * dim);
  for (const [i, row] of rows.entries()) table.set(row, i * dim);
  const place = pictures.flatMap(({ rows: down, cols }, i) => new Array<bigint>(down * cols).fill(BigInt(i)));
  const index = fromTypedArray(BigInt64Array.from(place), [place.length], 'int64', device);
  return ops.indexSelect(fromTypedArray(table, [rows.length, dim], 'float32', device), 0, index);
}

/** A picture's grid with its time. */
export type TimedGrid = Grid & Pick<Picture, 'temporalId'>;

/** Whether any picture has a time; without, nothing is added for it. */
export const hasTimes = (pictures: readonly TimedGrid[]): boolean =>
  pictures.some(({ temporalId = NO_TIME }) => temporalId !== NO_TIME);

/** The tables of grids one after the other: (patches of all, dim), float32. */
function packedTable(grids: readonly Grid[], dim: number, device: string): Tensor {
  const count = grids.reduce((sum, { rows, cols }) => sum + rows * cols, 0);
  const [across, down] = [new Int32Array(count), new Int32Array(count)];
  let at = 0;
  for (const { rows, cols } of grids)
    for (let row = 0; row < rows; row++)
      for (let col = 0; col < cols; col++, at++) {
        across[at] = col;
        down[at] = row;
      }
  const table = axisTable(Math.max(...grids.flatMap(({ rows, cols }) => [rows, cols])), dim / 2, device);
  const pick = (places: Int32Array): Tensor =>
    ops.indexSelect(table, 0, fromTypedArray(places, [count], 'int32', device));
  return ops.cat([pick(across), pick(down)], 1);
}

/** PyTorch's MultiheadAttention, whose stacked projection it stores. */
class ResamplerAttention extends Module {
  readonly inProjWeight: Parameter;
  readonly inProjBias: Parameter;
  readonly outProj: Linear;
  readonly heads: number;

  readonly dim: number;

  constructor(dim: number) {
    super();
    this.dim = dim;
    this.heads = Math.floor(dim / HEAD_DIM);
    this.inProjWeight = this.parameter('in_proj_weight', [3 * dim, dim]);
    this.inProjBias = this.parameter('in_proj_bias', [3 * dim]);
    this.outProj = this.child('out_proj', new Linear(dim, dim, { bias: true }));
  }

  /**
   * @param query (Q, D), the same for all pictures
   * @param key (N, n, D), as `value`
   * @param lengths patches of each picture, where all lie one after the other in one row: key and value (1, n, D)
   * @returns (N, Q, D)
   */
  forward(query: Tensor, key: Tensor, value: Tensor, lengths?: readonly number[]): Tensor {
    const D = this.dim;
    const weights = ops.split(this.inProjWeight.data, D);
    const biases = ops.split(this.inProjBias.data, D);
    const project = (x: Tensor, i: number): Tensor => {
      const y = linear(x, weights[i]!, biases[i]!);
      return ops.transpose(ops.reshape(y, [...y.shape.slice(0, -1), this.heads, D / this.heads]), -3, -2);
    };
    const k = project(key, 1); // (N, H, n, D/H)
    const v = project(value, 2);
    const N = lengths?.length ?? k.size(0);
    const Q = query.size(0);
    const each = ops.expand(project(query, 0), [N, this.heads, Q, D / this.heads]);
    const row = (x: Tensor): Tensor =>
      ops.transpose(ops.reshape(ops.transpose(x, 1, 2), [1, N * Q, this.heads, -1]), 1, 2);
    const y = lengths
      ? ops.attention(row(each), k, v, { lengths, query_lengths: lengths.map(() => Q) })
      : ops.attention(each, k, v);
    return this.outProj.forward(ops.reshape(ops.transpose(y, 1, 2), [N, Q, D]));
  }
}

export interface ResamplerConfig {
  readonly queryNum: number;
  readonly dim: number;
  readonly visionDim: number;
  /** Whether a position table for the queries is stored (MiniCPM-V-2). */
  readonly storedPosEmbed: boolean;
}

export class Resampler extends Module implements Connector {
  readonly query: Parameter;
  readonly proj: Parameter;
  readonly posEmbed: Parameter | undefined;
  /** Absent where the vision tower has the language model's width. */
  readonly kvProj: Linear | undefined;
  readonly attn: ResamplerAttention;
  readonly lnQ: LayerNorm;
  readonly lnKv: LayerNorm;
  readonly lnPost: LayerNorm;
  readonly #queryNum: number;

  constructor({ queryNum, dim, visionDim, storedPosEmbed }: ResamplerConfig) {
    super();
    this.#queryNum = queryNum;
    this.posEmbed = storedPosEmbed ? this.parameter('pos_embed', [queryNum, dim]) : undefined;
    this.query = this.parameter('query', [queryNum, dim]);
    this.proj = this.parameter('proj', [dim, dim]);
    this.kvProj = visionDim === dim ? undefined : this.child('kv_proj', new Linear(visionDim, dim, { bias: false }));
    this.attn = this.child('attn', new ResamplerAttention(dim));
    this.lnQ = this.child('ln_q', new LayerNorm(dim, EPS));
    this.lnKv = this.child('ln_kv', new LayerNorm(dim, EPS));
    this.lnPost = this.child('ln_post', new LayerNorm(dim, EPS));
  }

  tokensOf(): number {
    return this.#queryNum;
  }

  /** Features (N, rows * cols, V) of pictures of one shape, row by row, to their tokens (N, Q, D). */
  forward(features: Tensor, rows: number, cols: number): Tensor {
    return this.#tokens(features, sinCosTable(rows, cols, this.proj.shape[0]!, features.device));
  }

  /** Features (1, n, V) of pictures of any shapes, one after the other, to their tokens (1, N * Q, D). */
  forwardPacked(features: Tensor, grids: readonly Grid[]): Tensor {
    const table = packedTable(grids, this.proj.shape[0]!, features.device);
    const lengths = grids.map(({ rows, cols }) => rows * cols);
    return ops.reshape(this.#tokens(features, table, lengths), [1, -1, this.proj.shape[0]!]);
  }

  /**
   * Features (1, n, V) of groups of pictures, one after the other, to the tokens of each group (N, Q, D): all patches of a group are looked at
   * together. Keys know the time of their picture beside their place.
   */
  forwardGroups(features: Tensor, groups: readonly (readonly TimedGrid[])[]): Tensor {
    const pictures = groups.flat();
    const [dim, { device }] = [this.proj.shape[0]!, features];
    const places = packedTable(pictures, dim, device);
    const table = hasTimes(pictures) ? ops.add(places, timeTable(pictures, dim, device)) : places;
    const lengths = groups.map((group) => group.reduce((sum, { rows, cols }) => sum + rows * cols, 0));
    return this.#tokens(features, table, lengths);
  }

  #tokens(features: Tensor, table: Tensor, lengths?: readonly number[]): Tensor {
    const value = this.lnKv.forward(this.kvProj?.forward(features) ?? features);
    const key = ops.add(value, ops.to(table, value.dtype));
    const learned = this.lnQ.forward(this.query.data);
    const query = this.posEmbed === undefined ? learned : ops.add(learned, this.posEmbed.data);
    return ops.matmul(this.lnPost.forward(this.attn.forward(query, key, value, lengths)), this.proj.data);
  }
}
