/** How far results of rounded arithmetic may be apart: it follows from the type and the size of the numbers, so that it holds on every processor. */
import { expect } from 'vitest';

/** The largest relative error of rounding one number to a type. */
const ROUNDING = { float32: 2 ** -24, float16: 2 ** -11, bfloat16: 2 ** -8 } as const;

/**
 * The relative error of `count` roundings one after another, in the worst case. Processors, thread counts and matrix shapes sum in different orders:
 * the errors of a float32 sum of n numbers have both signs and come to about √n roundings of the largest one.
 */
export const roundings = (count: number, dtype: keyof typeof ROUNDING = 'float32'): number => count * ROUNDING[dtype];

/** Of features, logits and losses of a tiny float32 model: some 20 operators in a row that sum up to 64 numbers. */
export const FORWARD = roundings(20 * Math.sqrt(64));

/** Of its gradients, relative to the largest: products of what went forward and what came backward, summed over positions. */
export const BACKWARD = 3 * FORWARD;

/** Expects each number within `tolerance` of the one expected, relative to the largest magnitude expected. */
export function expectNear(
  actual: number | readonly number[],
  expected: number | readonly number[],
  tolerance: number,
): void {
  const [values, wanted] = [[actual].flat(), [expected].flat()];
  expect(values).toHaveLength(wanted.length);
  const most = tolerance * Math.max(...wanted.map(Math.abs));
  for (const [i, value] of values.entries())
    expect(Math.abs(value - wanted[i]!), `number ${i}: ${value}, expected ${wanted[i]}`).toBeLessThanOrEqual(most);
}
