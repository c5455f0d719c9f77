/**
 * Rotary position embeddings and LongRoPE. Rotary embeddings (Su et al., 2021) in the half-split form of Hugging Face,
 * and LongRoPE's two sets of frequencies (Ding et al., 2024). Angles are computed in float32; the cosines and sines are
 * cast to the type of what they rotate.
 */
import { strict as assert } from 'node:assert';
import type { LlmConfig } from '@minicpm-finetune/processor';
import { copyTo, type DType, fromTypedArray, ops, scope, type Tensor, tensor } from '@minicpm-finetune/torch';

/** Inverse frequencies (rotaryDim / 2), float32, for sequences of up to `length` positions: computed on the CPU, so that they are the same everywhere. */
export function inverseFrequencies(
  { rotaryDim, ropeTheta, longRope }: LlmConfig,
  length: number,
  device = 'cpu',
): Tensor {
  return scope(() => {
    const exponents = ops.divScalar(ops.arange(0, rotaryDim, 2, { dtype: 'float32' }), rotaryDim);
    const periods = ops.powBase(ropeTheta, exponents);
    if (longRope === null) return copyTo(ops.reciprocal(periods), device);
    const { shortFactor, longFactor, originalMaxPositions } = longRope;
    const factors = tensor([...(length > originalMaxPositions ? longFactor : shortFactor)]);
    return copyTo(ops.reciprocal(ops.mul(factors, periods)), device);
  });
}

/**
 * Cosines and sines of every position: (2, B, 1, L, rotaryDim / 2), for position ids (B, L) or (3, B, L) int64 below `length`, in the type and on the
 * device of `like`. Without `length` the largest id is looked up where it matters.
 */
export function rotaryTable(config: LlmConfig, positionIds: Tensor, like: Tensor, length?: number): Tensor {
  const longest = config.longRope === null ? 0 : (length ?? ops.maxAll(positionIds).item() + 1);
  const frequencies = inverseFrequencies(config, longest, like.device);
  const positions = positionsOf(config, ops.to(positionIds, 'float32')); // (B, L, 1 or rotaryDim / 2)
  const angles = ops.unsqueeze(ops.mul(positions, frequencies), 1); // (B, 1, L, rotaryDim / 2)
  const table = ops.stack([ops.cos(angles), ops.sin(angles)]);
  const factor = config.longRope?.attentionFactor ?? 1;
  return ops.to(factor === 1 ? table : ops.mulScalar(table, factor), like.dtype);
}

/** The position that each frequency turns by: (B, L, 1), or, of three positions a token (3, B, L), (B, L, rotaryDim / 2). */
function positionsOf({ mropeSection, rotaryDim }: LlmConfig, positions: Tensor): Tensor {
  if (positions.shape.length === 2) return ops.unsqueeze(positions, -1);
  assert.ok(mropeSection !== null, 'three positions for a model with a canvas');
  const axes = BigInt64Array.from({ length: rotaryDim / 2 }, (_, j) =>
    BigInt(j < 3 * mropeSection[j % 3]! ? j % 3 : 0),
  );
  const index = fromTypedArray(axes, [axes.length], 'int64', positions.device);
  return ops.permute(ops.indexSelect(positions, 0, index), [1, 2, 0]);
}

/**
 * Cosines and sines of the position of each of N sequences: (2, N, rotaryDim / 2) float32 on the CPU, with the values that `dtype` has. A row
 * depends on its own position alone.
 */
export function rotaryRows(config: LlmConfig, positions: readonly number[], dtype: DType): Tensor {
  const half = config.rotaryDim / 2;
  const factor = config.longRope?.attentionFactor ?? 1;
  const values = new Float32Array(2 * positions.length * half);
  const sines = positions.length * half;
  positions.forEach((position, row) => {
    knownFrequencies(config, position + 1).forEach((frequency, i) => {
      const angle = Math.fround(position * frequency);
      values[row * half + i] = factor * Math.cos(angle);
      values[sines + row * half + i] = factor * Math.sin(angle);
    });
  });
  return scope(() => {
    const table = fromTypedArray(values, [2, positions.length, half]);
    return ops.to(ops.to(table, dtype), 'float32');
  });
}

const frequencies = new WeakMap<LlmConfig, Map<boolean, readonly number[]>>();

/** `inverseFrequencies` as numbers, computed once. */
function knownFrequencies(config: LlmConfig, length: number): readonly number[] {
  const known = frequencies.get(config) ?? new Map<boolean, readonly number[]>();
  frequencies.set(config, known);
  const isLong = config.longRope !== null && length > config.longRope.originalMaxPositions;
  const values = known.get(isLong) ?? scope(() => inverseFrequencies(config, length).toNumbers());
  known.set(isLong, values);
  return values;
}

/** Rotates the first dimensions of x (B, H, L, headDim) by a table of `rotaryTable`: their first half is paired with the second. */
export function rotate(x: Tensor, table: Tensor): Tensor {
  return ops.rotary(x, table);
}
