import { beforeEach, describe, expect, it } from 'vitest';
import {
  AdamW,
  Embedding,
  grad,
  LayerNorm,
  Linear,
  LinearAdapter,
  linear,
  liveTensors,
  Module,
  manualSeed,
  ops,
  RMSNorm,
  scope,
  type Tensor,
  tensor,
} from '../src/index.js';
import { expectNear, roundings } from './precision.js';

beforeEach(() => manualSeed(1)); // otherwise other numbers each time, of which some would be rare

class Doubling extends LinearAdapter {
  readonly factor = this.parameter('factor', [1]);
  apply(_: Linear, __: Tensor, y: Tensor): Tensor {
    return ops.mul(y, this.factor.data);
  }
}

class Pair extends Module {
  readonly first = this.child('first', new Linear(2, 2, { bias: true }));
  readonly rest = this.childList('rest', [new LayerNorm(2, 1e-6), new RMSNorm(2, 1e-6)]);
}

describe('modules', () => {
  it('name their parameters as PyTorch does', () => {
    expect([...new Pair().namedParameters('m')].map(([name]) => name)).toEqual([
      'm.first.weight',
      'm.first.bias',
      'm.rest.0.weight',
      'm.rest.0.bias',
      'm.rest.1.weight',
    ]);
  });

  it('refuse data of another shape, and use without data', () => {
    const linear = new Linear(2, 3, { bias: false });
    expect(() => linear.weight.data).toThrow(/none was loaded/);
    using wrong = ops.zeros([2, 3]);
    expect(() => {
      linear.weight.data = wrong;
    }).toThrow(/Expected shape \[3, 2\] .* received \[2, 3\]/);
  });

  it('exchange values without freeing one', () => {
    const { weight } = new Linear(2, 1, { bias: false });
    using first = ops.full([1, 2], 1);
    expect(() => weight.exchange(first)).toThrow(/none was loaded/);
    weight.data = ops.full([1, 2], 2);
    const before = weight.exchange(first);
    expect(weight.data.toNumbers()).toEqual([1, 1]);
    expect(weight.exchange(before)).toBe(first);
    expect([first.toNumbers(), weight.data.toNumbers()]).toEqual([
      [1, 1],
      [2, 2],
    ]);
    using wrong = ops.zeros([2, 2]);
    expect(() => weight.exchange(wrong)).toThrow(/Expected shape/);
    weight.dispose();
  });

  it('compute', () => {
    scope(() => {
      const linear = new Linear(2, 1, { bias: true });
      linear.weight.data = tensor([[2, 3]]);
      linear.bias!.data = tensor([1]);
      expect(linear.forward(tensor([[1, 1]])).toNumbers()).toEqual([6]);
      const adapter = new Doubling();
      adapter.factor.data = tensor([2]);
      linear.adapter = adapter;
      expect([...linear.namedParameters('l')].map(([name]) => name)).toEqual(['l.weight', 'l.bias', 'l.factor']);
      expect(linear.forward(tensor([[1, 1]])).toNumbers()).toEqual([12]);
      linear.adapter = undefined;
      expect([...linear.namedParameters()].length).toBe(2);

      const norm = new RMSNorm(2, 0);
      norm.weight.data = tensor([1, 2]);
      const [a, b] = norm.forward(tensor([3, 4])).toNumbers();
      expectNear([a!, b!], [3 / Math.sqrt(12.5), 8 / Math.sqrt(12.5)], roundings(4));

      const table = new Embedding(3, 2);
      table.weight.data = tensor([
        [0, 1],
        [2, 3],
        [4, 5],
      ]);
      expect(table.forward(tensor([2, 0], 'int64')).toNumbers()).toEqual([4, 5, 0, 1]);
    });
  });
});

describe('AdamW', () => {
  it('follows the published update', () => {
    scope(() => {
      const p = tensor([1, -2]);
      const optimizer = new AdamW([{ name: 'all', params: new Map([['p', p]]), lr: 0.1, weightDecay: 0.5 }], {
        beta1: 0.9,
        beta2: 0.99,
        eps: 1e-8,
      });
      let [m, v, expected] = [0, 0, 1];
      for (let t = 1; t <= 3; t++) {
        const g = t * 0.3;
        optimizer.step(new Map([['p', tensor([g, 0])]]));
        m = 0.9 * m + 0.1 * g;
        v = 0.99 * v + 0.01 * g * g;
        expected -= 0.1 * 0.5 * expected;
        expected -= (0.1 * (m / (1 - 0.9 ** t))) / (Math.sqrt(v / (1 - 0.99 ** t)) + 1e-8);
      }
      expectNear(p.toNumbers(), [expected, -2 * 0.95 ** 3], roundings(3 * 8)); // three steps of some eight operators
      optimizer.dispose();
    });
    expect(liveTensors().tensors).toBe(0);
  });

  it('leaves parameters without gradient alone', () => {
    scope(() => {
      const [p, q] = [tensor([1]), tensor([1])];
      const optimizer = new AdamW(
        [
          {
            name: 'all',
            params: new Map([
              ['p', p],
              ['q', q],
            ]),
            lr: 0.1,
            weightDecay: 0.5,
          },
        ],
        { beta1: 0.9, beta2: 0.99, eps: 1e-8 },
      );
      optimizer.step(new Map([['p', tensor([1])]]));
      expect(q.item()).toBe(1);
      expect(p.item()).toBeLessThan(1);
      expect([...optimizer.state.keys()]).toEqual(['p']);
      optimizer.dispose();
    });
  });
});

describe('linear', () => {
  it('in float16 is the float32 result of the same numbers, rounded, with gradients in float16', () => {
    scope(() => {
      const half = (shape: number[]) => ops.to(ops.randn(shape), 'float16');
      const [x, w, b] = [half([5, 64]), half([32, 64]), half([32])];
      for (const tensor of [x, w, b]) tensor.requiresGrad = true;
      const y = linear(x, w, b);
      const [wx, ww, wb] = [x, w, b].map((tensor) => ops.to(ops.detach(tensor), 'float32'));
      const wanted = ops.to(ops.linear(wx!, ww!, wb!), 'float16');
      expect(y.dtype).toBe('float16');
      expect(ops.to(y, 'float32').toNumbers()).toEqual(ops.to(wanted, 'float32').toNumbers());
      for (const gradient of grad([y], [x, w, b], { gradOutputs: [ops.onesLike(y)] }))
        expect(gradient!.dtype).toBe('float16');
    });
  });
});
