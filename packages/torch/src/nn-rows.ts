/**
 * Layers of generation in one operator. For `eachRowAlone`, with the bits that they have one by one. Not here: the layers
 * (nn.ts), what makes a row independent of others (native/rows.cc).
 */
import { type Linear, type LowRankRows, type Parameter, type RMSNorm, type RowsWeight, rowsStandAlone } from './nn.js';
import { ops } from './ops.js';
import type { Tensor } from './tensor.js';

/** A weight as products of rows take it; undefined where they cannot, so that it has to be made or widened first. */
export function rowsWeight(parameter: Parameter): RowsWeight | undefined {
  if (parameter.compact !== undefined) return parameter.compact.rows;
  const { data } = parameter;
  return data.dtype === 'float16' ? undefined : { weight: data, scales: null };
}

/** Of linear layers one after the other: weights, and the low-rank factors of their adapters. */
export interface RowsLayers {
  readonly weights: readonly Tensor[];
  readonly biases: readonly (Tensor | null)[];
  readonly scales: readonly (Tensor | null)[];
  readonly adapters: readonly (readonly LowRankRows[])[];
}

/**
 * What one operator of generation takes of linear layers for the rows of x (N, …). Undefined outside of `eachRowAlone`, and where a layer has
 * an adapter that is more than low-rank factors.
 */
export function rowsLayers(layers: readonly Linear[], x: Tensor): RowsLayers | undefined {
  if (!rowsStandAlone()) return undefined;
  const weights = layers.map(({ weight }) => rowsWeight(weight)).filter((rows) => rows !== undefined);
  const adapters = layers
    .map(({ adapter }) => (adapter === undefined ? [] : adapter.lowRank(x.size(0), x.dtype)))
    .filter((factors) => factors !== undefined);
  if (weights.length < layers.length || adapters.length < layers.length) return undefined;
  const biases = layers.map(({ bias }) => bias?.data ?? null);
  return {
    weights: weights.map(({ weight }) => weight),
    biases,
    scales: weights.map(({ scales }) => scales),
    adapters,
  };
}

/** The last arguments of an operator of several layers: what their adapters do. */
export function lowRankArguments(
  adapters: readonly (readonly LowRankRows[])[],
): [places: number[], factors: Tensor[], scalings: number[]] {
  const places = adapters.flatMap((own, layer) => own.flatMap(({ from, count }) => [layer, from, count]));
  const all = adapters.flat();
  return [places, all.flatMap(({ down, up }) => [down, up]), all.map(({ scaling }) => scaling)];
}

/**
 * x + scale · mlp(norm(x)) in one operator, where mlp(y) = down(silu(gate(y)) · up(y)): the same bits as layer by layer. Undefined where
 * `rowsLayers` is: compute layer by layer.
 */
export function rowsMlp(
  x: Tensor,
  norm: RMSNorm,
  layers: readonly [gate: Linear, up: Linear, down: Linear],
  scale: number,
): Tensor | undefined {
  const rows = rowsLayers(layers, x);
  if (rows === undefined) return undefined;
  const { weights, biases, scales, adapters } = rows;
  const [weight, eps, offset] = [norm.weight.data, norm.eps, norm.offset];
  return ops.rowsMlp(x, weight, eps, offset, weights, biases, scales, scale, ...lowRankArguments(adapters));
}
