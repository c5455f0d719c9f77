import { describe, expect, it } from 'vitest';
import type { SchedulerType } from '../src/config/config.js';
import { makeSchedule, SCHEDULES, scheduleProblem, warmupSteps } from '../src/schedule.js';

/** type, learning rate, warmup steps, total steps, options, multipliers of steps 0…: computed by transformers 5.18 (WarmupLR: from DeepSpeed's formula). */
const reference: [SchedulerType, number, number, number, Record<string, number | string>, number[]][] = [
  [
    'linear',
    0.001,
    3,
    10,
    {},
    [
      0.0, 0.3333333333333333, 0.6666666666666666, 1.0, 0.8571428571428571, 0.7142857142857143, 0.5714285714285714,
      0.42857142857142855, 0.2857142857142857, 0.14285714285714285, 0.0,
    ],
  ],
  ['linear', 0.001, 0, 4, {}, [1.0, 0.75, 0.5, 0.25, 0.0]],
  [
    'cosine',
    0.001,
    2,
    10,
    {},
    [
      0.0, 0.5, 1.0, 0.9619397662556434, 0.8535533905932737, 0.6913417161825449, 0.5, 0.30865828381745514,
      0.14644660940672627, 0.03806023374435663, 0,
    ],
  ],
  [
    'cosine',
    0.001,
    0,
    7,
    { num_cycles: 1.25 },
    [
      1.0, 0.716941869558779, 0.18825509907063326, 0.01253604390908819, 0.3887395330218427, 0.8909157412340148,
      0.9504844339512096, 0.5000000000000001,
    ],
  ],
  [
    'cosine_with_restarts',
    0.001,
    2,
    10,
    {},
    [
      0.0, 0.5, 1.0, 0.9619397662556434, 0.8535533905932737, 0.6913417161825449, 0.5, 0.30865828381745514,
      0.14644660940672627, 0.03806023374435663, 0.0,
    ],
  ],
  [
    'cosine_with_restarts',
    0.001,
    1,
    10,
    { num_cycles: 3 },
    [
      0.0, 1.0, 0.75, 0.2500000000000001, 1.0, 0.7500000000000002, 0.2499999999999999, 1.0, 0.7499999999999999,
      0.25000000000000033, 0.0,
    ],
  ],
  [
    'polynomial',
    5e-5,
    2,
    8,
    {},
    [
      0.0, 0.5, 1.0, 0.8336666666666667, 0.6673333333333334, 0.501, 0.33466666666666667, 0.1683333333333333,
      0.0019999999999999996,
    ],
  ],
  [
    'polynomial',
    0.001,
    2,
    10,
    { power: 2.0, lr_end: 0.0001 },
    [0.0, 0.5, 1.0, 0.7890625, 0.60625, 0.4515625, 0.32499999999999996, 0.22656249999999997, 0.15625, 0.1140625, 0.1],
  ],
  ['constant', 0.001, 3, 5, {}, [1, 1, 1, 1, 1, 1]],
  ['constant_with_warmup', 0.001, 3, 6, {}, [0.0, 0.3333333333333333, 0.6666666666666666, 1.0, 1.0, 1.0, 1.0]],
  [
    'inverse_sqrt',
    0.001,
    4,
    10,
    {},
    [
      0.0, 0.25, 0.5, 0.75, 1.0, 0.8944271909999159, 0.8164965809277261, 0.7559289460184544, 0.7071067811865475,
      0.6666666666666666, 0.6324555320336759,
    ],
  ],
  [
    'inverse_sqrt',
    0.001,
    0,
    6,
    {},
    [
      1.0, 0.9999500037496877, 0.9999000149975006, 0.9998500337415648, 0.9998000599800071, 0.9997500937109545,
      0.9997001349325354,
    ],
  ],
  [
    'inverse_sqrt',
    0.001,
    2,
    6,
    { timescale: 7 },
    [0.0, 0.5, 1.0, 0.9354143466934853, 0.8819171036881969, 0.8366600265340756, 0.7977240352174657],
  ],
  [
    'warmup_stable_decay',
    0.001,
    2,
    10,
    { num_decay_steps: 4 },
    [0.0, 0.5, 1.0, 1.0, 1.0, 1.0, 1.0, 0.8535533905932737, 0.5, 0.14644660940672627, 0],
  ],
  [
    'warmup_stable_decay',
    0.001,
    3,
    10,
    { num_decay_steps: 4, warmup_type: 'cosine', decay_type: 'linear', min_lr_ratio: 0.1 },
    [0.1, 0.32499999999999996, 0.7749999999999999, 1.0, 1.0, 1.0, 1.0, 0.775, 0.55, 0.325, 0.1],
  ],
  [
    'warmup_stable_decay',
    0.001,
    3,
    11,
    { num_decay_steps: 4, num_stable_steps: 2, warmup_type: '1-sqrt', decay_type: '1-sqrt', min_lr_ratio: 0.05 },
    [
      0.05, 0.22432824811866026, 0.4515172442698554, 1.0, 1.0, 1.0, 0.525, 0.3282485578727798, 0.17727586640478332,
      0.05, 0.05, 0.05,
    ],
  ],
  [
    'WarmupLR',
    0.001,
    5,
    8,
    {},
    [0.0, 0.0, 0.43067655807339306, 0.6826061944859854, 0.8613531161467861, 1.0, 1.0, 1.0, 1.0],
  ],
  ['WarmupLR', 0.001, 4, 8, { warmup_type: 'linear' }, [0.0, 0.0, 0.25, 0.5, 0.75, 1.0, 1.0, 1.0, 1.0]],
  [
    'WarmupLR',
    0.001,
    9,
    8,
    { warmup_min_lr: 0.0001, warmup_max_lr: 0.002, warmup_num_steps: 3 },
    [0.1, 0.1, 1.2987665317857688, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0],
  ],
  ['WarmupLR', 0.001, 0, 8, {}, [0.0, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]],
];

function schedule(type: SchedulerType, options = {}, totalSteps = 10, warmup = 2, learningRate = 1e-3) {
  const inputs = { totalSteps, warmupSteps: warmup, learningRate };
  return makeSchedule({ lr_scheduler_type: type, lr_scheduler_kwargs: options }, inputs);
}

describe('schedules equal the reference', () => {
  it.each(reference)('%s, peak %d, %d warmup steps of %d, %j', (type, learningRate, warmup, total, options, values) => {
    const at = schedule(type, options, total, warmup, learningRate);
    for (const [step, value] of values.entries()) expect(at(step)).toBeCloseTo(value, 14);
  });

  it('covers every schedule', () => {
    expect(new Set(reference.map(([type]) => type))).toEqual(new Set(Object.keys(SCHEDULES)));
  });

  it('cosine gives the learning rates of a recorded PyTorch training', () => {
    const recorded = [
      0, 0.0005, 0.001, 0.0009619397662556434, 0.0008535533905932737, 0.000691341716182545, 0.0005,
      0.0003086582838174551, 0.00014644660940672628, 3.806023374435663e-5,
    ];
    const at = schedule('cosine');
    expect(recorded.map((_, step) => at(step) * 1e-3)).toEqual(recorded.map((rate) => expect.closeTo(rate, 17)));
  });

  it('is pure: any order of steps gives the same values', () => {
    const at = schedule('cosine_with_restarts', { num_cycles: 3 });
    const forward = [0, 1, 2, 3, 4].map(at);
    expect([4, 3, 2, 1, 0].map(at).reverse()).toEqual(forward);
  });

  it('stays finite when everything is warmup', () => {
    for (const type of Object.keys(SCHEDULES) as SchedulerType[]) {
      const options = type === 'warmup_stable_decay' ? { num_decay_steps: 0 } : {};
      const at = schedule(type, options, 4, 4);
      for (let step = 0; step <= 5; step++) expect(Number.isFinite(at(step)), `${type} ${step}`).toBe(true);
    }
  });
});

describe('warmupSteps', () => {
  it('takes steps before ratio, shares rounded up, as transformers does', () => {
    expect(warmupSteps({ warmup_steps: 7, warmup_ratio: 0.5 }, 100)).toBe(7);
    expect(warmupSteps({ warmup_steps: 0, warmup_ratio: 0.01 }, 10_000)).toBe(100);
    expect(warmupSteps({ warmup_steps: 0, warmup_ratio: 0.01 }, 141)).toBe(2);
    expect(warmupSteps({ warmup_steps: 0.1, warmup_ratio: 0 }, 141)).toBe(15);
    expect(warmupSteps({ warmup_steps: 0, warmup_ratio: 0 }, 141)).toBe(0);
  });
});

describe('options', () => {
  it.each<[SchedulerType, Record<string, unknown>, RegExp]>([
    ['cosine', { num_cycle: 2 }, /"num_cycle".*Did you mean num_cycles\?/s],
    ['cosine', { constructor: 2 }, /option of the cosine schedule/],
    ['linear', { power: 2 }, /option of the linear schedule.*It has no options/s],
    ['warmup_stable_decay', {}, /num_decay_steps.*received nothing/s],
    ['warmup_stable_decay', { num_decay_steps: 2, decay_type: 'sqrt' }, /one of linear, cosine, 1-sqrt.*"sqrt"/s],
    ['cosine', { num_cycles: '2' }, /at least 0 for num_cycles.*received "2"/],
    ['polynomial', { power: -1 }, /at least 0 for power.*received -1/],
    ['polynomial', { lr_end: 1 }, /less than --learning_rate \(0.001\) for lr_end.*received 1 /],
  ])('%s %j is a problem', (type, options, message) => {
    const problem = scheduleProblem(type, options, 1e-3)!;
    expect(`${problem.expected} ... received ${problem.received} ... ${problem.cure}`).toMatch(message);
  });

  it('of the right names and values are none, and have defaults', () => {
    expect(scheduleProblem('polynomial', { power: 2 }, 1e-3)).toBeUndefined();
    expect(scheduleProblem('warmup_stable_decay', { num_decay_steps: 2, decay_type: 'linear' }, 1e-3)).toBeUndefined();
    expect([2, 6, 10].map(schedule('polynomial', {}))).toEqual(
      [2, 6, 10].map(schedule('polynomial', { lr_end: 1e-7 })),
    );
  });
});
