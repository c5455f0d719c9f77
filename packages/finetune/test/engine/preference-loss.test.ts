/** Losses of preference tuning as functions of log-probabilities: cases by hand, limits, and gradients by differences. */
import { describe, expect, it } from 'vitest';
import {
  type AnswerLogProbs,
  metricsOf,
  NO_REWARDS,
  type PreferenceOptions,
  recordLoss,
  sharedOf,
  sharedPart,
} from '../../src/engine/preference-loss.js';

const options = (loss: PreferenceOptions['loss'], more: Partial<PreferenceOptions> = {}): PreferenceOptions => ({
  ...{ loss, beta: 0.1, labelSmoothing: 0, rpoAlpha: 0, simpoGamma: 1, desirableWeight: 1, undesirableWeight: 1 },
  ...more,
});

/** Two answers of two tokens: the policy gives each chosen token 0.5 and each rejected one 0.25, the reference 0.25 to all. */
const [HALF, QUARTER] = [2 * Math.log(0.5), 2 * Math.log(0.25)];
const PAIR: AnswerLogProbs = { policy: [HALF, QUARTER], reference: [QUARTER, QUARTER], lengths: [2, 2] };

const lossOf = (record: AnswerLogProbs, how: PreferenceOptions, shared = 0): number =>
  recordLoss(record, how, shared).loss;
const softplus = (x: number): number => Math.log1p(Math.exp(x));

describe('a pair of two tokens each', () => {
  // the log ratio of chosen to reference is 2 ln 2, of rejected 0
  const ratio = 2 * Math.LN2;

  it.each<[string, PreferenceOptions, number]>([
    ['dpo', options('dpo'), softplus(-0.1 * ratio)],
    [
      'dpo, smoothed',
      options('dpo', { labelSmoothing: 0.2 }),
      0.8 * softplus(-0.1 * ratio) + 0.2 * softplus(0.1 * ratio),
    ],
    ['with cross entropy', options('dpo', { rpoAlpha: 0.5 }), softplus(-0.1 * ratio) + 0.5 * Math.LN2],
    ['ipo', options('ipo'), (Math.LN2 - 5) ** 2],
    ['hinge', options('hinge'), 1 - 0.1 * ratio],
    ['simpo', options('simpo', { beta: 2 }), softplus(1 - 2 * Math.LN2)],
    // odds of 0.5 are 1, of 0.25 are 1/3
    ['orpo', options('orpo'), Math.LN2 + 0.1 * Math.log(1 + 1 / 3)],
    [
      'mpo',
      options('mpo', { rpoAlpha: 1 }),
      0.8 * softplus(-0.1 * ratio) + 0.2 * (softplus(-0.1 * ratio) + Math.LN2) + Math.LN2,
    ],
  ])('%s', (_, how, expected) => {
    expect(lossOf(PAIR, how)).toBeCloseTo(expected, 12);
  });

  it('kto', () => {
    const sigmoid = 1 / (1 + Math.exp(-0.1 * (ratio - 0.3)));
    const weights = { desirableWeight: 2, undesirableWeight: 3 };
    expect(lossOf({ ...PAIR, desirable: true }, options('kto', weights), 0.3)).toBeCloseTo(2 * (1 - sigmoid), 12);
    expect(lossOf({ ...PAIR, desirable: false }, options('kto', weights), 0.3)).toBeCloseTo(3 * sigmoid, 12);
  });
});

const LOSSES = ['dpo', 'ipo', 'hinge', 'simpo', 'orpo', 'kto', 'mpo'] as const;

describe.each(LOSSES)('%s', (loss) => {
  const how = options(loss, { labelSmoothing: 0.1, rpoAlpha: 0.3 });
  const record = { policy: [-7.5, -11], reference: [-8, -9], lengths: [5, 9], desirable: false } as const;

  it('has the gradient of its differences', () => {
    const { gradient } = recordLoss(record, how, 0.2);
    for (const i of [0, 1]) {
      const moved = (by: number): number =>
        lossOf(
          { ...record, policy: record.policy.map((x, k) => (k === i ? x + by : x)) as [number, number] },
          how,
          0.2,
        );
      expect(gradient[i]).toBeCloseTo((moved(1e-6) - moved(-1e-6)) / 2e-6, 6);
    }
  });

  it('stays finite for any log-probabilities', () => {
    for (const far of [0, -1e-12, -1e4, -1e6]) {
      const { loss: value, gradient } = recordLoss({ ...record, policy: [far, -3] }, how, 0);
      for (const number of [value, ...gradient]) expect(Number.isFinite(number)).toBe(true);
    }
  });

  it('pushes both answers of an identical pair alike', () => {
    const same: AnswerLogProbs = { policy: [-4, -4], reference: [-4, -4], lengths: [3, 3] };
    const { gradient } = recordLoss(same, options(loss, { rpoAlpha: 0, simpoGamma: 0 }), 0);
    if (loss === 'kto') return;
    const sft = loss === 'orpo' ? -1 / 3 : 0; // the cross entropy of the chosen answer
    expect(gradient[0] - sft).toBeCloseTo(-gradient[1], 12);
  });
});

describe('β → ∞', () => {
  it('makes dpo count wrong pairs alone', () => {
    const how = options('dpo', { beta: 1e6 });
    const right = recordLoss(PAIR, how, 0);
    for (const value of [right.loss, ...right.gradient]) expect(Math.abs(value)).toBe(0);
    const wrong = { ...PAIR, policy: [QUARTER, HALF] as const };
    const { loss, gradient } = recordLoss(wrong, how, 0);
    expect(loss / (1e6 * 2 * Math.LN2)).toBeCloseTo(1, 12);
    expect(gradient).toEqual([-1e6, 1e6]);
  });
});

describe('what records have in common', () => {
  it("is KTO's mean log ratio of answers to other questions, at least 0", () => {
    const how = options('kto');
    const parts = [
      { ...PAIR, policy: [0, -1] as const, reference: [0, -3] as const },
      { ...PAIR, policy: [0, -2] as const, reference: [0, -1] as const },
    ].map((one) => sharedPart(one, how));
    expect(parts).toEqual([
      [2, 1],
      [-1, 1],
    ]);
    expect(sharedOf(how, [1, 2], NO_REWARDS).shared).toBe(0.5);
    expect(sharedOf(how, [-1, 2], NO_REWARDS).shared).toBe(0);
  });

  it("is MPO's mean reward over all steps", () => {
    const how = options('mpo');
    const first = sharedOf(how, [4, 2], NO_REWARDS);
    expect(first).toEqual({ shared: 2, rewards: { mean: 2, count: 2 } });
    expect(sharedOf(how, [-4, 2], first.rewards)).toEqual({ shared: 0, rewards: { mean: 0, count: 4 } });
  });
});

it('reports means, of single answers by their kind', () => {
  const how = options('kto');
  const records = [true, true, false].map((desirable, i) => ({ ...PAIR, policy: [-i, -1] as const, desirable }));
  const sums: Record<string, number> = {};
  for (const record of records)
    for (const [name, value] of Object.entries(recordLoss(record, how, 0).metrics))
      sums[name] = (sums[name] ?? 0) + value;
  const metrics = metricsOf(sums, 3);
  expect(metrics).toMatchObject({ 'logps/chosen': -0.5, 'logps/rejected': -2, 'count/chosen': 2, 'count/rejected': 1 });
  expect(metrics['rewards/margins']).toBeCloseTo(0.1 * 1.5, 12);
});
