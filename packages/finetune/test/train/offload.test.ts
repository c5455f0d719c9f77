/** Whole runs whose states are in files: the same bytes, and nothing left in the folder. */
import { spawnSync } from 'node:child_process';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmdirSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { contentOfFile } from '@minicpm-finetune/run';
import { blockBytes, liveTensors } from '@minicpm-finetune/torch';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { LONG } from '../../../torch/test/support/long.js';
import { FilePlace } from '../../src/parallel/offload.js';
import { type TrainOptions, type TrainResult, train } from '../../src/train/train.js';
import { startRanks } from '../support/rank-processes.js';
import { configOf, eventsOf, makePlace, type Place } from '../support/run-place.js';

type Flags = Readonly<Record<string, unknown>>;

let place: Place;
beforeAll(() => {
  place = makePlace(8, { hidden_size: 256, intermediate_size: 1024 }); // layers of more than 1 MiB: smaller units never go
});
afterAll(() => rmSync(place.folder, { recursive: true }));

const folderOf = (name: string): string => join(place.folder, name);
const states = (): string => folderOf('states');

/** All files of tensors that a run left, by their names, as hashes; but for what it knew of its records, which has to do with the age of their pictures. */
function hashesOf(name: string): Record<string, string> {
  const folder = folderOf(name);
  const files = readdirSync(folder, { recursive: true, encoding: 'utf8' }).filter(
    (file) => /safetensors$/.test(file) && !file.endsWith('records.safetensors'),
  );
  const hash = (file: string): string => contentOfFile(join(folder, file)).sha256;
  return Object.fromEntries(files.sort().map((file) => [file, hash(file)]));
}

const run = (name: string, flags: Flags, options: TrainOptions = {}): Promise<TrainResult> =>
  train(configOf(place, name, { max_steps: 3, save_strategy: 'steps', save_steps: 2, ...flags }), options);

const offloaded = (): Flags => ({ offload_optimizer: states(), offload_params: states() });

describe('files, results and losses are those of a run without offload', () => {
  it.each<[string, Flags]>([
    ['full', { tune_vision: true }],
    ...(LONG ? [['full in bfloat16', { dtype: 'bfloat16' }] as [string, Flags]] : []),
    ['pure bfloat16', { dtype: 'bfloat16', bf16_master_weights: false }],
    ['adapters', { use_lora: true, lora_r: 4, lora_dropout: 0.2 }],
    ['updates in the backward pass', { fused_backward: true, dtype: 'bfloat16' }],
    ['with evaluation and answers', { eval_data_path: place?.data, eval_strategy: 'steps', eval_steps: 2 }],
  ])('%s', async (name, flags) => {
    const evaluated = 'eval_strategy' in flags ? { ...flags, eval_data_path: place.data, eval_generate: 2 } : flags;
    await run(`${name}-plain`, evaluated);
    await run(`${name}-aside`, { ...evaluated, ...offloaded() });
    expect(hashesOf(`${name}-aside`)).toEqual(hashesOf(`${name}-plain`));
    const steps = (of: string) => eventsOf(folderOf(of), 'step').map(({ loss, grad_norm }) => [loss, grad_norm]);
    expect(steps(`${name}-aside`)).toEqual(steps(`${name}-plain`));
    const losses = (of: string) => eventsOf(folderOf(of), 'eval').map(({ loss, metrics }) => [loss, metrics]);
    expect(losses(`${name}-aside`)).toEqual(losses(`${name}-plain`));
    expect(existsSync(states())).toBe(false);
  });

  it('also when a run is resumed with it, or without it', async () => {
    const flags = { dtype: 'bfloat16', max_steps: 4 };
    await run('whole', flags);
    for (const [name, first, then] of [
      ['into', {}, offloaded()],
      ['out of', offloaded(), {}],
    ].slice(LONG ? 0 : 1) as [string, Flags, Flags][]) {
      const stop = new AbortController();
      const onEvent: TrainOptions['onEvent'] = (event) =>
        event.event === 'checkpoint' ? stop.abort('sigterm') : undefined;
      await run(name, { ...flags, ...first }, { signal: stop.signal, onEvent });
      await run(name, { ...flags, ...then, resume_from_checkpoint: 'latest' });
      const last = (of: string) => hashesOf(of)[join('checkpoint-4', 'optimizer.safetensors')];
      expect(last(name)).toBeDefined();
      expect([last(name), hashesOf(name)['model.safetensors']]).toEqual([
        last('whole'),
        hashesOf('whole')['model.safetensors'],
      ]);
    }
  });
});

it.each([
  ['plain', () => ({})],
  ['offloaded', offloaded],
  ['offloaded, updated in the backward pass', () => ({ ...offloaded(), fused_backward: true })],
])('live tensors and bytes are flat: %s', async (name, flags) => {
  const live: number[] = [];
  const onEvent: TrainOptions['onEvent'] = ({ event }) => {
    if (event === 'step') live.push(liveTensors().tensors);
  };
  const before = blockBytes().inUse;
  await run(`flat ${name}`, { ...flags(), max_steps: 6, save_strategy: 'no' }, { onEvent });
  expect(live).toHaveLength(6);
  expect(new Set(live.slice(2))).toEqual(new Set([live.at(-1)])); // rows of the token table get moments in the first steps
  expect(blockBytes().inUse).toBe(before);
});

describe('the folder', () => {
  it('keeps what was in it, and is removed only if the run made it', async () => {
    const folder = folderOf('mine');
    mkdirSync(folder);
    writeFileSync(join(folder, 'notes.txt'), 'mine');
    await run('kept', { offload_optimizer: folder, offload_params: folder });
    expect(readdirSync(folder)).toEqual(['notes.txt']);
    expect(readFileSync(join(folder, 'notes.txt'), 'utf8')).toBe('mine');
    rmSync(folder, { recursive: true });
    mkdirSync(folder);
    await run('empty', { offload_optimizer: folder });
    expect(readdirSync(folder)).toEqual([]);
  });

  it('cannot be a file', async () => {
    const file = folderOf('file');
    writeFileSync(file, 'mine');
    await expect(run('in a file', { offload_optimizer: file })).rejects.toMatchObject({
      message: expect.stringContaining('Expected a folder for --offload_optimizer'),
      flag: '--offload_optimizer',
    });
    expect(readFileSync(file, 'utf8')).toBe('mine');
  });

  const small = mkdtempSync(join(tmpdir(), 'offload-disk-'));
  const mounted = spawnSync('mount', ['-t', 'tmpfs', '-o', 'size=1m', 'tmpfs', small]).status === 0;
  afterAll(() => {
    if (mounted) spawnSync('umount', [small]);
    rmdirSync(small);
  });

  it.skipIf(!mounted)('on a disk that is too small is refused before the first step', async () => {
    const refused = run('too small', { offload_optimizer: small });
    const message = expect.stringMatching(
      /^Expected \S+ MB free for offloaded states in .* but received 1\.0\d* MB\.$/,
    );
    await expect(refused).rejects.toMatchObject({ message, file: small });
    expect(readdirSync(small)).toEqual([]);
    expect(existsSync(folderOf('too small'))).toBe(false);
  });

  it.skipIf(!mounted)('on a disk that others fill meanwhile is an error that says so', () => {
    const place = new FilePlace(small, '--offload_optimizer');
    const first = place.zeros([200_000], 'float32');
    expect(() => place.zeros([100_000], 'float32')).toThrow(/Expected 400 kB free .* but received \d+ kB\./);
    first.dispose();
    place.zeros([100_000], 'float32').dispose();
  });

  it.each(LONG ? (['SIGTERM', 'SIGKILL'] as const) : (['SIGKILL'] as const))(
    'is empty after %s, on two ranks',
    async (signal) => {
      const folder = folderOf(`states ${signal}`);
      const flags = {
        ...{ model_name_or_path: place.model, data_path: [place.data], output_dir: folderOf(signal) },
        ...{ model_max_length: 256, per_device_train_batch_size: 1, max_steps: 400, logging_steps: 1, threads: 1 },
        ...{ dataloader_num_workers: 0, cache_vision: 'off', save_strategy: 'no', lr_scheduler_type: 'constant' },
        ...{ offload_optimizer: folder, offload_params: folder },
      };
      const ranks = await startRanks(2, 'train-rank.mjs', () => [JSON.stringify(flags)]);
      await Promise.all(ranks.map(({ printed }) => printed('"event":"step","step":2,')));
      expect(readdirSync(folder)).toEqual([]);
      for (const { child } of signal === 'SIGTERM' ? ranks.slice(0, 1) : ranks) child.kill(signal);
      const ends = await Promise.all(ranks.map(({ ended }) => ended));
      expect(ends.map((end) => (signal === 'SIGTERM' ? end.code : end.signal))).toEqual(
        signal === 'SIGTERM' ? [0, 0] : [signal, signal],
      );
      expect(existsSync(folder) ? readdirSync(folder) : []).toEqual([]);
    },
    120_000,
  );
});

describe('what is said', () => {
  const noticesOf = async (name: string, flags: Flags): Promise<string[]> => {
    const notices: string[] = [];
    const task = () => ({ update() {}, finish() {}, stop() {} });
    await run(name, flags, { reporter: { notice: (text) => void notices.push(text), task } });
    return notices.filter((text) => text.startsWith('offload'));
  };

  it('where the states are, and how large', async () => {
    const [optimizer, params, ...rest] = await noticesOf('said', offloaded());
    expect(optimizer).toMatch(
      /^offload_optimizer: the optimizer's states, .*, are in .*states; the update runs on the CPU\.$/,
    );
    expect(params).toMatch(
      /^offload_params: weights, .*, are in .*states; a block's are on the device while it runs\.$/,
    );
    expect(rest).toEqual([]);
  });

  it('that host memory is what the CPU has already', async () => {
    expect(await noticesOf('nothing', { offload_optimizer: 'cpu', offload_params: 'cpu' })).toEqual([
      "offload_optimizer cpu has no effect: the training runs on the CPU, whose memory is the host's.",
      "offload_params cpu has no effect: the training runs on the CPU, whose memory is the host's.",
    ]);
  });
});
