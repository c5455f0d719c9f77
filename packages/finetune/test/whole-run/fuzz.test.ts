/**
 * Damaged data and recipes: always a typed error that names its place, or a run of what is really there; never a crash, a hang, or a
 * record that is quietly left out. 100 cases, 2000 in the long part. (Damaged bytes of data files alone: data-fuzz.test.ts.)
 */
import { readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { stringify } from 'yaml';
import { LONG } from '../../../torch/test/support/long.js';
import { Dataset } from '../../src/data/dataset.js';
import { encoderSetup } from '../../src/data/encoder.js';
import { Loader } from '../../src/data/loader.js';
import { preflight } from '../../src/data/preflight.js';
import { Random } from '../../src/data/random.js';
import { Sampler } from '../../src/data/sampler.js';
import { collate } from '../../src/engine/collate.js';
import { SILENT } from '../../src/report/reporter.js';
import { train } from '../../src/train/train.js';
import { resolveTrainConfig } from '../support/config-words.js';
import { DATA_FLAGS } from '../support/made-data.js';
import { mutateBytes, mutateJson, pick } from '../support/mutate.js';
import { ZERO2 } from '../support/official-zero2.js';
import { type Outcome, outcomeOf } from '../support/outcome.js';
import { configOf, makePlace, type Place } from '../support/run-place.js';

const FACTOR = LONG ? 20 : 1;
const SLOW_MS = 30_000; // a hang never ends; a busy machine takes seconds

let place: Place;
beforeAll(() => {
  place = makePlace(8);
});
afterAll(() => rmSync(place.folder, { recursive: true }));

/** Runs a case; anything but a result or a UserError with a sentence of its own fails, and shows the case. */
const outcome = (what: string, run: () => unknown): Promise<Outcome> =>
  outcomeOf(what, run, { message: /^(Expected|Did you mean)/, milliseconds: SLOW_MS });

/** What a run does with data before and in its first epoch, without the model: every record is looked at, encoded and collated. */
async function readWhole(file: string): Promise<number> {
  const encoder = encoderSetup(place.model, { llm_type: null, max_slice_nums: 4, scale_resolution: 56 }, DATA_FLAGS);
  const notice = () => {};
  const dataset = await Dataset.open([file], notice);
  try {
    const badRecords = { onBadRecord: 'stop', maxBadFraction: 0 } as const;
    const look = { purpose: 'training', mode: 'quick', badRecords, threads: 0, reporter: SILENT } as const;
    await preflight({ dataset, encoder, ...look });
    const sampler = new Sampler({ sizes: dataset.sizes, seed: 0, shuffle: false, batchSize: 3 });
    const steps = { startStep: 0, endStep: sampler.stepsPerEpoch, threads: 0, prefetchFactor: null };
    const policy = { ...badRecords, reportFile: undefined };
    const loader = await Loader.open({ dataset, sampler, encoder, ...steps, badRecords: policy, notice });
    let samples = 0;
    for await (const micro of loader) {
      samples += micro.samples.length;
      const batch = collate(micro.samples);
      expect(batch.supervisedTokens).toBeGreaterThan(0);
      for (const tensor of [...Object.values(batch.inputs), batch.labels].flat())
        if (typeof tensor === 'object' && tensor !== null && 'dispose' in tensor)
          (tensor as { dispose(): void }).dispose();
    }
    await loader.close();
    return samples;
  } finally {
    await dataset.close();
  }
}

const turns = (question: string, answer: string) => [
  { role: 'user', content: question },
  { role: 'assistant', content: answer },
];

/** Records in each of the forms. */
const FORMS: Readonly<Record<string, readonly object[]>> = {
  seed: [
    { id: '0', image: '0.bmp', conversations: turns('<image>\nWhat is this?', 'red') },
    {
      id: '1',
      image: { '<image_00>': '0.bmp', '<image_01>': '1.bmp' },
      conversations: turns('<image_00> or <image_01>?', 'b'),
    },
    {
      id: '2',
      conversations: [{ role: 'system', content: 'Be short.' }, ...turns('One?', 'two'), ...turns('Three?', 'four')],
    },
  ],
  messages: [
    { messages: turns('<image>What?', 'red'), images: ['0.bmp'] },
    {
      messages: [{ role: 'user', content: [{ type: 'image' }, { type: 'text', text: 'Q' }] }, turns('', 'a')[1]],
      images: ['1.bmp'],
    },
  ],
  llava: [
    {
      id: '1',
      image: '2.bmp',
      conversations: [
        { from: 'human', value: '<image>\nQ' },
        { from: 'gpt', value: 'A' },
      ],
    },
    {
      id: '2',
      conversations: [
        { from: 'human', value: 'Q' },
        { from: 'gpt', value: 'A' },
      ],
    },
  ],
};

describe('data', () => {
  it.each(Object.keys(FORMS))('records of the %s form, changed in some places', { timeout: 600_000 }, async (form) => {
    const random = new Random(form.length, 1);
    const counts = { read: 0, refused: 0 };
    const file = join(place.folder, `${form}.json`);
    for (let i = 0; i < 16 * FACTOR; i++) {
      const records = mutateJson(FORMS[form], random);
      const text = JSON.stringify(records) ?? 'null';
      writeFileSync(file, text);
      counts[
        await outcome(text.slice(0, 2000), async () => {
          expect(await readWhole(file)).toBe((records as unknown[]).length);
        })
      ]++;
    }
    expect(counts.read).toBeGreaterThan(0);
    expect(counts.refused).toBeGreaterThan(0);
  });

  it('bytes of JSON: what is accepted is JSON, and all of it', { timeout: 600_000 }, async () => {
    const random = new Random(77);
    const records = Object.values(FORMS)[0]!;
    const sources = [JSON.stringify(records, null, 1), records.map((record) => `${JSON.stringify(record)}\n`).join('')];
    const file = join(place.folder, 'bytes.json');
    const utf8 = new TextDecoder('utf-8', { fatal: true });
    for (let i = 0; i < 20 * FACTOR; i++) {
      const bytes = mutateBytes(Buffer.from(sources[i % 2]!), random);
      writeFileSync(file, bytes);
      await outcome(bytes.toString('latin1'), async () => {
        const samples = await readWhole(file);
        const text = utf8.decode(bytes);
        const isArray = text.trimStart().startsWith('[');
        const all: unknown[] = isArray ? JSON.parse(text) : text.split('\n').filter((line) => line.trim() !== '');
        if (!isArray) for (const line of all) JSON.parse(line as string);
        expect(samples).toBe(all.length);
      });
    }
  });

  it('pictures', { timeout: 600_000 }, async () => {
    const random = new Random(5);
    const sharp = (await import('sharp')).default;
    const bmp = readFileSync(join(place.folder, '0.bmp'));
    const raw = sharp(bmp.subarray(54, 54 + 30 * 40 * 3), { raw: { width: 30, height: 40, channels: 3 } });
    const kinds = {
      jpg: await raw.jpeg().toBuffer(),
      png: await raw.png().toBuffer(),
      webp: await raw.webp().toBuffer(),
      gif: await raw.gif().toBuffer(),
      bmp,
    };
    const file = join(place.folder, 'pictures.json');
    for (let i = 0; i < 15 * FACTOR; i++) {
      const kind = pick(random, Object.keys(kinds) as (keyof typeof kinds)[]);
      writeFileSync(join(place.folder, `damaged.${kind}`), mutateBytes(kinds[kind], random));
      writeFileSync(file, JSON.stringify([{ image: `damaged.${kind}`, conversations: turns('<image>\nQ', 'A') }]));
      await outcome(`picture ${i} (${kind})`, async () => expect(await readWhole(file)).toBe(1));
    }
  });

  it('what is read also trains', { timeout: 600_000 }, async () => {
    const random = new Random(9);
    const file = join(place.folder, 'trains.json');
    const counts = { read: 0, refused: 0 };
    for (let i = 0; i < 2 * FACTOR; i++) {
      let text: string;
      do {
        text = JSON.stringify(mutateJson(FORMS.seed, random)) ?? '';
        writeFileSync(file, text);
      } while ((await outcome(text, () => readWhole(file))) === 'refused');
      const flags = { data_path: file, max_steps: 1, per_device_train_batch_size: 3, model_max_length: 2048 };
      counts[await outcome(text, () => train(configOf(place, `trains ${i}`, flags)))]++;
    }
    expect(counts.refused).toBe(0);
  });
});

/** A recipe with every kind of value. */
const RECIPE = {
  model_name_or_path: 'm',
  data_path: ['a.json', 'b.json'],
  output_dir: 'o',
  lora: {
    use_lora: true,
    lora_r: 8,
    lora_target_modules: 'q_proj|v_proj',
    lora_modules_to_save: ['resampler'],
    lora_layers_to_transform: [0, 1],
  },
  learning_rate: 1e-5,
  optimizer: { weight_decay: 0.1, max_grad_norm: 1 },
  schedule: { lr_scheduler_type: 'cosine', warmup_ratio: 0.1, max_steps: 10 },
  bf16: true,
  data_weights: [1, 2],
  memory_budget: '12GB',
  save: { save_steps: 0.5, save_total_limit: 2 },
  seed: 3,
};

const DEEPSPEED = {
  zero_optimization: { stage: 2, offload_optimizer: { device: 'cpu' } },
  fp16: ZERO2.fp16,
  bf16: { enabled: 'auto' },
  optimizer: ZERO2.optimizer,
  scheduler: { type: 'WarmupLR', params: { warmup_min_lr: 'auto', warmup_max_lr: 'auto', warmup_num_steps: 'auto' } },
  gradient_clipping: 'auto',
  train_micro_batch_size_per_gpu: 'auto',
};

/** Numbers of a configuration that are none. */
function badNumbers(value: unknown): number {
  if (typeof value === 'number') return Number.isFinite(value) ? 0 : 1;
  if (typeof value !== 'object' || value === null) return 0;
  return Object.values(value).reduce<number>((sum, inner) => sum + badNumbers(inner), 0);
}

describe('recipes and DeepSpeed files', () => {
  const required = ['--model_name_or_path', 'm', '--data_path', 'd', '--output_dir', 'o'];
  const resolves = (words: readonly string[]) => () => {
    const { config } = resolveTrainConfig(words);
    expect(badNumbers(config)).toBe(0);
  };
  const cases: readonly (readonly [string, object, (value: unknown) => string, (file: string) => string[]])[] = [
    ['a YAML recipe', RECIPE, (value) => stringify(value), (file) => ['--recipe', file]],
    ['a JSON recipe', RECIPE, (value) => JSON.stringify(value) ?? '', (file) => ['--recipe', file]],
    [
      'a DeepSpeed file',
      DEEPSPEED,
      (value) => JSON.stringify(value) ?? '',
      (file) => [...required, '--bf16', '--deepspeed', file],
    ],
  ];

  it.each(cases)('%s', { timeout: 600_000 }, async (name, original, write, use) => {
    const random = new Random(name.length, 3);
    const counts = { read: 0, refused: 0 };
    const file = join(place.folder, 'recipe');
    writeFileSync(file, write(original));
    expect(await outcome('the original', resolves(use(file)))).toBe('read');
    for (let i = 0; i < 8 * FACTOR; i++) {
      const text =
        i % 2 === 0
          ? Buffer.from(write(mutateJson(original, random)))
          : mutateBytes(Buffer.from(write(original)), random);
      writeFileSync(file, text);
      counts[await outcome(text.toString(), resolves(use(file)))]++;
    }
    expect(counts.refused).toBeGreaterThan(0);
  });
});
