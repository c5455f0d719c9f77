/** --gradient_checkpointing auto and --memory_budget: which blocks are recomputed, and when a run takes too much. */
import { rmSync } from 'node:fs';
import type { MiniCPMV, PlanNode } from '@minicpm-finetune/minicpm-v';
import { UserError } from '@minicpm-finetune/run';
import { ops, scope, type Tensor } from '@minicpm-finetune/torch';
import { afterAll, describe, expect, it } from 'vitest';
import { collate } from '../../src/engine/collate.js';
import { MemoryPlan, type MemoryPlanOptions } from '../../src/engine/memory-plan.js';
import { lossAndGradients } from '../../src/engine/step.js';
import { tuneFully } from '../../src/engine/trainables.js';
import { train } from '../../src/train/train.js';
import { resolveTrainConfig } from '../support/config-words.js';
import { largestDifference, modelInMemory, noiseSample } from '../support/model-in-memory.js';
import { configOf, lossesOf, makePlace } from '../support/run-place.js';

const node = (name: string): PlanNode => ({
  name,
  inputs: [0],
  parameters: new Map(),
  forward: (x) => x!,
});
const blocks = [0, 1, 2, 3].map((i) => node(`layers.${i}`));

/** A process whose resident memory is `resident` with everything recomputed; every block costs 10 bytes per number of its input. */
function simulate({ resident, ...options }: Partial<MemoryPlanOptions> & { resident: () => number }) {
  const notices: string[] = [];
  const memory = { taken: resident, available: () => 0 };
  const notice = (text: string) => notices.push(text);
  const plan = new MemoryPlan({ recompute: 'auto', budget: 2000, memory, notice, ...options });
  const step = (tokens: number, patches = 0): boolean[] =>
    scope(() => {
      const inputs: Tensor[] = [ops.zeros([tokens])];
      plan.begin({ tokens, patches });
      const recomputed = blocks.map((block) => plan.recomputes(block, inputs));
      blocks.forEach((block, i) => {
        if (recomputed[i]) plan.recomputed(block, inputs, 10 * tokens);
      });
      plan.endStep();
      return recomputed;
    });
  return { step, notices };
}

const ALL = [true, true, true, true];

describe('MemoryPlan', () => {
  it('measures in the first steps, then keeps as many blocks as fit', () => {
    const { step, notices } = simulate({ resident: () => 1000 });
    expect([step(40), step(40)]).toEqual([ALL, ALL]);
    expect(step(40)).toEqual([false, false, true, true]); // 1000 + 2 x 400 <= 1900 < 1000 + 3 x 400
    expect(step(20)).toEqual([false, false, false, false]);
    expect(notices).toEqual(['2 of 4 blocks keep their graph, the others are recomputed, to stay within 2.0 kB.']);
  });

  it('recomputes everything of a batch that is larger than any before', () => {
    let resident = 1000;
    const { step } = simulate({ resident: () => resident });
    for (const tokens of [40, 40]) step(tokens);
    expect(step(41)).toEqual(ALL);
    expect(step(40, 7)).toEqual(ALL);
    resident = 1500; // is the baseline from now on
    expect(step(60)).toEqual(ALL);
    expect(step(60)).toEqual(ALL);
    expect(step(40)).toEqual([false, true, true, true]);
  });

  it('takes memory that it did not foresee into account, but not what the allocator keeps', () => {
    let resident = 1000;
    const { step } = simulate({ resident: () => resident });
    for (const tokens of [40, 40]) step(tokens);
    resident = 1800; // as planned
    expect(step(40)).toEqual([false, false, true, true]);
    expect(step(4)).toEqual([false, false, false, false]);
    expect(step(40)).toEqual([false, false, true, true]);
    resident = 1900;
    step(40);
    expect(step(40)).toEqual([false, false, true, true]); // 1100 + 800
    resident = 2000;
    step(40);
    expect(step(40)).toEqual([false, true, true, true]);
  });

  it.each([
    [false, '--gradient_checkpointing auto'],
    [true, 'smaller batches'],
    ['auto', 'smaller batches'],
  ] as const)('ends a run whose first steps take more than the budget, with %s', (recompute, cure) => {
    const { step } = simulate({ recompute, resident: () => 2500 });
    const error = (() => {
      try {
        return step(40);
      } catch (reason) {
        return reason;
      }
    })() as UserError;
    expect(error).toBeInstanceOf(UserError);
    expect(error.message).toMatch(/at most for --memory_budget but received .* at step 1 of this start/);
    expect(error.details().cure).toContain(cure);
  });

  it('only tells of later steps that take more', () => {
    let resident = 1000;
    const { step, notices } = simulate({ recompute: true, resident: () => resident });
    for (const tokens of [40, 40]) step(tokens);
    resident = 2500;
    expect(step(80)).toEqual(ALL);
    expect(notices).toEqual([expect.stringContaining('later batches may be recomputed more')]);
  });
});

describe('a step with a plan', () => {
  it('has the same losses and gradients whatever is recomputed', () => {
    const model: MiniCPMV = modelInMemory();
    tuneFully(model, { tuneVision: true, tuneLlm: true });
    const batch = () => collate([noiseSample(model, 30, [[4, 4]], 1), noiseSample(model, 20, [], 2)]);
    const compute = (memory: MemoryPlan | null) =>
      lossAndGradients(model, [batch()], { recompute: false, perMicroBatch: false, memory });
    const plain = compute(null);
    for (const budget of [1, 1e15]) {
      let kept = 0;
      const memory = new MemoryPlan({
        recompute: 'auto',
        budget: null,
        memory: { taken: () => 1e6, available: () => process.availableMemory() },
        notice: () => {},
      });
      Object.assign(memory, { budget });
      const decide = memory.recomputes.bind(memory);
      memory.recomputes = (...block) => {
        const recomputed = decide(...block);
        if (!recomputed) kept++;
        return recomputed;
      };
      for (let step = 0; step < 3; step++) {
        const gradients = compute(memory);
        memory.endStep();
        expect(gradients.loss).toBe(plain.loss);
        expect(largestDifference(plain.gradients, gradients.gradients)).toBe(0);
        gradients.dispose();
      }
      if (budget === 1) expect(kept).toBe(0);
      else expect(kept).toBeGreaterThan(3);
    }
    plain.dispose();
    model.dispose();
  });
});

describe('--gradient_checkpointing auto', () => {
  const place = makePlace(8);
  afterAll(() => rmSync(place.folder, { recursive: true }));

  it('trains with the same losses', async () => {
    const flags = { max_steps: 4 };
    const configs = [
      configOf(place, 'plain', flags),
      configOf(place, 'auto', { ...flags, gradient_checkpointing: 'auto', memory_budget: '200GB' }),
    ];
    for (const config of configs) await train(config);
    const [plain, auto] = configs.map(({ output }) => lossesOf(output.output_dir));
    expect(auto).toEqual(plain);
  });

  it('ends the run when the budget is too small for its first step', async () => {
    await expect(train(configOf(place, 'small', { memory_budget: '1MB' }))).rejects.toThrow(/--memory_budget/);
  });

  it.each([
    [['--gradient_checkpointing'], true],
    [['--gradient_checkpointing', 'no'], false],
    [['--gradient_checkpointing', 'auto'], 'auto'],
  ])('is written %j', (words, value) => {
    const base = '--model_name_or_path m --data_path d --output_dir o'.split(' ');
    expect(resolveTrainConfig([...base, ...words]).config.engine.gradient_checkpointing).toBe(value);
    expect(() => resolveTrainConfig([...base, '--gradient_checkpointing', 'maybe'])).toThrow(
      'Expected true, false or auto for --gradient_checkpointing but received "maybe"',
    );
  });
});
