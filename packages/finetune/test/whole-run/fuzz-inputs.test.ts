/**
 * Damaged files of every kind that is read: a typed error or a valid result, in time, without a change of any file. 400 cases, 10 000 with
 * the wheels of torch's own test in the long part.
 */
import { createHash } from 'node:crypto';
import { cpSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { loadModel, openCheckpoint } from '@minicpm-finetune/minicpm-v';
import { decodeImage, readConfig, Tokenizer } from '@minicpm-finetune/processor';
import sharp from 'sharp';
import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from 'vitest';
import { stringify } from 'yaml';
import { LONG } from '../../../torch/test/support/long.js';
import { readRecipe } from '../../src/config/recipe.js';
import { TRAIN_FLAGS } from '../../src/config/train-flags.js';
import { Dataset } from '../../src/data/dataset.js';
import { Random } from '../../src/data/random.js';
import { imagesOf } from '../../src/data/record.js';
import { downloadModel } from '../../src/hub/hub.js';
import { SILENT } from '../../src/report/reporter.js';
import { resolveTrainConfig } from '../support/config-words.js';
import { HubServer, REPO } from '../support/hub-server.js';
import { soundRecord } from '../support/made-data.js';
import { mutateBytes, mutateJson, pick } from '../support/mutate.js';
import { outcomeOf } from '../support/outcome.js';
import { makePlace, type Place } from '../support/run-place.js';
import { tinyAdapter } from '../support/tiny-model.js';

const FACTOR = LONG ? 24 : 1;
const SLOW_MS = 30_000; // a hang never ends; a busy machine takes seconds
const FIXTURES = join(import.meta.dirname, '..', 'fixtures', 'data');

let place: Place;
let adapter: string;
/** Where the damaged files are. */
let inputs: string;
beforeAll(() => {
  place = makePlace(4);
  adapter = tinyAdapter(place.model, join(place.folder, 'adapter'));
  inputs = mkdtempSync(join(tmpdir(), 'inputs-'));
});
afterAll(() => {
  for (const folder of [place.folder, inputs]) rmSync(folder, { recursive: true });
});

/** A hash of the names and contents of all files of a folder. */
function hashOf(folder: string): string {
  const hash = createHash('sha256');
  for (const name of readdirSync(folder, { recursive: true, encoding: 'utf8' }).sort()) {
    hash.update(`${name}\0`);
    const path = join(folder, name);
    if (statSync(path).isFile()) hash.update(readFileSync(path));
  }
  return hash.digest('hex');
}

let before: string;
beforeAll(() => {
  before = hashOf(place.folder);
});
afterEach(() => {
  expect(hashOf(place.folder), 'a file that is not the case was changed').toBe(before);
});

/** Runs `count` cases: each writes damaged files, then reads them, which changes nothing. */
async function cases(
  seed: number,
  count: number,
  write: (random: Random, i: number) => string,
  read: (i: number) => unknown,
): Promise<void> {
  const random = new Random(seed);
  const counts = { read: 0, refused: 0 };
  for (let i = 0; i < count * FACTOR; i++) {
    const what = write(random, i);
    const written = i % 16 === 0 ? hashOf(inputs) : undefined;
    counts[
      await outcomeOf(`case ${i}: ${what.slice(0, 1500)}`, () => read(i), {
        message: /^(Expected|.*: .*Expected|Did you)/s,
        milliseconds: SLOW_MS,
      })
    ]++;
    if (written !== undefined) expect(hashOf(inputs)).toBe(written);
  }
  expect(counts.refused).toBeGreaterThan(0);
}

/** Damages a value, its text in UTF-8, or writes it in another encoding. */
function damagedText(value: unknown, write: (value: unknown) => string, random: Random): Buffer {
  const kind = random.below(8);
  if (kind <= 3) return Buffer.from(write(mutateJson(value, random)) ?? '');
  const text = write(value);
  if (kind === 4) return Buffer.from(text, 'utf16le');
  if (kind === 5)
    return Buffer.from(text.replace(/[",:[\]{}]/, (c) => pick(random, ['，', '：', '“', '】', '\u00a0', '\u200b', c])));
  if (kind === 6)
    return Buffer.from(text.replace('":', () => `": ${'['.repeat(20_000)}${pick(random, [']'.repeat(20_000), ''])}`));
  return mutateBytes(Buffer.from(text), random);
}

const json = (value: unknown): string => JSON.stringify(value, null, 1) ?? '';

describe('damaged', () => {
  const records = Array.from({ length: 4 }, (_, i) => soundRecord(9 + 10 * i));
  async function readAll(file: string): Promise<void> {
    const data = await Dataset.open([file], () => {});
    try {
      for (let i = 0; i < Math.min(data.length, 20); i++) imagesOf(await data.read(i));
    } finally {
      await data.close();
    }
  }

  it('JSON and JSON Lines', { timeout: 300_000 }, async () => {
    const file = join(inputs, 'data');
    const lines = (value: unknown): string =>
      Array.isArray(value) ? value.map((one) => JSON.stringify(one)).join('\n') : json(value);
    const write = (random: Random, i: number): string => {
      const bytes = damagedText(records, i % 2 === 0 ? json : lines, random);
      writeFileSync(file, bytes);
      return bytes.toString();
    };
    await cases(1, 110, write, () => readAll(file));
  });

  it('parquet', { timeout: 300_000 }, async () => {
    const file = join(inputs, 'parquet');
    const sources = readdirSync(FIXTURES)
      .filter((name) => name.endsWith('.parquet'))
      .map((name) => readFileSync(join(FIXTURES, name)));
    const write = (random: Random): string => {
      writeFileSync(file, mutateBytes(pick(random, sources), random));
      return 'parquet';
    };
    await cases(2, 45, write, () => readAll(file));
  });

  it('recipes and DeepSpeed files', { timeout: 300_000 }, async () => {
    const file = join(inputs, 'recipe');
    const recipe = {
      model_name_or_path: 'm',
      data_path: ['a'],
      output_dir: 'o',
      lora: { use_lora: true, lora_r: 8 },
      learning_rate: 1e-5,
      schedule: { max_steps: 3 },
    };
    const deepspeed = {
      zero_optimization: { stage: 2 },
      optimizer: { type: 'AdamW', params: { lr: 1e-4, betas: [0.9, 0.95] } },
      scheduler: { type: 'WarmupLR', params: { warmup_num_steps: 3 } },
    };
    const write = (random: Random, i: number): string => {
      const bytes =
        i % 3 === 2
          ? damagedText(deepspeed, json, random)
          : damagedText(recipe, i % 3 === 0 ? stringify : json, random);
      writeFileSync(file, bytes);
      return bytes.toString();
    };
    const words = ['--model_name_or_path', 'm', '--data_path', 'd', '--output_dir', 'o'];
    await cases(3, 60, write, (i) =>
      i % 3 === 2 ? resolveTrainConfig([...words, '--deepspeed', file]) : readRecipe(file, TRAIN_FLAGS),
    );
  });

  it('configurations and tokenizers', { timeout: 300_000 }, async () => {
    const folder = join(inputs, 'model');
    cpSync(join(FIXTURES, 'model'), folder, { recursive: true });
    const names = ['config.json', 'config.json', 'tokenizer.json', 'tokenizer_config.json'];
    const sources = new Map(names.map((name) => [name, readFileSync(join(folder, name), 'utf8')]));
    const write = (random: Random): string => {
      for (const [name, text] of sources) writeFileSync(join(folder, name), text);
      const name = pick(random, names);
      const bytes = damagedText(JSON.parse(sources.get(name)!), json, random);
      writeFileSync(join(folder, name), bytes);
      return `${name}: ${bytes.toString('utf8', 0, 1500)}`;
    };
    await cases(4, 75, write, async () => {
      readConfig(folder);
      await Tokenizer.load(folder).encode('a b');
    });
  });

  it('weights', { timeout: 300_000 }, async () => {
    const folder = join(inputs, 'weights');
    mkdirSync(folder);
    const header = {
      a: { dtype: 'F32', shape: [2, 3], data_offsets: [0, 24] },
      b: { dtype: 'BF16', shape: [4], data_offsets: [24, 32] },
    };
    const write = (random: Random): string => {
      const text = damagedText(header, (value) => JSON.stringify(value) ?? '', random);
      const size = Buffer.alloc(8);
      size.writeBigUInt64LE(
        BigInt(random.below(8) === 0 ? pick(random, [0, 1, 2 ** 40, text.length + 1]) : text.length),
      );
      writeFileSync(join(folder, 'model.safetensors'), Buffer.concat([size, text, Buffer.alloc(32)]));
      return text.toString();
    };
    await cases(5, 50, write, () => openCheckpoint(folder));
  });

  it('adapters', { timeout: 300_000 }, async () => {
    const folder = join(inputs, 'adapter');
    cpSync(adapter, folder, { recursive: true });
    const names = ['adapter_config.json', 'adapter_config.json', 'minicpm_manifest.json', 'adapter_model.safetensors'];
    const sources = new Map(names.map((name) => [name, readFileSync(join(folder, name))]));
    const write = (random: Random): string => {
      for (const [name, bytes] of sources) writeFileSync(join(folder, name), bytes);
      const name = pick(random, names);
      const source = sources.get(name)!;
      const bytes = name.endsWith('.json')
        ? damagedText(JSON.parse(source.toString()), json, random)
        : mutateBytes(source, random);
      writeFileSync(join(folder, name), bytes);
      return `${name}: ${bytes.toString('utf8', 0, 1500)}`;
    };
    await cases(6, 20, write, async () => {
      (await loadModel({ model: place.model, adapter: folder })).dispose();
    });
  });

  it('pictures, and text that stands for them', { timeout: 300_000 }, async () => {
    const raw = sharp({ create: { width: 20, height: 16, channels: 3, background: 'red' } });
    const kinds = await Promise.all(
      [raw.clone().png(), raw.clone().jpeg(), raw.clone().webp(), raw.clone().gif(), raw.clone().tiff()].map((one) =>
        one.toBuffer(),
      ),
    );
    kinds.push(
      readFileSync(join(place.folder, '0.bmp')),
      Buffer.from('version https://git-lfs.github.com/spec/v1\nsize 1\n'),
      Buffer.from('<html>no</html>'),
    );
    const [picture, file] = [join(inputs, 'picture'), join(inputs, 'pictures.json')];
    const written = (bytes: Buffer, random: Random): string => {
      const base64 = bytes.toString('base64');
      const text = pick(random, [
        base64,
        `data:image/png;base64,${base64}`,
        `data:;base64,${encodeURIComponent(base64)}`,
        'picture%20',
        'C:\\picture',
        '\u200bpicture',
        'file:picture',
      ]);
      return random.below(2) === 0 ? text : mutateBytes(Buffer.from(text), random).toString();
    };
    const write = (random: Random): string => {
      const bytes = mutateBytes(pick(random, kinds), random);
      writeFileSync(picture, bytes);
      const image = written(bytes, random);
      writeFileSync(file, JSON.stringify([{ image, conversations: soundRecord(9).conversations }]));
      return image.slice(0, 200);
    };
    await cases(7, 40, write, async (i) => {
      if (i % 2 === 0) return await decodeImage(picture, { maxImagePixels: 1e6 });
      const data = await Dataset.open([file], () => {});
      try {
        for (const source of imagesOf(await data.read(0))) await decodeImage(source, { maxImagePixels: 1e6 });
      } finally {
        await data.close();
      }
      return undefined;
    });
  });

  it('answers of the hub', { timeout: 300_000 }, async () => {
    const hub = new HubServer();
    for (const name of ['model.safetensors', 'config.json', 'tokenizer.json', 'tokenizer_config.json'])
      hub.files.set(name, { content: Buffer.from(`content of ${name}`), lfs: name.startsWith('model') });
    for (const name of ['HF_TOKEN', 'HF_TOKEN_PATH', 'HF_HUB_OFFLINE']) vi.stubEnv(name, undefined);
    vi.stubEnv('HF_ENDPOINT', await hub.start());
    const cacheDir = mkdtempSync(join(tmpdir(), 'hub-fuzz-'));
    try {
      const write = (random: Random, i: number): string => {
        hub.list = (entries) => (i % 2 === 0 ? mutateJson(entries, random) : entries);
        hub.trouble = (_, response, content) => {
          if (i % 2 === 0) return false;
          response.end(mutateBytes(content, random));
          return true;
        };
        return 'an answer of the hub';
      };
      await cases(8, 12, write, async () => {
        rmSync(join(cacheDir, 'cache'), { recursive: true, force: true });
        const options = { flag: '--model', reporter: SILENT, cacheDir: join(cacheDir, 'cache'), pauses: [1] };
        await downloadModel(REPO, options);
      });
      expect(readdirSync(cacheDir)).toEqual(['cache']);
    } finally {
      vi.unstubAllEnvs();
      await hub.stop();
      rmSync(cacheDir, { recursive: true });
    }
  });
});
