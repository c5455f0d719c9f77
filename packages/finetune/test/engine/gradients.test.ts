/** Updates in the backward pass: the same parameters as otherwise where nothing is clipped, without the gradients of the whole model. */
import { rmSync } from 'node:fs';
import { type MiniCPMV, trainableParameters } from '@minicpm-finetune/minicpm-v';
import { UserError } from '@minicpm-finetune/run';
import { liveTensors, noGrad, ops, type Parameter, scope, type Tensor } from '@minicpm-finetune/torch';
import { afterAll, describe, expect, it } from 'vitest';
import { expectNear, FORWARD } from '../../../torch/test/precision.js';
import { type Batch, collate } from '../../src/engine/collate.js';
import { Optimizer, withoutDecay } from '../../src/engine/optimizer.js';
import { type StepOptions, type StepResult, trainStep } from '../../src/engine/step.js';
import { tuneFully } from '../../src/engine/trainables.js';
import { train } from '../../src/train/train.js';
import { resolveTrainConfig } from '../support/config-words.js';
import { largestDifference, modelInMemory, noiseSample } from '../support/model-in-memory.js';
import { configOf, lossesOf, makePlace } from '../support/run-place.js';

/** A model in training whose optimizer tells of its updates. */
class Training {
  readonly model: MiniCPMV = modelInMemory();
  readonly parameters: ReadonlyMap<string, Parameter>;
  readonly optimizer: Optimizer;
  /** Names updated together, in order, and the norms of their gradients. */
  readonly updates: string[][] = [];
  readonly norms: number[] = [];
  /** Most bytes of tensors, while parameters were updated. */
  mostBytes = 0;

  constructor() {
    tuneFully(this.model, { tuneVision: true, tuneLlm: true });
    this.parameters = trainableParameters(this.model);
    this.optimizer = new Optimizer(this.parameters, withoutDecay(this.model), {
      ...{ learningRate: 1e-3, visionLearningRate: null, resamplerLearningRate: null, embeddingLearningRate: null },
      ...{ loraPlusRatio: null, weightDecay: 0.1, beta1: 0.9, beta2: 0.99, eps: 1e-8, masterWeights: true },
    });
    const update = this.optimizer.step.bind(this.optimizer);
    this.optimizer.step = (gradients, multiplier, rows) => {
      this.mostBytes = Math.max(this.mostBytes, liveTensors().bytes);
      this.updates.push([...gradients.keys()]);
      const squares = [...gradients.values()].map((g) => scope(() => ops.sumAll(ops.square(g)).item()));
      this.norms.push(Math.sqrt(squares.reduce((a, b) => a + b)));
      update(gradients, multiplier, rows);
    };
  }

  batch(): Batch {
    const sizes = [
      [[4, 4]],
      [
        [2, 6],
        [4, 4],
      ],
      [],
    ] as const;
    return collate(sizes.map((own, i) => noiseSample(this.model, 12 + 10 * i, own, i)));
  }

  step(options: Partial<StepOptions>): StepResult {
    const all = { maxGradNorm: 0, recompute: true, perMicroBatch: false, ...options };
    return trainStep(this.model, [this.batch()], this.optimizer, 1, all);
  }

  get data(): ReadonlyMap<string, Tensor> {
    return new Map([...this.parameters].map(([name, { data }]) => [name, data]));
  }

  dispose(): void {
    this.optimizer.dispose();
    this.model.dispose();
  }
}

describe('a fused step', () => {
  it('ends with the same parameters bit for bit where nothing is clipped', () => {
    const [plain, fused] = [new Training(), new Training()];
    for (let step = 0; step < 3; step++) {
      const [a, b] = [plain.step({}), fused.step({ fused: true })];
      expect(b.loss).toBe(a.loss);
      expectNear(b.gradNorm, a.gradNorm, FORWARD); // the same squares, summed block by block
      expect(b).toMatchObject({ updated: true, supervisedTokens: a.supervisedTokens });
    }
    expect(largestDifference(plain.data, fused.data)).toBe(0);
    plain.dispose();
    fused.dispose();
  });

  it('updates every parameter once, blocks from back to front', () => {
    const training = new Training();
    training.step({ fused: true });
    const names = training.updates.flat();
    expect([...names].sort()).toEqual([...training.parameters.keys()].sort());
    const place = (part: string): number => training.updates.findIndex((block) => block.some((n) => n.includes(part)));
    const order = ['model.norm', 'layers.1.mlp', 'layers.0.mlp', 'embed_tokens', 'resampler.', 'vpm.post', 'vpm.embed'];
    expect(order.map(place)).toEqual(order.map(place).sort((a, b) => a - b));
    training.dispose();
  });

  it('never holds the gradients of the whole model', () => {
    const most = (fused: boolean): number => {
      const training = new Training();
      training.step({ fused }); // makes the moments
      const before = liveTensors().bytes;
      training.mostBytes = 0;
      training.step({ fused });
      training.dispose();
      return training.mostBytes - before;
    };
    const training = new Training();
    const whole = [...training.data].filter(([name]) => !name.includes('embed_tokens')); // of that only some rows
    const all = whole.reduce((sum, [, { nbytes }]) => sum + nbytes, 0);
    training.dispose();
    expect(most(false)).toBeGreaterThanOrEqual(all);
    expect(most(true)).toBeLessThan(0.6 * all);
  });

  it('clips the norm of each block by itself', () => {
    const training = new Training();
    const { gradNorm } = training.step({ fused: true, maxGradNorm: 0.05 });
    expect(gradNorm).toBeGreaterThan(0.05);
    expect(training.norms.length).toBeGreaterThan(5);
    expect(Math.max(...training.norms)).toBeLessThan(0.0501);
    expect(training.norms.filter((norm) => norm > 0.0499).length).toBeGreaterThan(1);
    training.dispose();
  });

  it('ends its updates at a gradient that is not finite, and leaves no tensor behind', () => {
    const training = new Training();
    training.step({ fused: true });
    const before = liveTensors().tensors;
    const name = 'llm.model.layers.0.mlp.down_proj.weight';
    noGrad(() => ops.mulScalar_(training.parameters.get(name)!.data, Number.NaN));
    training.updates.length = 0;
    expect(training.step({ fused: true })).toMatchObject({ updated: false });
    expect(training.updates).toEqual([]);
    expect(liveTensors().tensors).toBe(before);
    training.dispose();
  });
});

describe('--fused_backward', () => {
  const place = makePlace(8);
  afterAll(() => rmSync(place.folder, { recursive: true }));

  it('trains with the same losses, packed or not', async () => {
    const flags = {
      max_steps: 4,
      max_grad_norm: 0,
      model_max_length: 100,
      packing: true,
      per_device_train_batch_size: 1,
    };
    const [plain, fused] = [
      configOf(place, 'plain', flags),
      configOf(place, 'fused', { ...flags, fused_backward: true }),
    ];
    for (const config of [plain, fused]) await train(config);
    expect(lossesOf(fused.output.output_dir)).toEqual(lossesOf(plain.output.output_dir));
  });

  const words = '--model_name_or_path m --data_path d --output_dir o --fused_backward';
  it.each([
    ['--gradient_accumulation_steps 2', 'no accumulation', '--gradient_accumulation_steps 2'],
    ['--on_nonfinite skip', 'stop', '--on_nonfinite skip'],
    ['--fp16', 'bfloat16 or float32', '--dtype float16'],
  ])('refuses %s', (more, wanted, received) => {
    const error = (() => {
      try {
        return resolveTrainConfig(`${words} ${more}`.split(' '));
      } catch (reason) {
        return reason;
      }
    })();
    expect(error).toBeInstanceOf(UserError);
    expect((error as Error).message).toBe(`Expected ${wanted} with --fused_backward but received ${received}.`);
  });

  it('says that clipping is per block', () => {
    expect(resolveTrainConfig(words.split(' ')).notices).toContain(
      'fused_backward: max_grad_norm 1 is applied to the gradients of each block by itself.',
    );
  });
});
