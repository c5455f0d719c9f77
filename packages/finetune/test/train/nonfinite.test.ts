import { cpSync, existsSync, readdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { UserError } from '@minicpm-finetune/run';
import { ops, SafetensorsFile, scope, type Tensor, writeSafetensors } from '@minicpm-finetune/torch';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { NonfiniteOrigin } from '../../src/train/nonfinite.js';
import { train } from '../../src/train/train.js';
import { resolveTrainConfig } from '../support/config-words.js';
import { configOf, eventsOf, makePlace, type Place, readJson } from '../support/run-place.js';

let place: Place;
beforeAll(() => {
  place = makePlace(8);
});
afterAll(() => rmSync(place.folder, { recursive: true }));

/** The model with one of its weights filled with a value. */
function poisoned(name: string, weight: string, value: number): string {
  const folder = join(place.folder, name);
  cpSync(place.model, folder, { recursive: true });
  scope(() => {
    const file = new SafetensorsFile(join(place.model, 'model.safetensors'));
    const tensors = new Map<string, Tensor>();
    for (const one of file.infos.keys()) tensors.set(one, ops.clone(file.tensor(one)));
    expect(tensors.has(weight)).toBe(true);
    ops.fill_(tensors.get(weight)!, value);
    writeSafetensors(join(folder, 'model.safetensors'), tensors);
  });
  return folder;
}

async function failure(config: ReturnType<typeof configOf>): Promise<UserError> {
  const error = await train(config).then(
    () => new Error('the run ended well'),
    (reason: unknown) => reason,
  );
  expect(error).toBeInstanceOf(UserError);
  return error as UserError;
}

const DOWN = (layer: number): string => `llm.model.layers.${layer}.mlp.down_proj.weight`;

describe('a loss that is not finite', () => {
  it('ends the run, naming the module where it began, in a folder that repeats it', async () => {
    const model = poisoned('overflow', DOWN(1), 1e38);
    const config = configOf(place, 'stop', { model_name_or_path: model, gradient_accumulation_steps: 2 });
    const error = await failure(config);
    expect(error.message).toMatch(
      /^Expected a finite loss and gradient but the loss was NaN and the gradient norm NaN at step 1 \(records \d, \d, \d, \d\); the first value that was not finite is the output of llm\.model\.layers\.1 in micro-batch 0\.$/,
    );
    expect(error.details().cure).toContain('nonfinite/step-1');
    const run = config.output.output_dir;
    expect(eventsOf(run, 'stop')).toMatchObject([{ reason: 'nonfinite', step: 1 }]);
    expect(eventsOf(run, 'run_end')).toMatchObject([{ status: 'failed', step: 0 }]);

    const folder = join(run, 'nonfinite', 'step-1');
    const report = readJson<{ first: NonfiniteOrigin; micro_batches: { index: number; record: number }[][] }>(
      folder,
      'report.json',
    );
    expect(report.first).toEqual({ what: 'output', module: 'llm.model.layers.1', microBatch: 0, parameters: [] });
    expect(report.micro_batches.map((records) => records.length)).toEqual([2, 2]);
    const records = readJson<{ id: string }[]>(folder, 'records.json');
    expect(records.map(({ id }) => Number(id))).toEqual(report.micro_batches.flat().map(({ index }) => index));
    const batch = new SafetensorsFile(join(folder, 'batch-1.safetensors'));
    expect(batch.infos.get('labels')!.shape).toEqual(batch.infos.get('input_ids')!.shape);
    expect([...batch.infos.keys()].filter((name) => name.startsWith('pictures.')).length).toBeGreaterThan(0);

    const words = ['--recipe', join(folder, 'run.json'), '--model_name_or_path', join(folder, 'model')];
    const data = ['--data_path', join(folder, 'records.json'), '--output_dir', join(place.folder, 'replay')];
    const replayed = await failure(resolveTrainConfig([...words, ...data]).config);
    expect(replayed.message).toContain('the output of llm.model.layers.1 in micro-batch 0');
  });

  it('names parameters that were not finite before', async () => {
    const model = poisoned('infinite', 'vpm.encoder.layers.0.mlp.fc1.bias', Number.POSITIVE_INFINITY);
    const error = await failure(configOf(place, 'parameters', { model_name_or_path: model }));
    expect(error.message).toContain(
      'the output of vpm.encoder.layers.0 in micro-batch 0, where vpm.encoder.layers.0.mlp.fc1.bias is not finite, too.',
    );
  });

  it('is skipped and counted with --on_nonfinite skip; the first such step is kept', async () => {
    const model = poisoned('skipped', DOWN(0), 1e38);
    const config = configOf(place, 'skip', { model_name_or_path: model, on_nonfinite: 'skip', max_steps: 3 });
    const result = await train(config);
    expect(result).toMatchObject({ stopped: null, steps: 3, trainLoss: null });
    const run = config.output.output_dir;
    expect(eventsOf(run, 'step').map(({ loss, skipped_steps }) => [loss, skipped_steps])).toEqual([
      [null, 1],
      [null, 2],
      [null, 3],
    ]);
    const warnings = eventsOf(run, 'warning');
    expect(warnings.map(({ kind }) => kind)).toEqual(['nonfinite', 'nonfinite', 'nonfinite']);
    expect(warnings[2]!.message).toContain('the output of llm.model.layers.0');
    expect(readdirSync(join(run, 'nonfinite'))).toEqual(['step-1']);
    expect(existsSync(join(run, 'nonfinite', 'step-1', 'model'))).toBe(false);
    const [before, after] = [model, run].map((folder) => new SafetensorsFile(join(folder, 'model.safetensors')));
    const name = 'llm.model.layers.1.mlp.up_proj.weight';
    expect(scope(() => ops.equal(before!.tensor(name), after!.tensor(name)))).toBe(true);
  });
});

describe('a gradient that is not finite', () => {
  it('is traced to the first module whose gradient it is', async () => {
    const flags = { dtype: 'float16', fp16_loss_scale: 2 ** 30, gradient_checkpointing: true };
    const error = await failure(configOf(place, 'gradient', flags));
    expect(error.message).toMatch(
      /the loss was \d\.\d+ and the gradient norm (NaN|Infinity) .* the first value that was not finite is a gradient of lm_head in micro-batch 0, where llm\.lm_head\.weight has it\.$/,
    );
  });
});
