/** Updates in the backward pass: the same parameters as otherwise where nothing is clipped, without the gradients of the whole model. */
import { rmSync } from 'node:fs';
import { type MiniCPMV, type Plan, trainableParameters } from '@minicpm-finetune/minicpm-v';
import { UserError } from '@minicpm-finetune/run';
import { liveTensors, manualSeed, noGrad, ops, type Parameter, scope, type Tensor } from '@minicpm-finetune/torch';
import { afterAll, describe, expect, it } from 'vitest';
import { expectNear, FORWARD } from '../../../torch/test/precision.js';
import { clipGradients, clipOnDevice, normOf, squaresOf } from '../../src/engine/clip.js';
import { type Batch, collate } from '../../src/engine/collate.js';
import { Optimizer, withoutDecay } from '../../src/engine/optimizer.js';
import { type StepOptions, type StepResult, trainStep } from '../../src/engine/step.js';
import { tuneFully } from '../../src/engine/trainables.js';
import { train } from '../../src/train/train.js';
import { resolveTrainConfig } from '../support/config-words.js';
import { largestDifference, modelInMemory, noiseSample } from '../support/model-in-memory.js';
import { configOf, lossesOf, makePlace } from '../support/run-place.js';

function bytesOf(tensor: Tensor): string {
  const bytes = new Uint8Array(tensor.nbytes);
  scope(() => ops.contiguous(tensor).readBytes(0, bytes));
  return Buffer.from(bytes).toString('base64');
}

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
    this.optimizer.step = (gradients, settings) => {
      this.mostBytes = Math.max(this.mostBytes, liveTensors().bytes);
      this.updates.push([...gradients.keys()]);
      const squares = [...gradients.values()].map((g) => scope(() => ops.sumAll(ops.square(g)).item()));
      this.norms.push(Math.sqrt(squares.reduce((a, b) => a + b)));
      update(gradients, settings);
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

  /** The bytes of every parameter. */
  values(): ReadonlyMap<string, string> {
    return new Map([...this.data].map(([name, data]) => [name, bytesOf(data)]));
  }

  /** The bytes of every moment, and steps. */
  moments(): ReadonlyMap<string, string> {
    return new Map(
      [...this.optimizer.adamw.state].map(([name, { expAvg, expAvgSq, step }]) => [
        name,
        [expAvg, expAvgSq, step].map(bytesOf).join(),
      ]),
    );
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
    const [values, moments] = [training.values(), training.moments()];
    expect(training.step({ fused: true })).toMatchObject({ updated: false });
    expect(training.values()).toEqual(values);
    expect(training.moments()).toEqual(moments);
    expect(liveTensors().tensors).toBe(before);
    training.dispose();
  });

  it('keeps the updates before a gradient that is not finite, and makes none after it', () => {
    const training = new Training();
    training.step({ fused: true });
    // The output stays the same, the gradient of the first input is 0 times infinity.
    const poisoned = (x: Tensor, output: Tensor): Tensor =>
      ops.add(output, ops.mulScalar(ops.sqrt(ops.mulScalar(x, 0)), 0));
    const wrap = (plan: Plan): Plan =>
      plan.map((node) =>
        node.name === 'llm.model.layers.0'
          ? { ...node, forward: (...inputs) => poisoned(inputs[0]!, node.forward(...inputs)) }
          : node,
      );
    const before = training.values();
    expect(training.step({ fused: true, wrap })).toMatchObject({ updated: false });
    const after = training.values();
    const changed = [...before.keys()].filter((key) => after.get(key) !== before.get(key));
    for (const part of ['layers.0.', 'layers.1.'])
      expect(changed.some((key) => key.includes(`llm.model.${part}`))).toBe(true);
    expect(changed.filter((key) => !key.startsWith('llm.') || key.includes('embed_tokens'))).toEqual([]);
    training.dispose();
  });
});

describe('clipping on the device', () => {
  it.each(['float32', 'bfloat16'] as const)('has the bits of clipping with numbers in %s', (dtype) => {
    for (const maxNorm of [0, 0.37, 1e9]) {
      const [a, b] = [0, 1].map(() => {
        manualSeed(3);
        return new Map(['x', 'y'].map((name) => [name, ops.to(ops.randn([37, 11]), dtype)]));
      });
      clipGradients(
        a!,
        scope(() => normOf(squaresOf(a!).item())),
        maxNorm,
      );
      clipOnDevice(
        b!,
        scope(() => ops.to(ops.to(ops.sqrt(squaresOf(b!)), 'float32'), 'float64')),
        maxNorm,
      );
      expect(largestDifference(a!, b!)).toBe(0);
    }
  });

  it('makes no tensor anywhere else', () => {
    const gradients = new Map([['x', ops.zeros([3, 4], { device: 'meta', dtype: 'bfloat16' })]]);
    clipOnDevice(
      gradients,
      scope(() => ops.sqrt(squaresOf(gradients))),
      1,
    );
    expect(gradients.get('x')!.dtype).toBe('bfloat16');
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
