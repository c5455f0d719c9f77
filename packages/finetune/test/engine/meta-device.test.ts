/**
 * Whole steps of every model on libtorch's `meta` device, which has shapes and no values: an operator with one tensor of the CPU and one of
 * the device fails there as it would on a GPU.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { applyLora, loadWeights, MiniCPMV, moveTo, runPlan, setLoraTraining } from '@minicpm-finetune/minicpm-v';
import { readConfig } from '@minicpm-finetune/processor';
import { type DType, ops, scope } from '@minicpm-finetune/torch';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { tinyCheckpoint, VERSION_NAMES } from '../../../minicpm-v/test/support/tiny.js';
import { type Batch, collate, disposeBatch } from '../../src/engine/collate.js';
import { Optimizer, withoutDecay } from '../../src/engine/optimizer.js';
import { gradientsOf, type StepOptions } from '../../src/engine/step.js';
import { tuneFully } from '../../src/engine/trainables.js';
import { noiseSample } from '../support/model-in-memory.js';

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'meta-'));
});
afterAll(() => rmSync(folder, { recursive: true }));

const LORA = {
  r: 4,
  alpha: 8,
  dropout: 0.1,
  targetModules: ['q_proj', 'v_proj', 'down_proj'],
  bias: 'none',
  useRslora: false,
  layersToTransform: null,
  rankPattern: {},
  alphaPattern: {},
} as const;

describe.each(VERSION_NAMES)('%s on the meta device', (version) => {
  let checkpoint: string;
  beforeAll(() => {
    checkpoint = tinyCheckpoint(folder, version);
  });

  function model(dtype: DType = 'float32'): MiniCPMV {
    const made = new MiniCPMV(readConfig(checkpoint));
    loadWeights(made, checkpoint, { dtype });
    return made;
  }

  const batches = (of: MiniCPMV): Batch[] => [
    collate(
      [
        noiseSample(
          of,
          30,
          [
            [2, 3],
            [4, 4],
          ],
          1,
        ),
        noiseSample(of, 12, [], 2),
      ],
      'meta',
    ),
    collate([noiseSample(of, 20, [[4, 4]], 3)], 'meta'),
    collate([noiseSample(of, 20, [], 4)], 'meta'),
  ];

  /** One step but for its finite check: losses, gradients, update. */
  function step(of: MiniCPMV, stochasticRounding: boolean, options: Partial<StepOptions> = {}): void {
    moveTo(of, 'meta');
    const { losses, receiver } = gradientsOf(of, batches(of), { recompute: false, perMicroBatch: false, ...options });
    expect(losses.map(({ device }) => device)).toEqual(['meta', 'meta', 'meta']);
    const parameters = new Map([...of.namedParameters()].filter(([, { requiresGrad }]) => requiresGrad));
    const rates = { learningRate: 1e-3, visionLearningRate: null, resamplerLearningRate: null };
    const optimizer = new Optimizer(parameters, withoutDecay(of), {
      ...{ ...rates, embeddingLearningRate: null, loraPlusRatio: null, weightDecay: 0.1 },
      ...{ beta1: 0.9, beta2: 0.95, eps: 1e-8, masterWeights: !stochasticRounding, stochasticRounding },
    });
    for (const [name, gradient] of receiver.gradients) {
      expect(gradient.device, name).toBe('meta');
      if (!receiver.rows.has(name)) expect(gradient.shape, name).toEqual(parameters.get(name)!.shape);
    }
    scope(() => optimizer.step(receiver.gradients, { multiplier: 1, seed: 0, rows: receiver.rows }));
    for (const loss of losses) loss.dispose();
    receiver.dispose();
    optimizer.dispose();
    of.dispose();
  }

  it('trains everything', () => {
    const own = model();
    tuneFully(own, { tuneVision: true, tuneLlm: true });
    step(own, false);
  });

  it.each([true, false])('trains everything in bfloat16, stochastic rounding: %s', (stochastic) => {
    const own = model('bfloat16');
    tuneFully(own, { tuneVision: true, tuneLlm: true });
    step(own, stochastic);
  });

  it('takes stored features of the vision tower', () => {
    const own = model();
    if (own.version.positions !== 'grid') return;
    tuneFully(own, { tuneVision: false, tuneLlm: true });
    moveTo(own, 'meta');
    const [batch, ...others] = batches(own);
    const pictures = batch!.inputs.pictures
      .flat()
      .map((grid) => ops.zeros([own.featuresOf(grid), own.config.vision.hiddenSize], { device: 'meta' }));
    for (const other of others) disposeBatch(other);
    const hidden = scope(() =>
      runPlan(own.plan(batch!.inputs, { train: true, known: { level: 'features', values: pictures } })),
    );
    expect(hidden.device).toBe('meta');
    hidden.dispose();
    for (const picture of pictures) picture.dispose();
    disposeBatch(batch!);
    own.dispose();
  });

  it.each([true, false])('trains adapters with everything recomputed, DoRA: %s', (useDora) => {
    const own = model();
    applyLora(own, { ...LORA, modulesToSave: [own.parts.connector], useDora }, { seed: 1 });
    setLoraTraining(own, true);
    step(own, false, { recompute: true });
  });
});
