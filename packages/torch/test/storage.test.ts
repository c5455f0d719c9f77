/** Memory behind tensors that stay, and what the optimizer needs of its own operators. */
import { describe, expect, it } from 'vitest';
import {
  dropStorage,
  enableGrad,
  fillStorage,
  grad,
  hasStorage,
  keep,
  liveTensors,
  manualSeed,
  noGrad,
  ops,
  ownsStorage,
  pieceOf,
  scope,
  setThreads,
  threads,
} from '../src/index.js';

describe('a tensor whose memory comes and goes', () => {
  it('keeps shape, type and pieces; operators that read it say so', () => {
    scope(() => {
      const flat = ops.ones([6]);
      const piece = pieceOf(flat, 2, [2, 2]);
      const before = liveTensors().bytes;
      dropStorage(flat);
      expect(hasStorage(piece)).toBe(false);
      expect(liveTensors().bytes).toBe(before - flat.nbytes);
      expect(piece.shape).toEqual([2, 2]);
      expect(() => ops.add(piece, piece)).toThrow('the memory of Float[2, 2] was given back');
      fillStorage(flat);
      noGrad(() => ops.copy_(flat, ops.full([6], 3)));
      expect(piece.toNumbers()).toEqual([3, 3, 3, 3]);
    });
  });

  it('may be a leaf of a graph that is kept meanwhile: gradients are the same', () => {
    scope(() => {
      manualSeed(1);
      const values = ops.randn([64 * 64]);
      const x = ops.randn([3, 64]);
      const gradients = [false, true].map((goes) => {
        const flat = ops.clone(values);
        const weight = keep(pieceOf(flat, 0, [64, 64]));
        weight.requiresGrad = true;
        const y = enableGrad(() => ops.sumAll(ops.silu(ops.linear(ops.silu(ops.linear(x, weight)), weight))));
        if (goes) {
          dropStorage(flat);
          fillStorage(flat);
          noGrad(() => ops.copy_(flat, values)); // a write that autograd would refuse for an ordinary view
        }
        const [gradient] = grad([y], [weight]);
        return gradient!.toNumbers();
      });
      expect(gradients[1]).toEqual(gradients[0]);
    });
  });

  it('is one that libtorch allocated', () => {
    scope(() => expect(ownsStorage(ops.zeros([3]))).toBe(true));
  });
});

describe('sumOfSquares', () => {
  it.each(['float32', 'bfloat16', 'float16', 'float64'] as const)('is exact to float64 in %s', (dtype) => {
    scope(() => {
      manualSeed(2);
      const tensors = [70_000, 3, 0, 16_384].map((count) => ops.to(ops.randn([count]), dtype));
      const want = tensors.flatMap((one) => one.toNumbers()).reduce((sum, x) => sum + x * x, 0);
      // Float64 in another order: some 90 000 additions of positive numbers, each rounded.
      expect(Math.abs(ops.sumOfSquares(tensors).item() / want - 1)).toBeLessThan(90_000 * 2 ** -53);
    });
  });

  it('has the same bits for any number of threads, also of what is not contiguous', () => {
    scope(() => {
      const x = ops.randn([300, 700]);
      const before = threads();
      const sums = [1, 2, 3].map((count) => {
        setThreads(count);
        return ops.sumOfSquares([x]).item();
      });
      setThreads(before);
      expect(new Set(sums).size).toBe(1);
      const turned = ops.transpose(x, 0, 1);
      expect(ops.sumOfSquares([turned]).item()).toBe(ops.sumOfSquares([ops.contiguous(turned)]).item());
    });
  });

  it('does not overflow where the sum is larger than float32, and is infinite where a number is', () => {
    scope(() => {
      expect(ops.sumOfSquares([ops.full([4], 1e30)]).item()).toBeCloseTo(4e60, -58);
      expect(ops.sumOfSquares([ops.full([2], Number.POSITIVE_INFINITY)]).item()).toBe(Number.POSITIVE_INFINITY);
    });
  });
});
