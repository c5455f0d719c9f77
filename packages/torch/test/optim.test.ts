import { describe, expect, it } from 'vitest';
import { AdamW, keep, liveTensors, ops, scope, type Tensor, tensor } from '../src/index.js';

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
      for (const [i, value] of result.entries()) expect(value).toBeCloseTo(expected[i]!, 5);
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
});
