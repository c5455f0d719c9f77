/**
 * Damaged model and adapter folders: a training, or an answer, ends with a typed error or works with exactly the tensors that were there;
 * never a crash or a hang. 40 cases, 500 in the long part.
 */
import { cpSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { loadModel } from '@minicpm-finetune/minicpm-v';
import { openSafetensors, SafetensorsFile, writeShardedSafetensors } from '@minicpm-finetune/torch';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { LONG } from '../../../torch/test/support/long.js';
import { Random } from '../../src/data/random.js';
import { train } from '../../src/train/train.js';
import { mutateBytes, mutateJson, pick } from '../support/mutate.js';
import { type Outcome, outcomeOf } from '../support/outcome.js';
import { configOf, makePlace, type Place } from '../support/run-place.js';
import { tinyAdapter } from '../support/tiny-model.js';

const FACTOR = LONG ? 13 : 1;
const SLOW_MS = 30_000; // a hang never ends; a busy machine takes seconds

let place: Place;
let adapter: string;
let sharded: string;
beforeAll(() => {
  place = makePlace(2);
  adapter = tinyAdapter(place.model, join(place.folder, 'adapter'));
  sharded = join(place.folder, 'sharded');
  cpSync(place.model, sharded, { recursive: true });
  rmSync(join(sharded, 'model.safetensors'));
  const source = openSafetensors(place.model);
  const tensors = new Map([...source.infos.keys()].map((name) => [name, source.tensor(name)] as const));
  writeShardedSafetensors(sharded, tensors, { maxShardBytes: 1_000_000 });
  for (const tensor of tensors.values()) tensor.dispose();
});
afterAll(() => rmSync(place.folder, { recursive: true }));

/** Damages the header of a safetensors file as JSON, its first bytes, or anything in it. */
function mutateSafetensors(bytes: Buffer, random: Random): Buffer {
  const length = Number(bytes.readBigUInt64LE());
  const kind = random.below(4);
  if (kind === 0) return mutateBytes(bytes, random);
  const body = bytes.subarray(8 + length);
  const header = bytes.subarray(8, 8 + length);
  if (kind === 1) return Buffer.concat([bytes.subarray(0, 8), mutateBytes(header, random), body]);
  if (kind === 2) {
    const damaged = Buffer.from(bytes);
    damaged.writeBigUInt64LE(BigInt(pick(random, [0, 1, length - 1, length + 1, bytes.length, 2 ** 40, 2 ** 53])));
    return damaged;
  }
  const text = Buffer.from(JSON.stringify(mutateJson(JSON.parse(header.toString()), random)) ?? '');
  const size = Buffer.alloc(8);
  size.writeBigUInt64LE(BigInt(text.length));
  return Buffer.concat([size, text, body]);
}

function mutateFile(path: string, random: Random): void {
  const bytes = readFileSync(path);
  let damaged: Buffer;
  if (path.endsWith('.safetensors')) damaged = mutateSafetensors(bytes, random);
  else if (path.endsWith('.json') && random.below(4) > 0)
    damaged = Buffer.from(JSON.stringify(mutateJson(JSON.parse(bytes.toString()), random)) ?? '');
  else damaged = mutateBytes(bytes, random);
  writeFileSync(path, damaged);
}

const outcome = (what: string, run: () => Promise<unknown>): Promise<Outcome> =>
  outcomeOf(what, run, { message: /Expected /, milliseconds: SLOW_MS });

/** Names, types and shapes, as a string to compare. */
function tensorsOf(file: string): string {
  const infos = [...new SafetensorsFile(file).infos].map(([name, { dtype, shape }]) =>
    [name, dtype, ...shape].join(' '),
  );
  return infos.sort().join('\n');
}

/** Copies `original` once per case, damages one of its `files`, and runs the case. */
async function cases(
  count: number,
  original: string,
  files: readonly string[],
  run: (folder: string, name: string) => Promise<unknown>,
): Promise<Record<Outcome, number>> {
  const random = new Random(count, files.length);
  const counts = { read: 0, refused: 0 };
  const folder = join(place.folder, 'damaged');
  for (let i = 0; i < count; i++) {
    rmSync(folder, { recursive: true, force: true });
    cpSync(original, folder, { recursive: true });
    const file = pick(random, files);
    mutateFile(join(folder, file), random);
    const changed = file.endsWith('.safetensors') ? '' : readFileSync(join(folder, file), 'utf8').slice(0, 3000);
    counts[await outcome(`case ${i}, ${file}: ${changed}`, () => run(folder, file))]++;
  }
  return counts;
}

/** One step of training; the folder it wrote is removed. */
async function trainOnce(flags: Readonly<Record<string, unknown>>): Promise<void> {
  const name = 'trained';
  mkdirSync(join(place.folder, name), { recursive: true });
  try {
    await train(configOf(place, name, { data_path: place.text, max_steps: 1, ...flags }));
  } finally {
    rmSync(join(place.folder, name), { recursive: true });
  }
}

async function answer(model: string, ...adapters: readonly string[]): Promise<void> {
  const loaded = await loadModel({ model, adapter: adapters });
  try {
    await loaded.generate([[{ role: 'user', content: 'a' }]], { maxNewTokens: 2 });
  } finally {
    loaded.dispose();
  }
}

describe('model folders', () => {
  it('weights', { timeout: 600_000 }, async () => {
    const original = tensorsOf(join(place.model, 'model.safetensors'));
    const counts = await cases(10 * FACTOR, place.model, ['model.safetensors'], async (folder) => {
      await answer(folder);
      expect(tensorsOf(join(folder, 'model.safetensors'))).toBe(original);
    });
    expect(counts.refused).toBeGreaterThan(0);
  });

  it('shards and their index', { timeout: 600_000 }, async () => {
    const files = [
      'model.safetensors.index.json',
      'model-00001-of-00003.safetensors',
      'model-00003-of-00003.safetensors',
    ];
    const counts = await cases(6 * FACTOR, sharded, files, (folder) => answer(folder));
    expect(counts.refused).toBeGreaterThan(0);
  });

  it('configuration', { timeout: 600_000 }, async () => {
    const counts = await cases(8 * FACTOR, place.model, ['config.json'], (folder) =>
      trainOnce({ model_name_or_path: folder, data_path: place.data }),
    );
    expect(counts.refused).toBeGreaterThan(0);
  });

  it('tokenizer', { timeout: 600_000 }, async () => {
    const files = ['tokenizer.json', 'tokenizer_config.json', 'chat_template.jinja'];
    await cases(6 * FACTOR, place.model, files, (folder) => trainOnce({ model_name_or_path: folder }));
  });
});

describe('adapter folders', () => {
  const files = ['adapter_model.safetensors', 'adapter_config.json', 'minicpm_manifest.json'];

  it('loaded for answers: what is accepted is what was saved', { timeout: 600_000 }, async () => {
    const original = readFileSync(join(adapter, 'adapter_model.safetensors'));
    const body = original.subarray(8 + Number(original.readBigUInt64LE()));
    const counts = await cases(6 * FACTOR, adapter, files, async (folder, file) => {
      await answer(place.model, folder);
      if (file === 'adapter_model.safetensors')
        expect(readFileSync(join(folder, file)).subarray(-body.length).equals(body)).toBe(true);
    });
    expect(counts.refused).toBeGreaterThan(0);
  });

  it('trained further', { timeout: 600_000 }, async () => {
    const counts = await cases(4 * FACTOR, adapter, files, (folder) =>
      trainOnce({ use_lora: true, lora_weight_path: folder }),
    );
    expect(counts.refused).toBeGreaterThan(0);
  });
});
