import { describe, expect, it } from 'vitest';
import { enableGrad, grad, noGrad, ops, scope, tensor } from '../src/index.js';

describe('autograd', () => {
  it('differentiates through operators', () => {
    scope(() => {
      const w = tensor([2, 3]);
      w.requiresGrad = true;
      const [g] = grad([ops.sumAll(ops.square(w))], [w]);
      expect(g!.toNumbers()).toEqual([4, 6]);
    });
  });

  it('gives null for an input that nothing depends on', () => {
    scope(() => {
      const [a, b] = [tensor([1]), tensor([1])];
      a.requiresGrad = true;
      b.requiresGrad = true;
      const [ga, gb] = grad([ops.mulScalar(a, 3)], [a, b], { gradOutputs: [tensor([2])] });
      expect(ga!.toNumbers()).toEqual([6]);
      expect(gb).toBeNull();
    });
  });

  it('differentiates gradients', () => {
    scope(() => {
      const x = tensor([3]);
      x.requiresGrad = true;
      const [first] = grad([ops.powScalar(x, 3)], [x], { createGraph: true });
      const [second] = grad([first!], [x]);
      expect(second!.toNumbers()).toEqual([18]);
    });
  });

  it('records nothing under noGrad, and again under enableGrad', () => {
    scope(() => {
      const x = tensor([1]);
      x.requiresGrad = true;
      noGrad(() => {
        expect(ops.mulScalar(x, 2).requiresGrad).toBe(false);
        expect(enableGrad(() => ops.mulScalar(x, 2)).requiresGrad).toBe(true);
      });
      expect(ops.mulScalar(x, 2).requiresGrad).toBe(true);
    });
  });

  it('refuses a second pass over a freed graph', () => {
    scope(() => {
      const x = tensor([1]);
      x.requiresGrad = true;
      const y = ops.square(x);
      grad([y], [x]);
      expect(() => grad([y], [x])).toThrow(/second time|freed/);
    });
  });
});
