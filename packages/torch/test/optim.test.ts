import { describe, expect, it } from 'vitest';
import { AdamW, fromTypedArray, keep, liveTensors, ops, scope, type Tensor, tensor } from '../src/index.js';
import { expectNear, roundings } from './precision.js';

const OPTIONS = { beta1: 0.9, beta2: 0.95, eps: 1e-8 };

/** One step from the same start with a gradient. */
function stepped(gradient: Tensor): number[] {
  const weight = tensor([
    [1, 2, 3],
    [4, 5, 6],
  ]);
  const optimizer = new AdamW([{ name: 'all', params: new Map([['w', weight]]), lr: 0.1, weightDecay: 0.1 }], OPTIONS);
  optimizer.step(new Map([['w', gradient]]));
  optimizer.dispose();
  return weight.toNumbers();
}

describe('AdamW', () => {
  it('moves by the learning rate against the sign of the first gradient, after decay', () => {
    scope(() => {
      const result = stepped(
        tensor([
          [1, -1, 0],
          [2, -3, 0],
        ]),
      );
      const expected = [1 * 0.99 - 0.1, 2 * 0.99 + 0.1, 3 * 0.99, 4 * 0.99 - 0.1, 5 * 0.99 + 0.1, 6 * 0.99];
      expectNear(result, expected, roundings(8)); // operators of a step
    });
  });

  it('takes gradients with any strides', () => {
    scope(() => {
      const transposed = ops.t(
        tensor([
          [1, 2],
          [-1, -3],
          [0, 0],
        ]),
      );
      expect(transposed.isContiguous).toBe(false);
      expect(stepped(transposed)).toEqual(stepped(ops.contiguous(transposed)));
    });
  });

  it('leaves no tensors behind but its state', () => {
    const weight = keep(ops.zeros([3]));
    const gradient = keep(ops.ones([3]));
    const optimizer = new AdamW([{ name: 'all', params: new Map([['w', weight]]), lr: 0.1, weightDecay: 0 }], OPTIONS);
    optimizer.step(new Map([['w', gradient]]));
    const before = liveTensors();
    optimizer.step(new Map([['w', gradient]]));
    expect(liveTensors()).toEqual(before);
    optimizer.dispose();
    expect(liveTensors().tensors).toBe(before.tensors - 3);
    weight.dispose();
    gradient.dispose();
  });

  it('decides on the device whether it updates', () => {
    scope(() => {
      const run = (skips: readonly (number | null)[]): unknown => {
        const weight = tensor([1, 2]);
        const optimizer = new AdamW(
          [{ name: 'all', params: new Map([['w', weight]]), lr: 0.1, weightDecay: 0.1 }],
          OPTIONS,
        );
        for (const skip of skips) {
          const gradient = tensor(skip === 1 ? [Number.NaN, 1] : [3, -1]);
          optimizer.step(new Map([['w', gradient]]), {
            skip: skip === null ? null : ops.full([], skip, { dtype: 'float32' }),
          });
        }
        const { expAvg, expAvgSq, step } = optimizer.state.get('w')!;
        const found = [weight, expAvg, expAvgSq, step].map((x) => x.toNumbers());
        optimizer.dispose();
        return found;
      };
      expect(run([0, 1, 0, 1])).toEqual(run([null, null]));
      expect(run([0, 0])).not.toEqual(run([null]));
    });
  });

  it('refuses a gradient of another shape', () => {
    scope(() => expect(() => stepped(tensor([[1, 2, 3]]))).toThrow(/Expected a gradient of \[2, 3\]/));
  });
});

describe('AdamW with gradients of some rows', () => {
  const ROWS = [[1, 4], [4, 2, 0], [5], [1, 2]].map((rows) => BigInt64Array.from(rows, BigInt).sort());

  /** Weights (7, 3) after steps with gradients of those rows, given as rows or as whole tables. */
  function trained(dtype: 'float32' | 'bfloat16', asRows: boolean): { weights: number[]; seen: number } {
    return scope(() => {
      const start = ops.addScalar(ops.sin(ops.reshape(ops.arange(0, 21, 1, { dtype: 'float32' }), [7, 3])), 0.5);
      const weight = ops.to(start, dtype);
      const optimizer = new AdamW(
        [{ name: 'all', params: new Map([['w', weight]]), lr: 0.01, weightDecay: 0.1 }],
        OPTIONS,
      );
      for (const [step, rows] of ROWS.entries()) {
        const values = ops.to(ops.cos(ops.addScalar(ops.narrow(start, 0, 0, rows.length), step)), dtype);
        const index = fromTypedArray(rows, [rows.length]);
        const whole = ops.indexCopy(ops.zerosLike(weight), 0, index, values);
        if (asRows) optimizer.step(new Map([['w', values]]), { rows: new Map([['w', rows]]) });
        else optimizer.step(new Map([['w', whole]]));
      }
      const seen = optimizer.state.get('w')!.expAvg.size(0);
      optimizer.dispose();
      return { weights: ops.to(weight, 'float32').toNumbers(), seen };
    });
  }

  it.each(['float32', 'bfloat16'] as const)('ends as with whole gradients, zero elsewhere, in %s', (dtype) => {
    const [rows, whole] = [trained(dtype, true), trained(dtype, false)];
    expect([rows.seen, whole.seen]).toEqual([5, 7]); // rows 3 and 6 never had a gradient, and have no moments
    // four steps of some eight operators in float32; rounded to bfloat16, their last bits can decide between two neighbours
    expectNear(rows.weights, whole.weights, roundings(dtype === 'float32' ? 4 * 8 : 2, dtype));
  });

  it('continues from moments of all rows', () => {
    scope(() => {
      const weight = ops.ones([4, 2]);
      const optimizer = new AdamW(
        [{ name: 'all', params: new Map([['w', weight]]), lr: 0.1, weightDecay: 0 }],
        OPTIONS,
      );
      optimizer.step(new Map([['w', ops.ones([4, 2])]]));
      optimizer.step(new Map([['w', ops.ones([1, 2])]]), { rows: new Map([['w', BigInt64Array.of(2n)]]) });
      expect(optimizer.state.get('w')!.expAvg.shape).toEqual([4, 2]);
      expect(Array.from(optimizer.state.get('w')!.rows!)).toEqual([0n, 1n, 2n, 3n]);
      optimizer.dispose();
    });
  });
});
