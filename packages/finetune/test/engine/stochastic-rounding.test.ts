/** Stochastic rounding: the mean is exact, only neighbours come out, and small updates arrive. */
import { Linear, noGrad, ops, scope, seedOf, type Tensor, tensor } from '@minicpm-finetune/torch';
import { describe, expect, it } from 'vitest';
import { Optimizer } from '../../src/engine/optimizer.js';
import { roundStochastically_ } from '../../src/engine/stochastic-rounding.js';

const DRAWS = 40_000;

/** `DRAWS` roundings of one number. */
function roundings(value: number): number[] {
  return scope(() => {
    const target = ops.zeros([DRAWS], { dtype: 'bfloat16' });
    roundStochastically_(target, ops.full([DRAWS], value, { dtype: 'float32' }), { seed: 1, start: 0 });
    return target.toNumbers();
  });
}

const SETTINGS = {
  learningRate: 1e-3,
  visionLearningRate: null,
  resamplerLearningRate: null,
  embeddingLearningRate: null,
  loraPlusRatio: null,
  weightDecay: 0,
  beta1: 0.9,
  beta2: 0.999,
  eps: 1e-8,
  masterWeights: false,
};

interface Trial {
  readonly steps: number;
  readonly seed?: number;
  readonly shape: readonly [number, number];
  readonly start: number;
  readonly gradient: (step: number) => number;
  readonly stochasticRounding: boolean;
  readonly weightDecay?: number;
}

/** Weights and moments after steps with a constant gradient, from a constant start. */
function afterSteps({ steps, seed = 2, shape, start, gradient, stochasticRounding, weightDecay = 0 }: Trial) {
  const linear = new Linear(shape[1], shape[0], { bias: false });
  linear.weight.data = ops.full(shape, start, { dtype: 'bfloat16' });
  const settings = { ...SETTINGS, weightDecay, stochasticRounding };
  const optimizer = new Optimizer(new Map([['weight', linear.weight]]), new Set(), settings);
  for (let step = 0; step < steps; step++) {
    const settings = { multiplier: 1, seed: seedOf(seed, step) };
    scope(() =>
      optimizer.step(new Map([['weight', ops.full(shape, gradient(step), { dtype: 'bfloat16' })]]), settings),
    );
  }
  const state = optimizer.adamw.state.get('weight')!;
  const mean = (x: Tensor): number => scope(() => ops.meanAll(ops.to(x, 'float32')).item());
  const result = {
    weight: mean(linear.weight.data),
    values: scope(() => ops.reshape(linear.weight.data, [-1]).toNumbers()),
    expAvg: mean(state.expAvg),
    expAvgSq: mean(state.expAvgSq),
    dtypes: [linear.weight.data.dtype, state.expAvg.dtype, state.expAvgSq.dtype],
    steps: state.step.item(),
  };
  optimizer.dispose();
  linear.dispose();
  return result;
}

describe('rounding to bfloat16', () => {
  it.each([1.001, -1.001, 2.71, -2.7e-5, 1e20, 0.0078])('has the mean %d and yields its two neighbours', (value) => {
    const values = roundings(value);
    const exact = Math.fround(value);
    const [low, high] = [Math.min(...values), Math.max(...values)];
    const ulp = 2 ** (Math.floor(Math.log2(Math.abs(value))) - 7);
    expect(high - low).toBe(ulp);
    expect(new Set(values).size).toBe(2);
    expect(low).toBeLessThan(exact);
    expect(high).toBeGreaterThan(exact);
    const mean = values.reduce((sum, x) => sum + x / DRAWS, 0);
    expect(Math.abs(mean - exact)).toBeLessThan((4 * 0.5 * ulp) / Math.sqrt(DRAWS)); // four standard errors at most
  });

  it.each([0, 1, -0.5, 384, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY])('leaves %d', (value) => {
    expect(new Set(roundings(value))).toEqual(new Set([value]));
  });

  it('leaves what is no number', () => {
    expect(roundings(Number.NaN).every(Number.isNaN)).toBe(true);
  });

  it('is decided by the seed and the place of a number alone', () => {
    const round = (seed: number, start: number, count: number): number[] =>
      scope(() => {
        const target = ops.zeros([count], { dtype: 'bfloat16' });
        roundStochastically_(target, ops.full([count], 1.003, { dtype: 'float32' }), { seed, start });
        return target.toNumbers();
      });
    const all = round(7, 0, 40_000);
    expect(round(7, 12_345, 20_000)).toEqual(all.slice(12_345, 32_345)); // cut anywhere, for any number of threads
    expect(round(8, 0, 40_000)).not.toEqual(all);
    expect(() => round(7, 0, 0)).not.toThrow();
  });

  it('counts rows of a table by their numbers in it', () => {
    scope(() => {
      const values = ops.full([6, 50], 1.003, { dtype: 'float32' });
      const whole = ops.zeros([6, 50], { dtype: 'bfloat16' });
      roundStochastically_(whole, values, { seed: 3, start: 100 });
      const some = ops.zeros([2, 50], { dtype: 'bfloat16' });
      const rows = tensor([4, 1], 'int64');
      roundStochastically_(some, ops.narrow(values, 0, 0, 2), { seed: 3, start: 100, rows, width: 50 });
      expect(ops.equal(some, ops.indexSelect(whole, 0, rows))).toBe(true);
    });
  });
});

describe('AdamW with stochastic rounding', () => {
  it('takes every step on average where rounding to the nearest stands still', () => {
    const trial = { steps: 10, shape: [256, 257], start: 1, gradient: () => 0.25 } as const;
    const nearest = afterSteps({ ...trial, stochasticRounding: false });
    expect(new Set(nearest.values)).toEqual(new Set([1])); // 0.001 is below half of the distance to the next number
    const stochastic = afterSteps({ ...trial, stochasticRounding: true });
    expect(stochastic.weight).toBeCloseTo(0.99, 3); // Adam moves by the learning rate
    expect(stochastic.dtypes).toEqual(['bfloat16', 'bfloat16', 'bfloat16']);
    expect(stochastic.steps).toBe(10);
  });

  it('has the moments and the decay of float32 on average', () => {
    const shape = [1024, 1030] as const; // more than one chunk
    const gradient = (step: number): number => (step === 0 ? 1 : 0.125);
    const { expAvg, expAvgSq, weight } = afterSteps({
      ...{ steps: 10, shape, start: 0.5, gradient, stochasticRounding: true },
      weightDecay: 0.1,
    });
    let [m, v, w] = [0, 0, 0.5];
    for (let t = 1; t <= 10; t++) {
      const g = gradient(t - 1);
      m = 0.9 * m + 0.1 * g;
      v = 0.999 * v + 0.001 * g * g;
      w = w * (1 - 1e-3 * 0.1) - (1e-3 * (m / (1 - 0.9 ** t))) / (Math.sqrt(v / (1 - 0.999 ** t)) + 1e-8);
    }
    expect(Math.abs(expAvg / m - 1)).toBeLessThan(1e-3);
    expect(Math.abs(expAvgSq / v - 1)).toBeLessThan(1e-3);
    expect(Math.abs(weight - w)).toBeLessThan(1e-5);
  });

  it('gives the same weights again with the same seed, and others with another', () => {
    const trial = { steps: 3, shape: [16, 16], start: 1, gradient: () => 1, stochasticRounding: true } as const;
    const withSeed = (seed: number): number[] => afterSteps({ ...trial, seed }).values;
    const first = withSeed(5);
    expect(withSeed(5)).toEqual(first);
    expect(withSeed(6)).not.toEqual(first);
  });

  it('does not touch what has no gradient, and refuses other types', () => {
    const linear = new Linear(2, 2, { bias: false });
    linear.weight.data = ops.ones([2, 2]);
    const settings = { ...SETTINGS, stochasticRounding: true };
    const optimizer = new Optimizer(new Map([['w', linear.weight]]), new Set(), settings);
    optimizer.step(new Map(), { multiplier: 1, seed: 0 });
    expect(optimizer.adamw.state.size).toBe(0);
    const gradient = noGrad(() => ops.ones([2, 2]));
    expect(() => optimizer.step(new Map([['w', gradient]]), { multiplier: 1, seed: 0 })).toThrow(/bfloat16 parameters/);
  });
});
