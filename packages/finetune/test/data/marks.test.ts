/** Answers marked as not to be learned, in every form and container, to the labels. */
import { mkdtempSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { beforeAll, describe, expect, it } from 'vitest';
import { Dataset } from '../../src/data/dataset.js';
import { Encoder, encoderSetup } from '../../src/data/encoder.js';
import { DATA_FLAGS, MODEL, MODEL_FLAGS } from '../support/made-data.js';

const folder = mkdtempSync(join(tmpdir(), 'marks-'));
const parquet = fileURLToPath(new URL('../fixtures/data/merged.snappy.parquet', import.meta.url));

let encoder: Encoder;
beforeAll(async () => {
  encoder = await Encoder.open(encoderSetup(MODEL, MODEL_FLAGS, DATA_FLAGS));
});

type Keys = Record<string, unknown>;

const TURNS = [
  ['user', 'Q'],
  ['assistant', 'WRONG'],
  ['user', 'Again'],
  ['assistant', 'RIGHT'],
] as const;
const FROM = { user: 'human', assistant: 'gpt' } as const;

/** The same conversation in each form; `more` has keys for turns by index. */
const FORMS: Readonly<Record<string, (more: Readonly<Record<number, Keys>>, record?: Keys) => Keys>> = {
  seed: (more, record) => ({
    conversations: TURNS.map(([role, content], i) => ({ role, content, ...more[i] })),
    ...record,
  }),
  messages: (more, record) => ({
    messages: TURNS.map(([role, content], i) => ({ role, content, ...more[i] })),
    ...record,
  }),
  llava: (more, record) => ({
    conversations: TURNS.map(([role, value], i) => ({ from: FROM[role], value, ...more[i] })),
    ...record,
  }),
};
const forms = Object.keys(FORMS);

/** Opens records as a JSON array and as JSON Lines. */
async function opened(...records: Keys[]): Promise<Dataset[]> {
  const lines = records.map((record) => JSON.stringify(record));
  const files = [`[${lines.join(',\n')}]`, `${lines.join('\n')}\n`].map((text, i) => {
    const path = join(folder, `${i}.data`);
    writeFileSync(path, text);
    return path;
  });
  return Promise.all(files.map((path) => Dataset.open([path], () => {})));
}

/** The text of the tokens that are learned. */
async function learned(data: Dataset, index = 0, changes: Parameters<Encoder['encode']>[1] = {}): Promise<string> {
  const { sample } = await encoder.encode(await data.read(index), changes);
  return encoder.tokenizer.decode(Array.from(sample!.labels).filter((label) => label !== -100));
}

const RIGHT = 'RIGHT<|im_end|>';
const BOTH = `WRONG<|im_end|>${RIGHT}`;

describe.each(forms)('the %s form', (form) => {
  it.each([
    { weight: 0 },
    { loss: false },
    { loss_scale: 0.0 },
    { loss_mask: 0 },
    { train: false },
    { trainable: false },
    { training: 0 },
    { weight: 0, loss: true },
  ])('masks an answer with %j and keeps it as context', async (mark) => {
    const plain = FORMS[form]!({});
    for (const data of await opened(FORMS[form]!({ 1: mark }), plain)) {
      expect(await learned(data)).toBe(RIGHT);
      expect(await learned(data, 1)).toBe(BOTH);
      const [masked, whole] = await Promise.all([0, 1].map(async (i) => encoder.encode(await data.read(i))));
      expect(masked!.sample!.inputIds).toEqual(whole!.sample!.inputIds);
    }
  });

  it.each([
    { weight: 1 },
    { loss: true },
    { loss_mask: 1 },
    { train: true },
    { trainable: true },
    { weight: null, loss: null, mask: null },
  ])('learns an answer with %j', async (mark) => {
    for (const data of await opened(FORMS[form]!({ 1: mark, 3: mark, 2: { weight: 0 } }))) {
      expect(await learned(data)).toBe(BOTH);
    }
  });

  it.each([
    [{ loss_mask: [0, 0, 0, 1] }, RIGHT],
    [{ loss_mask: [false, false, false, true] }, RIGHT],
    [{ weight: [1, 1, 1, 0] }, 'WRONG<|im_end|>'],
    [{ loss_mask: [1, 1, 1, 1] }, BOTH],
    [{ loss_mask: [] }, BOTH],
    [{ weight: 1, train: true }, BOTH],
  ])('reads the key %j of the record', async (record, text) => {
    for (const data of await opened(FORMS[form]!({}, record))) expect(await learned(data)).toBe(text);
  });

  it.each([
    [{ weight: 0.5 }, /Expected 0 or 1 .* for the key weight of a turn but received 0.5/],
    [{ weight: 2 }, /received 2/],
    [{ loss: 'no' }, /the key loss of a turn but received "no"/],
    [{ loss_mask: [0, 1] }, /the key loss_mask of a turn but received \[0,1\]/],
    [{ mask: true }, /a turn without the key mask/],
    [{ mask: 0 }, /a turn without the key mask/],
  ])('refuses the mark %j', async (mark, message) => {
    for (const data of await opened(FORMS[form]!({ 1: mark }))) {
      await expect(data.read(0)).rejects.toThrow(message);
      await expect(data.read(0)).rejects.toMatchObject({ record: 0, turn: 1, key: Object.keys(mark)[0] });
    }
  });

  it.each([
    [{ loss_mask: [0, 1] }, /one value for each of the 4 turns in the key loss_mask .* received 2/],
    [{ loss_mask: [0, 0, 0, 0.3] }, /received 0.3/],
    [{ weight: 0.7 }, /the key weight of a record but received 0.7/],
    [{ mask: [0, 1, 0, 1] }, /a record without the key mask/],
  ])('refuses the key %j of the record', async (record, message) => {
    for (const data of await opened(FORMS[form]!({}, record))) await expect(data.read(0)).rejects.toThrow(message);
  });

  it('refuses a record of which nothing is to be learned', async () => {
    const marked = { 1: { weight: 0 }, 3: { loss: false } };
    for (const data of await opened(FORMS[form]!(marked), FORMS[form]!({}, { train: false }))) {
      for (const i of [0, 1]) {
        await expect(learned(data, i)).rejects.toThrow(/all of its 2 answers are marked as not to be learned/);
      }
    }
  });

  it('refuses marks for --compat official, which learns every answer', async () => {
    const compat = { compat: 'official', maxLength: 2048 } as const;
    for (const data of await opened(FORMS[form]!({ 1: { weight: 0 } }), FORMS[form]!({ 1: { weight: 1 } }))) {
      await expect(learned(data, 0, compat)).rejects.toThrow(/marked as not to be learned for --compat official/);
      await expect(learned(data, 0, compat)).rejects.toMatchObject({ turn: 1, flag: '--compat' });
      expect(await learned(data, 1, compat)).toContain('WRONG');
    }
  });
});

it('reads marks, forms and empty columns of a merged parquet table', async () => {
  const data = await Dataset.open([parquet], () => {});
  expect(await Promise.all([0, 1, 2].map((i) => learned(data, i)))).toEqual([0, 1, 2].map((i) => `A${i}<|im_end|>`));
  expect((await data.read(2)).conversations[0]).toEqual({ role: 'system', content: 'Be brief.' });
  await expect(data.read(3)).rejects.toThrow(/without the key tools/);
  await expect(learned(data, 4)).rejects.toThrow(/its only answer is marked as not to be learned/);
  await data.close();
});

describe('a record that is too long', () => {
  const long = { conversations: FORMS.seed!({ 1: { weight: 0 } }).conversations as Keys[] };

  it('is cut, and what is left of the learned answer is learned', async () => {
    const [data] = await opened(long);
    const whole = (await encoder.encode(await data!.read(0))).sample!;
    const maxLength = whole.inputIds.length - 3;
    const { sample } = await encoder.encode(await data!.read(0), { maxLength });
    expect(sample!.inputIds).toEqual(whole.inputIds.slice(0, maxLength));
    const labels = whole.labels.slice(0, maxLength);
    labels[maxLength - 1] = -100;
    expect(sample!.labels).toEqual(labels);
    expect(labels.some((label) => label !== -100)).toBe(true);
  });

  it('is refused when only the marked answer is left', async () => {
    const [data] = await opened(long);
    const { labels } = (await encoder.encode(await data!.read(0))).sample!;
    const maxLength = labels.findIndex((label) => label !== -100);
    await expect(encoder.encode(await data!.read(0), { maxLength })).rejects.toThrow(/nothing to learn is left/);
  });
});
