/** A run that is stopped after every step and resumed, against one that was never stopped: the same bytes. */
import {
  appendFileSync,
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import type { RunConfig } from '@minicpm-finetune/run';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { LONG } from '../../../torch/test/support/long.js';
import { sealFolder } from '../../src/checkpoint/durable.js';
import { train } from '../../src/train/train.js';
import { weightsHash } from '../support/cli-run.js';
import { configOf, eventsOf, makePlace, type Place, readJson } from '../support/run-place.js';

let place: Place;
let evaluation: string;
beforeAll(() => {
  place = makePlace(7);
  evaluation = join(place.folder, 'evaluation.json');
  cpSync(place.data, evaluation);
});
afterAll(() => rmSync(place.folder, { recursive: true }));

type Flags = Readonly<Record<string, unknown>>;

/** 7 records in steps of 4: two steps an epoch, the second one smaller; 4 steps are two epochs. */
const BASE: Flags = {
  max_steps: 4,
  gradient_accumulation_steps: 2,
  lr_scheduler_type: 'cosine',
  warmup_steps: 2,
  weight_decay: 0.1,
};
const LORA: Flags = { ...BASE, use_lora: true, lora_r: 4, lora_dropout: 0.3 };

/** Stops after every step and resumes from the newest checkpoint, until the run is finished; returns the number of starts. */
async function inPieces(name: string, flags: Flags): Promise<number> {
  const folder = join(place.folder, name);
  mkdirSync(folder);
  for (let starts = 1; ; starts++) {
    writeFileSync(join(folder, 'STOP'), '');
    const resume = starts === 1 ? {} : { resume_from_checkpoint: 'latest' };
    const { stopped } = await train(configOf(place, name, { ...flags, ...resume }));
    if (stopped === null) return starts;
    expect(stopped).toBe('stop_file');
  }
}

const CASES: readonly (readonly [name: string, flags: Flags])[] = [
  ['all weights', BASE],
  ['records of similar length together, from a thread', { ...BASE, group_by_length: true, dataloader_num_workers: 1 }],
  ['packed records', { ...BASE, packing: true, model_max_length: 128 }],
  ['adapters with dropout', LORA],
  ['DoRA with dropout and recomputation', { ...LORA, use_dora: true, gradient_checkpointing: true }],
  ['bfloat16 with float32 masters', { ...BASE, bf16: true }],
  ['bfloat16 adapters with float32 masters', { ...LORA, bf16: true }],
  ['pure bfloat16', { ...BASE, bf16: true, bf16_master_weights: false }],
  ['float16 with a scale that falls and rises', { ...BASE, fp16: true, fp16_loss_scale_window: 2, fp16_hysteresis: 1 }],
  ['float16 adapters', { ...LORA, fp16: true, fp16_initial_scale_power: 8 }],
  ['noise on the embeddings, every second step logged', { ...BASE, neftune_noise_alpha: 5, logging_steps: 2 }],
  ['evaluation in between', () => ({ ...LORA, eval_data_path: evaluation, eval_strategy: 'steps', eval_steps: 2 })],
].map(([name, flags]) => [name as string, flags as Flags] as const);

/** Those of which another case has every part. */
const COMBINED = ['adapters with dropout', 'bfloat16 adapters with float32 masters', 'float16 adapters'];

describe('a run in pieces equals a run in one piece', () => {
  it.each(CASES.filter(([name]) => LONG || !COMBINED.includes(name)))('%s', async (name, given) => {
    const flags = typeof given === 'function' ? (given as () => Flags)() : given;
    const whole = join(place.folder, `${name} whole`);
    await train(configOf(place, `${name} whole`, flags));
    expect(await inPieces(`${name} pieces`, flags)).toBe(4);
    const pieces = join(place.folder, `${name} pieces`);
    expect(weightsHash(pieces)).toBe(weightsHash(whole));
    const losses = (folder: string) =>
      eventsOf(folder, 'step').map(({ step, loss, grad_norm, learning_rate }) => [
        step,
        loss,
        grad_norm,
        learning_rate,
      ]);
    expect(losses(pieces)).toEqual(losses(whole));
    const scales = (folder: string) => eventsOf(folder, 'step').map((event) => event.loss_scale);
    expect(scales(pieces)).toEqual(scales(whole));
    const trainLoss = (folder: string) => eventsOf(folder, 'run_end').at(-1)!.train_loss;
    expect(trainLoss(pieces)).toBe(trainLoss(whole));
  });
});

describe('what is beside the weights', () => {
  it('log_history goes on, and the result has the files of the base, not of the checkpoint', async () => {
    const folder = join(place.folder, 'all weights pieces');
    const state = readJson<{ log_history: { step: number }[]; global_step: number }>(folder, 'trainer_state.json');
    expect(state.global_step).toBe(4);
    expect(state.log_history.map(({ step }) => step)).toEqual([1, 2, 3, 4]);
    expect(readdirSync(folder)).not.toContain('manifest.json');
    expect(readJson<{ save: object }>(folder, 'run.json').save).toMatchObject({ resume_from_checkpoint: 'latest' });
  });

  it('a finished run that is resumed writes its result again', async () => {
    const name = 'finished';
    const flags = { ...BASE, save_strategy: 'steps', save_steps: 4 };
    await train(configOf(place, name, flags));
    const before = weightsHash(join(place.folder, name));
    rmSync(join(place.folder, name, 'trainer_state.json'));
    const { steps } = await train(configOf(place, name, { ...flags, resume_from_checkpoint: 'latest' }));
    expect(steps).toBe(4);
    expect(weightsHash(join(place.folder, name))).toBe(before);
    expect(readJson<{ global_step: number }>(place.folder, name, 'trainer_state.json').global_step).toBe(4);
  });

  it('the checkpoint a run resumes from may be removed while it runs', async () => {
    const flags = { ...BASE, save_strategy: 'steps', save_steps: 1, save_total_limit: 1 };
    mkdirSync(join(place.folder, 'limit'));
    writeFileSync(join(place.folder, 'limit', 'STOP'), '');
    await train(configOf(place, 'limit', flags));
    await train(configOf(place, 'limit', { ...flags, resume_from_checkpoint: 'latest' }));
    expect(weightsHash(join(place.folder, 'limit'))).toBe(weightsHash(join(place.folder, 'all weights whole')));
    const checkpoints = readdirSync(join(place.folder, 'limit')).filter((entry) => entry.startsWith('checkpoint'));
    expect(checkpoints).toEqual(['checkpoint-4']);
    expect(eventsOf(join(place.folder, 'limit'), 'warning')).toEqual([]);
  });
});

describe('what is refused', () => {
  const resume = (flags: Flags = {}) =>
    train(configOf(place, 'stopped', { ...LORA, resume_from_checkpoint: 'latest', ...flags }));
  const refused = (flags: Flags = {}) => expect(resume(flags)).rejects;
  const checkpoint = () => join(place.folder, 'stopped', 'checkpoint-1');

  beforeAll(async () => {
    mkdirSync(join(place.folder, 'stopped'));
    writeFileSync(join(place.folder, 'stopped', 'STOP'), '');
    await train(configOf(place, 'stopped', LORA));
  });

  /** Changes a file of the checkpoint for the time of a test. */
  async function changed(file: string, change: (path: string) => void, test: () => Promise<void>): Promise<void> {
    const path = join(checkpoint(), file);
    const before = readFileSync(path);
    change(path);
    try {
      await test();
    } finally {
      writeFileSync(path, before);
    }
  }

  it('another configuration, naming what differs', async () => {
    await refused({ learning_rate: 0.5, lora_r: 8 }).toThrow(
      /lora_r was 4 and is 8; learning_rate was 0.001 and is 0.5/,
    );
  });

  it('a flag that is younger than the checkpoint only with another value than its default', async () => {
    const older = join(place.folder, 'older', 'checkpoint-1');
    cpSync(checkpoint(), older, { recursive: true });
    const { engine, ...config } = readJson<RunConfig>(older, 'run.json');
    const { tf32: _, ...others } = engine;
    writeFileSync(join(older, 'run.json'), JSON.stringify({ ...config, engine: others }));
    rmSync(join(older, 'manifest.json'));
    sealFolder(older, 1);
    const from = { resume_from_checkpoint: older, output_dir: join(place.folder, 'another') };
    await refused({ ...from, learning_rate: 0.5 }).toThrow(/other values: learning_rate was 0.001 and is 0.5\.$/);
    await refused({ ...from, tf32: true }).toThrow(/other values: tf32 was false and is true\.$/);
  });

  it('other data', async () => {
    const other = join(place.folder, 'other.json');
    writeFileSync(other, readFileSync(place.data, 'utf8').replace('red', 'rot'));
    await refused({ data_path: other }).toThrow(/records the checkpoint was trained on for --data_path/);
  });

  it('the other kind of training', async () => {
    await refused({ use_lora: false }).toThrow(/a full checkpoint .* but received the other kind/);
  });

  it('a folder without a checkpoint, and one that is not there', async () => {
    await expect(train(configOf(place, 'new', { resume_from_checkpoint: 'latest' }))).rejects.toThrow(/has none/);
    const output_dir = join(place.folder, 'another');
    await refused({ output_dir, resume_from_checkpoint: join(place.folder, 'nowhere') }).toThrow(/is not there/);
    await refused({ output_dir, resume_from_checkpoint: place.model }).toThrow(/without manifest.json/);
    expect(existsSync(output_dir)).toBe(false);
  });

  it.each([
    'optimizer.safetensors',
    'rng_state.safetensors',
    'trainer_state.json',
    'run.json',
    'adapter_model.safetensors',
  ])('a damaged %s, by name', async (file) => {
    const flip = (path: string) => {
      const bytes = readFileSync(path);
      bytes[bytes.length >> 1]! ^= 1;
      writeFileSync(path, bytes);
    };
    await changed(file, flip, async () => await refused().toMatchObject({ file: join(checkpoint(), file) }));
    await changed(
      file,
      (path) => appendFileSync(path, ' '),
      () => refused().toThrow(/bytes with the manifest's checksum/),
    );
    await changed(
      file,
      (path) => rmSync(path),
      () => refused().toThrow(/no bytes/),
    );
  });

  it.each(['', '{', '{"step":1,"files":{}}', '{"step":1,"files":[]}'])('a damaged manifest: %s', async (text) => {
    const damage = (path: string) => writeFileSync(path, text);
    await changed('manifest.json', damage, async () => {
      await refused().toMatchObject({ name: 'UserError', file: join(checkpoint(), 'manifest.json') });
    });
  });

  it('nothing half-written: folders of a killed process are removed and never loaded', async () => {
    const folder = join(place.folder, 'stopped');
    cpSync(checkpoint(), join(folder, '.checkpoint-5.unfinished'), { recursive: true });
    cpSync(checkpoint(), join(folder, '.checkpoint-4.removed'), { recursive: true });
    mkdirSync(join(folder, 'checkpoint-9'));
    writeFileSync(join(folder, 'STOP'), '');
    expect((await resume()).steps).toBe(2);
    expect(readdirSync(folder).filter((entry) => entry.startsWith('.'))).toEqual([]);
    expect(eventsOf(folder, 'run_start').at(-1)).toMatchObject({ resumed_at_step: 1 });
  });

  it('unless --resume_anyway says so; data in another place are the same data', async () => {
    const moved = join(place.folder, 'moved.json');
    cpSync(place.data, moved);
    writeFileSync(join(place.folder, 'stopped', 'STOP'), '');
    expect((await resume({ data_path: moved })).steps).toBe(3);
    writeFileSync(join(place.folder, 'stopped', 'STOP'), '');
    expect((await resume({ data_path: place.text, learning_rate: 1e-4, resume_anyway: true })).steps).toBe(4);
  });

  it('an output folder with a run, or with a model in it', async () => {
    await expect(train(configOf(place, 'stopped', LORA))).rejects.toThrow(/holds an earlier run/);
    await expect(train(configOf(place, 'model', LORA))).rejects.toThrow(/which is that of --model_name_or_path/);
    const model_name_or_path = join(place.folder, 'base');
    cpSync(place.model, model_name_or_path, { recursive: true });
    await expect(train(configOf(place, 'model', { ...LORA, model_name_or_path }))).rejects.toThrow(
      /holds model.safetensors/,
    );
  });
});
