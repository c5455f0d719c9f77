/** Flags that change how a model trains, seen in what they do to a whole run. */
import { existsSync, readdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { createModel, runPlan } from '@minicpm-finetune/minicpm-v';
import { fixedTokens, readConfig } from '@minicpm-finetune/processor';
import { makeSchedule } from '@minicpm-finetune/run';
import { manualSeed, noGrad, ops, SafetensorsFile, scope, type Tensor } from '@minicpm-finetune/torch';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { withNoise } from '../../src/engine/neftune.js';
import { Progress } from '../../src/report/progress.js';
import { prepareModel } from '../../src/train/open-model.js';
import { train } from '../../src/train/train.js';
import { userError } from '../support/config-words.js';
import { configOf, eventsOf, lossesOf, makePlace, type Place } from '../support/run-place.js';

let place: Place;
beforeAll(() => {
  place = makePlace(8);
});
afterAll(() => rmSync(place.folder, { recursive: true }));

async function run(name: string, flags: Readonly<Record<string, unknown>>): Promise<string> {
  const config = configOf(place, name, flags);
  await train(config);
  return config.output.output_dir;
}

/** The largest change of a weight between two files. */
function change(a: string, b: string, name: string): number {
  const [one, other] = [a, b].map((path) => new SafetensorsFile(path));
  return scope(() => ops.maxAll(ops.abs(ops.sub(one!.tensor(name), other!.tensor(name)))).item());
}

describe('learning rates', () => {
  // Adam's first step is the learning rate in every number whose gradient is not next to nothing.
  const NAMES = {
    vision: 'vpm.encoder.layers.0.mlp.fc1.weight',
    resampler: 'resampler.proj',
    embedding: 'llm.model.embed_tokens.weight',
    other: 'llm.model.layers.0.mlp.up_proj.weight',
  };

  it('of vision tower, resampler, embeddings and the rest are their own', async () => {
    const folder = await run('rates', {
      ...{ max_steps: 1, learning_rate: 1e-3, vision_learning_rate: 2e-3 },
      ...{ resampler_learning_rate: 3e-3, embedding_learning_rate: 4e-3 },
    });
    const changes = Object.values(NAMES).map((name) =>
      change(join(place.model, 'model.safetensors'), join(folder, 'model.safetensors'), name),
    );
    for (const [i, rate] of [2e-3, 3e-3, 4e-3, 1e-3].entries()) expect(changes[i]! / rate).toBeCloseTo(1, 2);
  });

  it('of lora_B is a multiple of lora_A under LoRA+', async () => {
    const flags = { use_lora: true, lora_r: 4, lora_dropout: 0, learning_rate: 1e-3, save_strategy: 'steps' };
    const folder = await run('lora-plus', { ...flags, save_steps: 1, max_steps: 2, loraplus_lr_ratio: 8 });
    const [first, second] = [1, 2].map((step) => join(folder, `checkpoint-${step}`, 'adapter_model.safetensors'));
    const name = [...new SafetensorsFile(first!).infos.keys()].find((key) => key.includes('lora_B'))!;
    const b = scope(() => ops.maxAll(ops.abs(new SafetensorsFile(first!).tensor(name))).item());
    expect(b / 8e-3).toBeCloseTo(1, 2); // lora_B begins at zero
    expect(change(first!, second!, name.replace('lora_B', 'lora_A'))).toBeLessThan(1.5e-3);
  });

  it.each([
    ['linear', {}],
    ['cosine', {}],
    ['cosine_with_restarts', { num_cycles: 2 }],
    ['polynomial', { power: 2 }],
    ['constant', {}],
    ['constant_with_warmup', {}],
    ['inverse_sqrt', {}],
    ['warmup_stable_decay', { num_decay_steps: 2 }],
    ['WarmupLR', {}],
  ] as const)('follow %s', async (type, options) => {
    const flags = { lr_scheduler_type: type, lr_scheduler_kwargs: JSON.stringify(options), warmup_steps: 2 };
    const folder = await run(`schedule-${type}`, { ...flags, data_path: place.text, max_steps: 6 });
    const schedule = makeSchedule({ lr_scheduler_type: type, lr_scheduler_kwargs: options, warmup_steps: 2 } as never, {
      totalSteps: 6,
      warmupSteps: type === 'constant' ? 0 : 2,
      learningRate: 1e-3,
    });
    const rates = eventsOf(folder, 'step').map(({ learning_rate }) => learning_rate);
    expect(rates).toEqual([0, 1, 2, 3, 4, 5].map((step) => 1e-3 * schedule(step)));
    if (type !== 'constant') expect(new Set(rates).size).toBeGreaterThan(1);
  });
});

describe('NEFTune', () => {
  it('adds uniform noise of alpha / sqrt(L D) to the token embeddings, not to pictures', () => {
    const model = createModel(readConfig(place.model), { seed: 0 });
    const [L, D, Q] = [40, model.config.llm.hiddenSize, fixedTokens(model.config.pictureTokens)];
    scope(() => {
      const inputs = {
        inputIds: ops.to(ops.full([2, L], 5), 'int64'),
        positionIds: ops.to(ops.reshape(ops.repeat(ops.arange(0, L), [2]), [2, L]), 'int64'),
        pictures: [[], [{ pixels: ops.to(ops.zeros([3, 14, 14 * 16]), 'uint8'), rows: 4, cols: 4 }]],
        imageBounds: [[], [[3, 3 + Q]]] as const,
      };
      const embeddings = (alpha: number | null): Tensor => {
        const plan = model.plan(inputs, { train: true });
        const wrapped = alpha === null ? plan : withNoise(plan, inputs, model, alpha);
        return noGrad(() => runPlan(wrapped.slice(0, plan.findIndex(({ name }) => name.endsWith('embed_tokens')) + 1)));
      };
      manualSeed(0);
      const noise = ops.sub(embeddings(5), embeddings(null));
      const magnitude = 5 / Math.sqrt(L * D);
      const largest = ops.maxAll(ops.abs(noise)).item();
      expect(largest).toBeLessThanOrEqual(magnitude * (1 + 1e-5));
      expect(largest).toBeGreaterThan(0.98 * magnitude);
      const deviation = Math.sqrt(ops.meanAll(ops.square(ops.select(noise, 0, 0))).item());
      expect(deviation / (magnitude / Math.sqrt(3))).toBeCloseTo(1, 1); // of a uniform distribution
      const picture = ops.narrow(ops.select(noise, 0, 1), 0, 3, Q);
      expect(ops.maxAll(ops.abs(picture)).item()).toBe(0);
      expect(ops.minAll(ops.amax(ops.abs(ops.select(noise, 0, 0)), [1])).item()).toBeGreaterThan(0);
    });
    model.dispose();
  });

  it('is drawn again the same when recomputed, and absent from evaluation', async () => {
    const flags = { neftune_noise_alpha: 50, max_steps: 3, eval_data_path: place.data, eval_on_start: true };
    const plain = await run('neftune-none', { ...flags, neftune_noise_alpha: 'none' });
    const noisy = await run('neftune', flags);
    const again = await run('neftune-recomputed', { ...flags, gradient_checkpointing: true });
    expect(eventsOf(noisy, 'eval')[0]!.loss).toBe(eventsOf(plain, 'eval')[0]!.loss);
    expect(Math.abs(lossesOf(noisy)[0]! - lossesOf(plain)[0]!)).toBeGreaterThan(1e-4);
    expect(lossesOf(again)).toEqual(lossesOf(noisy));
  });
});

describe('--report_to tensorboard', () => {
  it('writes event files to the run folder, or to --logging_dir', async () => {
    const flags = { report_to: 'tensorboard', data_path: place.data, eval_data_path: place.data };
    const folder = await run('board', { ...flags, do_eval: true, eval_generate: 2 });
    expect(readdirSync(join(folder, 'logs'))).toEqual([expect.stringMatching(/^events\.out\.tfevents\.\d{10}\./)]);
    const elsewhere = join(place.folder, 'logs-elsewhere');
    const other = await run('board-elsewhere', { ...flags, logging_dir: elsewhere });
    expect(readdirSync(elsewhere)).toHaveLength(1);
    expect(existsSync(join(other, 'logs'))).toBe(false);
  });
});

describe('--vision_batch_size', () => {
  it("takes the place of the checkpoint's", () => {
    for (const [given, expected] of [
      ['none', readConfig(place.model).vision.batchSize],
      [3, 3],
    ] as const) {
      const config = configOf(place, 'vision', { vision_batch_size: given });
      const { model } = prepareModel(config, place.model, new Progress({ mode: 'quiet' }), null);
      expect(model.config.vision.batchSize).toBe(expected);
      model.dispose();
    }
  });
});

describe('flags that mean something this version does not do', () => {
  it.each<[Readonly<Record<string, unknown>>, string]>([
    [
      { metric_for_best_model: 'bleu' },
      'Expected one of loss, exact_match, anls, rouge_l for --metric_for_best_model but received bleu.',
    ],
    [
      { metric_for_best_model: 'eval_anls' },
      'Expected loss without --eval_generate for --metric_for_best_model but received anls.',
    ],
  ])('%j is refused before anything is written', (flags, message) => {
    const error = userError(() => configOf(place, 'refused', flags));
    expect(error.message).toBe(message);
    expect(error.details().cure).toBeTruthy();
    expect(existsSync(join(place.folder, 'refused'))).toBe(false);
  });
});
