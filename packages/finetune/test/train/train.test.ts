import { existsSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import type { RunConfig } from '@minicpm-finetune/run';
import { ops, SafetensorsFile, scope } from '@minicpm-finetune/torch';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { BACKWARD, expectNear, FORWARD, roundings } from '../../../torch/test/precision.js';
import { readRecipe } from '../../src/config/recipe.js';
import { TRAIN_FLAGS } from '../../src/config/train-flags.js';
import { train } from '../../src/train/train.js';
import { resolveTrainConfig } from '../support/config-words.js';
import { configOf, eventsOf, lossesOf, makePlace, type Place, readJson } from '../support/run-place.js';

let place: Place;
beforeAll(() => {
  place = makePlace();
});
afterAll(() => rmSync(place.folder, { recursive: true }));

/** Trains and returns the run folder. */
async function run(name: string, flags: Readonly<Record<string, unknown>>): Promise<string> {
  const config = configOf(place, name, flags);
  await train(config);
  return config.output.output_dir;
}

/** Largest difference between the weights of two folders. */
function largestDifference(a: string, b: string): number {
  const [one, other] = [a, b].map((folder) => new SafetensorsFile(join(folder, 'model.safetensors')));
  return Math.max(
    ...[...one!.infos.keys()].map((name) =>
      scope(() => ops.maxAll(ops.abs(ops.sub(one!.tensor(name), other!.tensor(name)))).item()),
    ),
  );
}

const mean = (values: readonly number[]): number => values.reduce((sum, value) => sum + value, 0) / values.length;

describe('a run', () => {
  it('lowers the loss in full fine-tuning and leaves a folder one can look at', async () => {
    const flags = { max_steps: 16, save_strategy: 'steps', save_steps: 8, learning_rate: 3e-3 };
    const folder = await run('full', { ...flags, gradient_checkpointing: true });
    const losses = lossesOf(folder);
    expect(losses).toHaveLength(16);
    expect(mean(losses.slice(-4))).toBeLessThan(0.7 * mean(losses.slice(0, 4)));
    const steps = eventsOf(folder, 'step');
    expect(steps[14]!.memory.tensors).toBe(steps[4]!.memory.tensors); // nothing is left behind by a step
    const state = readJson<{ global_step: number; log_history: object[] }>(folder, 'trainer_state.json');
    expect(state.global_step).toBe(16);
    expect(state.log_history).toHaveLength(16);
    expect(state.log_history[0]).toMatchObject({ step: 1, loss: losses[0], learning_rate: 3e-3 });
    expect(eventsOf(folder, 'checkpoint').map(({ path }) => path)).toEqual(['checkpoint-8', 'checkpoint-16']);
    for (const name of ['model.safetensors', 'optimizer.safetensors', 'rng_state.safetensors', 'manifest.json'])
      expect(existsSync(join(folder, 'checkpoint-8', name)), name).toBe(true);
    expect(existsSync(join(folder, 'tokenizer.json'))).toBe(true);
    expect(eventsOf(folder, 'run_end')[0]).toMatchObject({ status: 'finished', step: 16, output: '.' });
  });

  it('is repeated by its run.json, to the byte', async () => {
    const folder = await run('first', {});
    const recipe = readRecipe(join(folder, 'run.json'), TRAIN_FLAGS);
    expect(recipe.get('learning_rate')?.value).toBe(1e-3);
    const again = join(place.folder, 'again');
    const { config } = resolveTrainConfig(['--recipe', join(folder, 'run.json'), '--output_dir', again]);
    await train(config);
    expect(lossesOf(again)).toEqual(lossesOf(folder));
    expect(largestDifference(folder, again)).toBe(0);
    const [a, b] = [folder, again].map((one) => readJson<RunConfig>(one, 'run.json'));
    expect({ ...b, output: null }).toEqual({ ...a, output: null });
  });

  it('trains adapters, which is all it saves', async () => {
    const folder = await run('lora', {
      use_lora: true,
      lora_r: 8,
      lora_alpha: 16,
      max_steps: 16,
      learning_rate: 1e-2,
      save_strategy: 'steps',
      save_steps: 16,
    });
    const losses = lossesOf(folder);
    expect(mean(losses.slice(-4))).toBeLessThan(0.7 * mean(losses.slice(0, 4)));
    const steps = eventsOf(folder, 'step');
    expect(steps[14]!.memory.tensors).toBe(steps[4]!.memory.tensors);
    const { trainable_parameters, total_parameters } = eventsOf(folder, 'run_start')[0]!;
    expect(trainable_parameters).toBeLessThan(total_parameters);
    for (const where of ['.', 'checkpoint-16']) {
      expect(existsSync(join(folder, where, 'adapter_model.safetensors'))).toBe(true);
      expect(existsSync(join(folder, where, 'model.safetensors'))).toBe(false);
    }
  });
});

describe('gradient accumulation', () => {
  // Rounding decides the direction of a gradient that is zero; a large epsilon keeps Adam from making a whole step of it.
  const flags = { max_steps: 2, learning_rate: 1e-3, adam_epsilon: 1e-2, max_grad_norm: 0 };
  /** An error of a gradient moves a weight in every step by at most learning rate / epsilon times as much. */
  const WEIGHTS = ((2 * 1e-3) / 1e-2) * BACKWARD;

  it('changes nothing: 8 records at once, 4 twice, and 1 eight times', async () => {
    const folders: string[] = [];
    for (const size of [8, 4, 1]) {
      const batch = { per_device_train_batch_size: size, gradient_accumulation_steps: 8 / size };
      folders.push(await run(`batch-${size}`, { ...flags, ...batch }));
    }
    const [whole, ...split] = folders;
    for (const folder of split) {
      expectNear(lossesOf(folder), lossesOf(whole!), FORWARD);
      expect(largestDifference(whole!, folder)).toBeLessThan(WEIGHTS);
    }
  });

  it.each([
    ['inference', 'a token counts the same wherever it stands'],
    ['official', 'a micro-batch counts the same whatever is in it'],
  ])('--compat %s: %s', async (compat) => {
    const all = { compat, learning_rate: 0, per_device_train_batch_size: 1 };
    const single = eventsOf(await run(`single-${compat}`, { ...all, max_steps: 4 }), 'step');
    const folder = await run(`split-${compat}`, { ...all, max_steps: 1, gradient_accumulation_steps: 4 });
    const tokens = single.map(({ supervised_tokens_per_s, step_seconds }) => supervised_tokens_per_s * step_seconds);
    const total = tokens.reduce((sum, count) => sum + count, 0);
    const byToken = single.reduce((sum, { loss }, i) => sum + (loss! * tokens[i]!) / total, 0);
    const byBatch = mean(single.map(({ loss }) => loss!));
    expect(Math.abs(byToken - byBatch)).toBeGreaterThan(1e-4); // otherwise the test says nothing
    expectNear(lossesOf(folder)[0]!, compat === 'official' ? byBatch : byToken, FORWARD);
  });
});

describe('precision', () => {
  it('bfloat16 keeps float32 masters, which move where bfloat16 cannot', async () => {
    const flags = { dtype: 'bfloat16', learning_rate: 1e-5, max_steps: 4, save_strategy: 'steps', save_steps: 4 };
    const folder = await run('bf16', flags);
    const optimizer = new SafetensorsFile(join(folder, 'checkpoint-4', 'optimizer.safetensors'));
    const weights = new SafetensorsFile(join(folder, 'checkpoint-4', 'model.safetensors'));
    const name = 'llm.model.layers.0.self_attn.q_proj.weight';
    expect(optimizer.infos.get(`master.${name}`)!.dtype).toBe('float32');
    expect(weights.infos.get(name)!.dtype).toBe('bfloat16');
    scope(() => {
      const master = optimizer.tensor(`master.${name}`);
      expect(ops.equal(ops.to(master, 'bfloat16'), weights.tensor(name))).toBe(true);
      const lost = ops.sub(master, ops.to(weights.tensor(name), 'float32'));
      expect(ops.maxAll(ops.abs(lost)).item()).toBeGreaterThan(0);
    });
    // Before an update: later, bfloat16 weights stand still where float32 weights move. The errors of some 60 operators (√60 roundings)
    // average out over the tokens.
    const float32 = await run('fp32', { ...flags, dtype: 'float32', max_steps: 1 });
    expectNear(lossesOf(folder)[0]!, lossesOf(float32)[0]!, roundings(2, 'bfloat16'));
  });

  it('float16 scales the loss: the scale falls while gradients overflow, the steps are counted as skipped', async () => {
    const folder = await run('fp16', {
      dtype: 'float16',
      fp16_initial_scale_power: 24,
      fp16_hysteresis: 1,
      max_steps: 12,
      save_strategy: 'steps',
      save_steps: 12,
    });
    const steps = eventsOf(folder, 'step');
    expect(steps[0]!.loss_scale).toBe(2 ** 24);
    const last = steps.at(-1)!;
    expect(last.loss_scale).toBeLessThan(2 ** 24);
    expect(last.skipped_steps).toBe(Math.log2(2 ** 24 / last.loss_scale!));
    expect(last.skipped_steps).toBeLessThan(12);
    expect(last.loss).toBeLessThan(steps[0]!.loss!);
    const state = readJson<{ loss_scale: { scale: number } }>(folder, 'checkpoint-12', 'trainer_state.json');
    expect(state.loss_scale.scale).toBe(last.loss_scale);
  });
});
