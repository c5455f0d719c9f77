import { spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createModel, loadWeights, MiniCPMV, runPlan, saveCheckpoint } from '@minicpm-finetune/minicpm-v';
import { parseConfig } from '@minicpm-finetune/processor';
import { makeSchedule } from '@minicpm-finetune/run';
import { manualSeed, noGrad, ops, scope, type Tensor, tensor, writeSafetensors } from '@minicpm-finetune/torch';
import { evaluateBatch, Optimizer, trainStep, withoutDecay } from 'minicpm-finetune/internal';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { LONG } from '../../../torch/test/support/long.js';
import { ReferenceFolder } from '../../src/parity/models-folder.js';
import { trainAll } from '../../src/parity/models-training.js';

const PROGRAM = join(import.meta.dirname, '..', '..', 'dist', 'parity', 'models.js');
const CONFIG = {
  architectures: ['MiniCPMV'],
  version: 2.6,
  hidden_size: 128,
  intermediate_size: 32,
  num_hidden_layers: 1,
  num_attention_heads: 2,
  vocab_size: 40,
  max_position_embeddings: 64,
  query_num: 2,
  drop_vision_last_layer: false,
  vision_config: {
    hidden_size: 8,
    intermediate_size: 16,
    num_hidden_layers: 1,
    num_attention_heads: 1,
    patch_size: 14,
    image_size: 140,
  },
};
const IDS = [[5, 0, 0, 7, 9, 11]];
const LABELS = [[-100, -100, -100, 9, 11, 2]];

let folder: string;

/** A folder with one case whose expected values are the model's own. */
function write(change: (expected: Map<string, Tensor>) => void): void {
  const path = join(folder, 'cases', 'one');
  mkdirSync(path, { recursive: true });
  const model = createModel(parseConfig(JSON.stringify(CONFIG), 'config.json'), { seed: 1 });
  rmSync(join(folder, 'model.safetensors'), { force: true });
  saveCheckpoint(model, folder);
  noGrad(() =>
    scope(() => {
      const inputIds = tensor(IDS, 'int64');
      const positionIds = tensor([[0, 1, 2, 3, 4, 5]], 'int64');
      const pixels = ops.randn([3, 14, 14 * 6]);
      const picture = { pixels, rows: 2, cols: 3 };
      const inputs = { inputIds, positionIds, pictures: [[picture]], imageBounds: [[[1, 3] as const]] };
      const logits = model.logits(runPlan(model.plan(inputs, { train: false })));
      const loss = ops.crossEntropyLoss(ops.squeeze(logits, 0), tensor(LABELS[0]!, 'int64'));
      const expected = new Map([
        ['vision.0.0', model.visionFeatures([picture])[0]!],
        ['resampler.0.0', model.pictureTokens([picture])[0]!],
        ['inputs_embeds', model.inputsEmbeds(inputs)],
        ['logits', logits],
        ['loss', ops.reshape(loss, [1])],
      ]);
      change(expected);
      writeSafetensors(join(path, 'expected.safetensors'), expected);
      writeSafetensors(
        join(path, 'inputs.safetensors'),
        new Map([
          ['input_ids', ops.to(inputIds, 'int32')],
          ['position_ids', positionIds],
          ['labels', tensor(LABELS, 'int32')],
          ['attention_mask', ops.to(ops.ones([1, 6]), 'bool')],
          ['pixel_values.0.0', pixels],
          ['tgt_sizes.0', tensor([[2, 3]], 'int32')],
          ['image_bound.0', tensor([[1, 3]], 'int64')],
        ]),
      );
    }),
  );
  model.dispose();
}

/** Adds a case of two records and a training of four steps over both cases, whose recorded numbers are `steps`. */
function writeTraining(steps: readonly (readonly [loss: number, gradNorm: number])[], after: readonly number[]): void {
  const path = join(folder, 'cases', 'two');
  mkdirSync(path, { recursive: true });
  mkdirSync(join(folder, 'train'), { recursive: true });
  const batches = ['one', 'two'];
  const config = { lr: 1e-3, betas: [0.9, 0.95], eps: 1e-8, weight_decay: 0.1, max_grad_norm: 1 };
  const schedule = makeSchedule(
    { lr_scheduler_type: 'cosine', lr_scheduler_kwargs: null },
    { totalSteps: 4, warmupSteps: 1, learningRate: 1e-3 },
  );
  const model = new MiniCPMV(parseConfig(JSON.stringify(CONFIG), 'config.json'));
  const noDecay = withoutDecay(model);
  const names = [...model.namedParameters()].map(([name]) => name).filter((name) => !model.fixedParameters.has(name));
  model.dispose();
  const training = {
    config: { ...config, warmup_steps: 1, total_steps: 4 },
    steps: steps.map(([loss, grad_norm], step) => ({
      ...{ step, batch: batches[step % 2], loss, grad_norm, lr_used: 1e-3 * schedule(step) },
    })),
    loss_after_training: batches.map((batch, i) => ({ batch, loss: after[i] })),
    decay_parameters: names.filter((name) => !noDecay.has(name)),
    no_decay_parameters: names.filter((name) => noDecay.has(name)),
  };
  writeFileSync(join(folder, 'train', 'full.json'), JSON.stringify(training));
  scope(() => {
    writeSafetensors(join(folder, 'train', 'full_final.safetensors'), new Map());
    writeSafetensors(join(path, 'expected.safetensors'), new Map());
    const ids = tensor([...IDS, [6, 0, 0, 8, 3, 4]], 'int32');
    const bound = tensor([[1, 3]], 'int64');
    const inputs = {
      input_ids: ids,
      position_ids: tensor(
        [0, 1].map(() => [0, 1, 2, 3, 4, 5]),
        'int64',
      ),
    };
    const pictures = [0, 1].flatMap((i) => [
      [`pixel_values.${i}.0`, ops.randn([3, 14, 14 * 6])] as const,
      [`tgt_sizes.${i}`, tensor([[2, 3]], 'int32')] as const,
      [`image_bound.${i}`, bound] as const,
    ]);
    const labels = tensor([...LABELS, [-100, -100, -100, 3, 4, -100]], 'int32');
    const mask = ops.to(ops.ones([2, 6]), 'bool');
    const all = { ...inputs, labels, attention_mask: mask, ...Object.fromEntries(pictures) };
    writeSafetensors(join(path, 'inputs.safetensors'), new Map(Object.entries(all)));
  });
}

/** Takes the steps of the training in this process, and says what came of it. */
function recordedBy(path: string): { steps: [number, number][]; after: number[] } {
  const model = new MiniCPMV(parseConfig(JSON.stringify(CONFIG), 'config.json'));
  loadWeights(model, path, { dtype: 'float32' });
  trainAll(model);
  const reference = new ReferenceFolder(path);
  const parameters = new Map([...model.namedParameters()].filter(([, { requiresGrad }]) => requiresGrad));
  const optimizer = new Optimizer(parameters, withoutDecay(model), {
    ...{ learningRate: 1e-3, visionLearningRate: null, resamplerLearningRate: null, embeddingLearningRate: null },
    ...{ loraPlusRatio: null, masterWeights: false, weightDecay: 0.1, beta1: 0.9, beta2: 0.95, eps: 1e-8 },
  });
  const names = ['one', 'two'];
  const options = { maxGradNorm: 1, recompute: false, perMicroBatch: false, zeroPicture: true };
  const { steps } = reference.json<{ steps: { lr_used: number }[] }>('train', 'full.json');
  const results = steps.map(({ lr_used }, step) =>
    trainStep(model, [reference.case(names[step % 2]!).batch()], optimizer, lr_used / 1e-3, options),
  );
  const after = names.map((name) => {
    const { sum, count } = evaluateBatch(model, reference.case(name).batch());
    return sum / count;
  });
  optimizer.dispose();
  model.dispose();
  return { steps: results.map(({ loss, gradNorm }) => [loss, gradNorm]), after };
}

function parity(...args: string[]): { status: number | null; failed: string[]; checks: number; stderr: string } {
  const { status, stdout, stderr } = spawnSync(process.execPath, [PROGRAM, ...args], { encoding: 'utf8' });
  const lines = stdout.split('\n').filter((line) => line !== '');
  const results = lines.map((line) => JSON.parse(line) as { check: string; ok: boolean });
  return { status, stderr, checks: results.length, failed: results.filter(({ ok }) => !ok).map(({ check }) => check) };
}

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'parity-'));
});
afterAll(() => rmSync(folder, { recursive: true }));

describe('parity', () => {
  it('passes when the numbers agree', () => {
    write(() => {});
    expect(parity(folder)).toMatchObject({ status: 0, failed: [], checks: 5 });
  });

  it('fails the checks whose numbers do not, or that cannot be made', () => {
    write((expected) => {
      expected.set('logits', ops.addScalar(expected.get('logits')!, 1e-3));
      expected.set('vision.0.0', ops.narrow(expected.get('vision.0.0')!, 0, 0, 5));
    });
    expect(parity(folder)).toMatchObject({ status: 1, failed: ['one/vision', 'one/logits'] });
  });

  it('fails when the checkpoint does not load', () => {
    write(() => {});
    writeFileSync(join(folder, 'model.safetensors'), 'nothing of the kind');
    expect(parity(folder)).toMatchObject({ status: 1, failed: ['weights'] });
  });

  it('repeats a recorded training, over ranks, too', () => {
    write(() => {});
    manualSeed(1);
    writeTraining(Array(4).fill([0, 1]), [0, 0]);
    const recorded = recordedBy(folder);
    manualSeed(1);
    writeTraining(recorded.steps, recorded.after);
    const alone = (): string[] => parity(folder).failed.filter((check) => check.startsWith('train/'));
    if (LONG) expect(alone()).toEqual([]);
    for (const size of LONG ? ['2', '3'] : ['2'])
      expect(parity('--ranks', size, folder)).toMatchObject({ status: 0, failed: [], checks: 7 });
    manualSeed(1);
    writeTraining(
      [...recorded.steps.slice(0, 3), [recorded.steps[3]![0] + 1e-3, recorded.steps[3]![1]]],
      recorded.after,
    );
    expect(alone()).toEqual(['train/full/loss']);
    if (LONG) expect(parity('--ranks', '2', folder)).toMatchObject({ status: 1, failed: ['train/full/loss'] });
    rmSync(join(folder, 'train'), { recursive: true });
    rmSync(join(folder, 'cases', 'two'), { recursive: true });
  });

  it('refuses a wrong command line', () => {
    if (LONG) expect(parity()).toMatchObject({ status: 2, checks: 0 });
    expect(parity(join(folder, 'nowhere'))).toMatchObject({ status: 2, stderr: expect.stringContaining('nowhere') });
    expect(parity('--help').stderr).toContain('npm run parity -- DIR');
  });
});
