/** How far results of rounded arithmetic may be apart: it follows from the type and the size of the numbers, so that it holds on every processor. */
import { expect } from 'vitest';

/** The largest relative error of rounding one number to a type. */
const ROUNDING = { float32: 2 ** -24, float16: 2 ** -11, bfloat16: 2 ** -9 } as const;

/**
 * The relative error of `count` roundings one after another, in the worst case. Processors, thread counts and matrix shapes sum in different orders:
 * the errors of a float32 sum of n numbers have both signs and come to about √n roundings of the largest one.
 */
export const roundings = (count: number, dtype: keyof typeof ROUNDING = 'float32'): number => count * ROUNDING[dtype];

/** Expects each number within `count` roundings of the largest magnitude that is expected. */
export function expectNear(
  actual: number | readonly number[],
  expected: number | readonly number[],
  count: number,
  dtype: keyof typeof ROUNDING = 'float32',
): void {
  const [values, wanted] = [[actual].flat(), [expected].flat()];
  expect(values).toHaveLength(wanted.length);
  const most = roundings(count, dtype) * Math.max(...wanted.map(Math.abs));
  for (const [i, value] of values.entries())
    expect(Math.abs(value - wanted[i]!), `number ${i}: ${value}, expected ${wanted[i]}`).toBeLessThanOrEqual(most);
}
