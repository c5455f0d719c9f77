/** Whole runs of several ranks, in processes of their own. */
import { existsSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { contentOfFile, type RunEvent } from '@minicpm-finetune/run';
import sharp from 'sharp';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { LONG } from '../../../torch/test/support/long.js';
import { readRecords } from '../../src/checkpoint/records.js';
import { Sampler } from '../../src/data/sampler.js';
import type { TraceEvent } from '../../src/engine/profiler.js';
import { train } from '../../src/train/train.js';
import { weightsHash } from '../support/cli-run.js';
import { picture } from '../support/made-data.js';
import { type RankEnd, type RankProcess, runRanks, startRanks } from '../support/rank-processes.js';
import { configOf, eventsOf, makePlace, type Place, readJson } from '../support/run-place.js';

type Flags = Readonly<Record<string, unknown>>;

let place: Place;
beforeAll(() => {
  place = makePlace(11);
});
afterAll(() => rmSync(place.folder, { recursive: true }));

const folderOf = (name: string): string => join(place.folder, name);

/** Flags as `configOf` has them, one record in a micro-batch. */
const flagsOf = (name: string, flags: Flags): Flags => ({
  model_name_or_path: place.model,
  data_path: [place.data],
  output_dir: folderOf(name),
  model_max_length: 256,
  per_device_train_batch_size: 1,
  max_steps: 2,
  learning_rate: 1e-4,
  lr_scheduler_type: 'constant',
  logging_steps: 1,
  save_strategy: 'no',
  dataloader_num_workers: 0,
  threads: 1,
  cache_vision: 'off',
  ...flags,
});

const program = (name: string, flags: (rank: number) => Flags) => (rank: number) => [
  JSON.stringify(flagsOf(name, flags(rank))),
];

const run = (size: number, name: string, flags: Flags = {}): Promise<RankEnd[]> =>
  runRanks(
    size,
    'train-rank.mjs',
    program(name, () => flags),
  );

/** Runs that have taken their third step. */
async function underWay(size: number, name: string, flags: Flags = {}): Promise<RankProcess[]> {
  const ranks = await startRanks(
    size,
    'train-rank.mjs',
    program(name, () => ({ max_steps: 400, ...flags })),
  );
  await Promise.all(ranks.map(({ printed }) => printed('"event":"step","step":3,')));
  return ranks;
}

const ended = async (ranks: readonly RankProcess[]): Promise<RankEnd[]> => {
  const all = await Promise.all(ranks.map((rank) => rank.ended));
  for (const { code, stderr, lines } of all) expect(code, `${stderr}${JSON.stringify(lines.at(-1))}`).toBe(0);
  return all;
};

/** What a rank printed of one kind. */
const said = (end: RankEnd | undefined, kind: RunEvent['event']): RunEvent[] =>
  (end!.lines as RunEvent[]).filter(({ event }) => event === kind);

const answersOf = (name: string): string =>
  readFileSync(join(folderOf(name), 'eval', 'step-0', 'answers.jsonl'), 'utf8');

describe('evaluation and answers', () => {
  it('are those of one rank, in every bit, and one rank writes', async () => {
    const flags = {
      ...{ eval_data_path: [place.data], eval_on_start: true, eval_generate: 5, per_device_eval_batch_size: 2 },
      ...{ gradient_accumulation_steps: 6, max_steps: 1 },
    };
    await train(configOf(place, 'eval-1', { ...flags, per_device_train_batch_size: 1 }));
    const [alone] = eventsOf(folderOf('eval-1'), 'eval');
    for (const size of LONG ? [2, 3] : [3]) {
      const name = `eval-${size}`;
      const ends = await run(size, name, { ...flags, gradient_accumulation_steps: 6 / size });
      for (const { code, stderr, lines } of ends) expect(code, `${stderr}${JSON.stringify(lines.at(-1))}`).toBe(0);
      const [start, end] = eventsOf(folderOf(name), 'eval');
      expect(end).toBeUndefined();
      expect([start!.loss, start!.samples, start!.metrics]).toEqual([alone!.loss, 11, alone!.metrics]);
      expect(answersOf(name)).toBe(answersOf('eval-1'));
      expect(eventsOf(folderOf(name), 'run_start')).toMatchObject([{ world_size: size }]);
      const [step] = eventsOf(folderOf(name), 'step');
      expect(step).toMatchObject({ world_size: size, step: 1 });
      const [whole] = eventsOf(folderOf('eval-1'), 'step');
      expect(step!.tokens_per_s * step!.step_seconds).toBeCloseTo(whole!.tokens_per_s * whole!.step_seconds, 6);
      const files = readdirSync(folderOf(name), { recursive: true, encoding: 'utf8' }).sort();
      expect(files).toEqual(readdirSync(folderOf('eval-1'), { recursive: true, encoding: 'utf8' }).sort());
      expect(ends.slice(1).flatMap(({ lines }) => lines.filter((line) => 'notice' in (line as object)))).toEqual([]);
    }
  }, 120_000);
});

describe('a whole run', () => {
  const kinds: readonly (readonly [string, readonly number[], Flags])[] = [
    ['full', LONG ? [2, 3] : [2], {}],
    ['adapters', LONG ? [2, 3] : [3], { use_lora: true, lora_r: 4, lora_dropout: 0.2 }],
  ];

  it.each(kinds)(
    'has the losses, answers and files of one rank: %s',
    async (kind, sizes, more) => {
      const evaluated = { eval_data_path: [place.data], eval_strategy: 'steps', eval_steps: 2, eval_generate: 3 };
      const flags = { ...evaluated, max_steps: 3, learning_rate: 1e-3, save_strategy: 'steps', save_steps: 2, ...more };
      const outcome = async (size: number): Promise<unknown> => {
        const name = `${kind}-${size}`;
        const ends = await run(size, name, { ...flags, gradient_accumulation_steps: 6 / size });
        for (const { code, stderr, lines } of ends) expect(code, `${stderr}${JSON.stringify(lines.at(-1))}`).toBe(0);
        const folder = folderOf(name);
        const files = readdirSync(folder, { recursive: true, encoding: 'utf8' }).sort();
        const hash = (file: string): string => contentOfFile(join(folder, file)).sha256;
        return {
          files,
          hashes: files.filter((file) => /(safetensors|answers\.jsonl)$/.test(file)).map((file) => [file, hash(file)]),
          steps: eventsOf(folder, 'step').map(({ loss, grad_norm }) => [loss, grad_norm]),
          evaluations: eventsOf(folder, 'eval').map(({ loss, metrics }) => [loss, metrics]),
        };
      };
      const alone = await outcome(1);
      for (const size of sizes) expect(await outcome(size), `${size} ranks`).toEqual(alone);
    },
    300_000,
  );
});

describe('--profile', () => {
  it('shows what rank 0 waits for, inside of its steps', async () => {
    const ends = await run(2, 'profiled', { profile: 2, max_steps: 3 });
    for (const { code, stderr } of ends) expect(code, stderr).toBe(0);
    const { traceEvents: events } = readJson<{ traceEvents: TraceEvent[] }>(folderOf('profiled'), 'profile.json');
    const waits = events.filter(({ cat }) => cat === 'collective');
    const names = new Set(waits.map(({ name }) => name));
    expect([...names]).toEqual(expect.arrayContaining(['supervised tokens', 'loss and norm']));
    expect([...names].filter((name) => name.startsWith('scatterAdd gradients of llm.model.layers.'))).not.toEqual([]);
    const steps = events.filter(({ cat }) => cat === 'step');
    expect(steps).toHaveLength(2);
    for (const wait of waits)
      expect(steps.some(({ ts, dur }) => wait.ts >= ts && wait.ts + wait.dur! <= ts + dur! + 2)).toBe(true);
  }, 120_000);
});

describe('a request to one rank', () => {
  const requests: readonly (readonly [string, (ranks: readonly RankProcess[], folder: string) => void])[] = [
    ['sigterm', (ranks) => ranks[2]!.child.kill('SIGTERM')],
    ['stop_file', (_, folder) => writeFileSync(join(folder, 'STOP'), '')],
  ];

  it.each(LONG ? requests : requests.slice(0, 1))(
    '%s stops all at one step, saved',
    async (reason, ask) => {
      const folder = folderOf(reason);
      const ranks = await underWay(3, reason);
      ask(ranks, folder);
      const ends = await ended(ranks);
      const { step } = eventsOf(folder, 'stop')[0]!;
      for (const end of ends) expect(said(end, 'stop')).toMatchObject([{ reason, step }]);
      expect(eventsOf(folder, 'checkpoint')).toMatchObject([
        { step, reason: reason === 'sigterm' ? 'signal' : 'stop' },
      ]);
      expect(eventsOf(folder, 'run_end')).toMatchObject([{ status: 'stopped', step }]);
      expect(readdirSync(folder).filter((name) => name.startsWith('checkpoint') || name.startsWith('.'))).toEqual([
        `checkpoint-${step}`,
      ]);
      expect(existsSync(join(folder, 'run.lock'))).toBe(false);
      const { used } = readRecords(join(folder, `checkpoint-${step}`))!;
      const seen = used.reduce((count, content) => count + (content === 0n ? 0 : 1), 0);
      expect(seen).toBe(step >= 4 ? 11 : 3 * step); // of all ranks
    },
    60_000,
  );

  it('SIGUSR1 saves on all, and the run goes on', async () => {
    const folder = folderOf('usr1');
    const ranks = await underWay(2, 'usr1', { max_steps: 30 });
    ranks[1]!.child.kill('SIGUSR1');
    const ends = await ended(ranks);
    expect(eventsOf(folder, 'checkpoint')).toMatchObject([{ reason: 'signal' }]);
    for (const end of ends) expect(said(end, 'run_end')).toMatchObject([{ status: 'finished', step: 30 }]);
  }, 120_000);
});

describe('an error on one rank', () => {
  const last = ({ lines }: RankEnd): Record<string, unknown> => lines.at(-1) as Record<string, unknown>;
  const from = (rank: number): string => `Rank ${rank} on ${hostname()}: `;

  it('before the first step ends all with it, and leaves nothing', async () => {
    const missing = join(place.folder, 'missing.json');
    const ends = await runRanks(
      2,
      'train-rank.mjs',
      program('no-data', (rank) => (rank === 1 ? { data_path: [missing] } : {})),
    );
    const own = last(ends[1]!);
    expect(own).toMatchObject({ user: true, file: missing });
    expect(last(ends[0]!)).toEqual({ ...own, message: from(1) + String(own.message) });
    expect(ends.map(({ code }) => code)).toEqual([1, 1]);
    expect(existsSync(folderOf('no-data'))).toBe(false);
  }, 120_000);

  it('of the rank that owns the folder, too', async () => {
    writeFileSync(folderOf('file'), 'mine');
    const ends = await run(2, 'file');
    expect(last(ends[0]!).message).toMatch(/^Expected a folder for --output_dir/);
    expect(last(ends[1]!).message).toBe(from(0) + String(last(ends[0]!).message));
  }, 120_000);

  /**
   * Data of 300 records, one of which cannot be used, and the step in which rank 1 of 2 meets it. The preflight decodes the first 256 alone,
   * and nothing is decoded beside the training without data threads.
   */
  async function badData(name: string): Promise<{ file: string; index: number; step: number }> {
    const { data_seed: seed } = configOf(place, name).seeds;
    const sampler = new Sampler({ sizes: [300], seed, shuffle: true, batchSize: 1, accumulation: 2 });
    let step = 2;
    while (sampler.plan(step).batches[1]![0]! < 256) step++;
    const index = sampler.plan(step).batches[1]![0]!;
    const broken = await sharp(await picture(90, 60, 1))
      .png()
      .toBuffer();
    broken.fill(0, broken.length / 2, broken.length - 100); // it begins and ends as a whole one
    writeFileSync(join(place.folder, `${name}.png`), broken);
    const records = readJson<object[]>(place.data);
    const all = Array.from({ length: 300 }, (_, i) => ({
      ...records[i % records.length],
      ...(i === index ? { image: `${name}.png` } : {}),
    }));
    const file = join(place.folder, `${name}.json`);
    writeFileSync(file, JSON.stringify(all));
    return { file, index, step };
  }

  it('a bad record is left out, and known to all', async () => {
    const { file, index, step } = await badData('skipped');
    const flags = { data_path: [file], max_steps: step + 1, on_bad_record: 'skip', max_bad_fraction: 0.5 };
    const ends = await run(2, 'skipped', flags);
    for (const { code, stderr, lines } of ends) expect(code, `${stderr}${JSON.stringify(lines.at(-1))}`).toBe(0);
    expect(readJson<{ bad_records: number[] }>(folderOf('skipped'), 'trainer_state.json').bad_records).toEqual([index]);
    const report = readFileSync(join(folderOf('skipped'), 'bad_records.jsonl'), 'utf8')
      .trim()
      .split('\n');
    expect(report.map((line) => (JSON.parse(line) as { index: number }).index)).toEqual([index]);
    expect(eventsOf(folderOf('skipped'), 'step')).toHaveLength(step + 1);
    await train(
      configOf(place, 'skipped-1', { ...flagsOf('skipped-1', flags), data_path: file, gradient_accumulation_steps: 2 }),
    );
    expect(weightsHash(folderOf('skipped'))).toBe(weightsHash(folderOf('skipped-1')));
  }, 120_000);

  it('too many bad records end all, the steps before them saved', async () => {
    const { file, index, step } = await badData('too-many');
    const ends = await run(2, 'too-many', {
      data_path: [file],
      max_steps: 40,
      on_bad_record: 'skip',
      max_bad_fraction: 0,
    });
    for (const end of ends) {
      expect(end.code).toBe(1);
      expect(last(end)).toMatchObject({ user: true, record: index, flag: '--max_bad_fraction' });
    }
    expect(eventsOf(folderOf('too-many'), 'checkpoint')).toMatchObject([{ step, reason: 'error' }]);
  }, 120_000);

  it('a bad record ends all, the steps before it saved', async () => {
    const { file, index, step } = await badData('stopped');
    const ends = await run(2, 'stopped', { data_path: [file], max_steps: 40 });
    for (const end of ends) {
      expect(end.code).toBe(1);
      expect(last(end)).toMatchObject({ user: true, record: index });
      expect(last(end).cure).toContain(`The ${step} steps before it are saved in ${folderOf('stopped')}`);
    }
    expect(last(ends[0]!).message).toBe(from(1) + String(last(ends[1]!).message));
    expect(eventsOf(folderOf('stopped'), 'checkpoint')).toMatchObject([{ step, reason: 'error' }]);
    expect(eventsOf(folderOf('stopped'), 'run_end')).toMatchObject([{ status: 'failed', step }]);
  }, 120_000);
});

describe('a step that is not finite', () => {
  it('ends all ranks, and is saved with the micro-batches of all', async () => {
    const flags = {
      gradient_accumulation_steps: 2,
      max_steps: 9,
      learning_rate: 1e38,
      max_grad_norm: 0,
      dtype: 'float32',
    };
    const ends = await run(2, 'nonfinite', flags);
    const { step } = eventsOf(folderOf('nonfinite'), 'stop')[0]!;
    for (const end of ends) {
      expect(end.code).toBe(1);
      expect((end.lines.at(-1) as { message: string }).message).toMatch(/Expected a finite loss and gradient/);
      expect(said(end, 'stop')).toMatchObject([{ reason: 'nonfinite', step }]);
    }
    const folder = join(folderOf('nonfinite'), 'nonfinite', `step-${step}`);
    expect(readdirSync(folder).sort()).toEqual(
      [
        ...[0, 1, 2, 3].map((part) => `batch-${part}.safetensors`),
        ...['model', 'records.json', 'report.json', 'run.json'],
      ].sort(),
    );
    const { data_seed: seed } = configOf(place, 'nonfinite').seeds;
    const sampler = new Sampler({ sizes: [11], seed, shuffle: true, batchSize: 1, accumulation: 4 });
    const report = readJson<{ micro_batches: { index: number }[][]; first: { microBatch: number } }>(
      folder,
      'report.json',
    );
    expect(report.micro_batches.map((part) => part.map(({ index }) => index))).toEqual(sampler.plan(step - 1).batches);
    expect(report.first.microBatch).toBe(0);
  }, 120_000);
});

describe('another number of ranks', () => {
  const saving = { max_steps: 4, learning_rate: 1e-4, save_strategy: 'steps', save_steps: 2 };

  it('resumes a run with the same product of batch size, accumulation and ranks', async () => {
    const begin = { ...saving, per_device_train_batch_size: 1, gradient_accumulation_steps: 4 };
    const flags = { ...begin, resume_from_checkpoint: 'latest' };
    const stop = new AbortController();
    const onEvent = ({ event }: RunEvent): void => (event === 'step' ? stop.abort('sigterm') : undefined);
    await train(configOf(place, 'more', begin), {
      onEvent,
      signal: stop.signal,
    });
    expect(eventsOf(folderOf('more'), 'stop')).toMatchObject([{ step: 1 }]);
    const refused = await run(2, 'more', flags);
    for (const end of refused) {
      expect(end.code).toBe(1);
      const { message, cure } = end.lines.at(-1) as { message: string; cure: string };
      expect(message).toContain(
        'per_device_train_batch_size × gradient_accumulation_steps × ranks was 1 × 4 × 1 = 4 and is 1 × 4 × 2 = 8.',
      );
      expect(cure).toContain('--per_device_train_batch_size 1 --gradient_accumulation_steps 2');
    }
    const ends = await run(2, 'more', { ...flags, gradient_accumulation_steps: 2 });
    for (const { lines, stderr } of ends) expect(lines.at(-1), stderr).toMatchObject({ result: { steps: 4 } });
    expect(readJson<{ world_size: number }>(folderOf('more'), 'checkpoint-4', 'trainer_state.json').world_size).toBe(2);
    const fewer = await run(1, 'more', flags);
    expect(fewer[0]!.lines.at(-1)).toMatchObject({ result: { steps: 4 } });
  }, 120_000);
});
