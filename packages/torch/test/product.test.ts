import { beforeEach, describe, expect, it } from 'vitest';
import {
  enableGrad,
  grad,
  keep,
  manualSeed,
  noGrad,
  ops,
  scope,
  type Tensor,
  tensorBytes,
  tuneAllocator,
} from '../src/index.js';
import { roundings } from './precision.js';

beforeEach(() => manualSeed(1)); // otherwise other numbers each time, of which some would be rare

const random = (shape: readonly number[]): Tensor => ops.to(ops.randn(shape), 'bfloat16');
const wide = (x: Tensor): Tensor => ops.to(ops.detach(x), 'float32');

/** Output and gradients of x, weight and bias. */
function linear(x: Tensor, weight: Tensor, bias: Tensor | undefined, gradient: Tensor): Tensor[] {
  const leaves = [x, weight, ...(bias === undefined ? [] : [bias])].map((given) => {
    const leaf = ops.detach(given);
    leaf.requiresGrad = true;
    return leaf;
  });
  const y = enableGrad(() => ops.linear(leaves[0]!, leaves[1]!, leaves[2] ?? null));
  return [y, ...grad([y], leaves, { gradOutputs: [gradient] }).map((g) => g!)];
}

// Rows, inputs, outputs: more than one part of the inputs, and rows, inputs and outputs that fill no block.
const CASES = [
  [1024, 1536, 1400, true],
  [1030, 2306, 920, false],
  [2111, 4800, 450, true],
  [1100, 700, 3001, true],
] as const;

describe('linear in bfloat16, of many rows', () => {
  it.each(CASES)(
    '%i rows, %i inputs, %i outputs, bias %s: each number is that of float32, rounded',
    (rows, inputs, outputs, biased) => {
      scope(() => {
        const [x, weight, gradient] = [
          random([1, rows, inputs]),
          random([outputs, inputs]),
          random([1, rows, outputs]),
        ];
        const bias = biased ? random([outputs]) : undefined;
        const found = linear(x, weight, bias, gradient);
        const expected = linear(wide(x), wide(weight), bias && wide(bias), wide(gradient));
        const counts = [inputs, outputs, rows, rows];
        for (const [i, result] of found.entries()) {
          expect(result.dtype).toBe('bfloat16');
          expect(result.shape).toEqual(expected[i]!.shape);
          // One rounding of the number itself, and those of a float32 sum of products about 1 large; a bias' gradient is a sum of libtorch's.
          const own = ops.mulScalar(ops.abs(wide(expected[i]!)), roundings(i === 3 ? 2 : 1, 'bfloat16'));
          const slack = ops.sub(ops.abs(ops.sub(wide(result), wide(expected[i]!))), own);
          expect(
            noGrad(() =>
              ops.amax(
                slack,
                slack.shape.map((_, dim) => dim),
              ),
            ).item(),
            `result ${i}`,
          ).toBeLessThan(roundings(8 * counts[i]!));
        }
      });
    },
  );

  it('keeps no input for a frozen weight', () => {
    tuneAllocator(); // it counts
    scope(() => {
      const [weight, scale] = [random([2048, 1024]), random([1])];
      scale.requiresGrad = true;
      const before = tensorBytes().inUse;
      const y = enableGrad(() => scope(() => keep(ops.linear(ops.mul(random([2048, 1024]), scale), weight, null))));
      // y; and what the product with `scale` keeps: its first operand
      const kept = tensorBytes().inUse - before;
      expect(kept).toBeGreaterThanOrEqual(2 * y.numel);
      expect(kept).toBeLessThan(2 * (y.numel + 2048 * 1024) + 1e5);
    });
  });
});
