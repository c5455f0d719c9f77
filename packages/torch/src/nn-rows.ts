/**
 * Layers of generation in one operator. For `eachRowAlone`, with the bits that they have one by one. Not here: the layers
 * (nn.ts), what makes a row independent of others (native/rows.cc).
 */
import { type Linear, type Parameter, type RMSNorm, type RowsWeight, rowsStandAlone } from './nn.js';
import { ops } from './ops.js';
import type { Tensor } from './tensor.js';

/** A weight as products of rows take it; undefined where they cannot, so that it has to be made or widened first. */
export function rowsWeight(parameter: Parameter): RowsWeight | undefined {
  if (parameter.compact !== undefined) return parameter.compact.rows;
  const { data } = parameter;
  return data.dtype === 'float16' ? undefined : { weight: data, scales: null };
}

/** Of linear layers one after the other. */
export interface RowsLayers {
  readonly weights: readonly Tensor[];
  readonly biases: readonly (Tensor | null)[];
  readonly scales: readonly (Tensor | null)[];
}

/** What one operator of generation takes of linear layers; undefined outside of `eachRowAlone`, and where a layer has an adapter. */
export function rowsLayers(layers: readonly Linear[]): RowsLayers | undefined {
  if (!rowsStandAlone() || layers.some(({ adapter }) => adapter !== undefined)) return undefined;
  const all = layers.map(({ weight }) => rowsWeight(weight)).filter((rows) => rows !== undefined);
  if (all.length < layers.length) return undefined;
  const biases = layers.map(({ bias }) => bias?.data ?? null);
  return { weights: all.map(({ weight }) => weight), biases, scales: all.map(({ scales }) => scales) };
}

/**
 * x + scale · mlp(norm(x)) in one operator, where mlp(y) = down(silu(gate(y)) · up(y)): the same bits as layer by layer. Undefined outside of
 * `eachRowAlone`, and where a layer has an adapter: compute layer by layer.
 */
export function rowsMlp(
  x: Tensor,
  norm: RMSNorm,
  layers: readonly [gate: Linear, up: Linear, down: Linear],
  scale: number,
): Tensor | undefined {
  const rows = rowsLayers(layers);
  if (rows === undefined) return undefined;
  const { weights, biases, scales } = rows;
  return ops.rowsMlp(x, norm.weight.data, norm.eps, norm.offset, weights, biases, scales, scale);
}
