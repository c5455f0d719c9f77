/** `render --json` and `--requests`: a record for programs, with what a limit cuts off. */
import { Readable } from 'node:stream';
import { UserError } from '@minicpm-finetune/run';
import sharp from 'sharp';
import { beforeAll, describe, expect, it } from 'vitest';
import { type FeaturesJson, recordJson, type TokenJson } from '../../src/cli/render/json.js';
import { answerRequests } from '../../src/cli/render/requests.js';
import { Dataset } from '../../src/data/dataset.js';
import { Encoder, encoderSetup } from '../../src/data/encoder.js';
import { DATA_FLAGS, type MadeData, MODEL, MODEL_FLAGS, makeData } from '../support/made-data.js';

const turn = (role: string, content: string) => ({ role, content });
const RECORDS = [
  { id: 'first', conversations: [turn('user', 'Was ist das?'), turn('assistant', 'Das ist ein langer Satz.')] },
  {
    image: { '<image_00>': 'images/0.jpg', '<image_01>': 'images/3.jpg' },
    conversations: [
      turn('system', 'Be brief.'),
      turn('user', '<image_01><image_00>Which?'),
      turn('assistant', 'Both.'),
    ],
  },
  { image: 'images/gone.jpg', conversations: [turn('user', 'Q'), turn('assistant', 'A')] },
];

let data: MadeData;
let dataset: Dataset;
let encoder: Encoder;
beforeAll(async () => {
  data = await makeData(RECORDS.length, new Map(RECORDS.entries()));
  dataset = await Dataset.open([data.file], () => {});
  encoder = await Encoder.open(encoderSetup(MODEL, MODEL_FLAGS, DATA_FLAGS));
});

type Entry = TokenJson | FeaturesJson;
const isFeatures = (entry: Entry): entry is FeaturesJson => 'features' in entry;
const tokensOf = (entries: readonly Entry[]): TokenJson[] => entries.filter((entry): entry is TokenJson => !isFeatures(entry));

async function encoded(record: number, changes: object = {}) {
  const { json } = await recordJson(dataset, record, encoder.with(changes), ['inference']);
  return { json, encoding: json.encodings[0]! };
}

describe('render --json', () => {
  it('has every token with the label of its position: the id at the next one', async () => {
    const { json, encoding } = await encoded(0);
    const { sample } = await encoder.encode(await dataset.read(0));
    const tokens = tokensOf(encoding.tokens);
    expect(tokens.map(({ id }) => id)).toEqual([...sample!.inputIds]);
    expect(tokens.map(({ label }) => label?.id ?? -100)).toEqual([...sample!.labels]);
    for (const [i, { label }] of tokens.entries()) if (label !== null) expect(label.id).toBe(tokens[i + 1]!.id);
    expect(
      tokens
        .filter(({ supervised }) => supervised)
        .map(({ text }) => text)
        .join(''),
    ).toBe('Das ist ein langer Satz.<|im_end|>');
    expect(json).toMatchObject({ id: 'first', place: { file: data.file, record: 0, line: 1 } });
    expect(encoding).toMatchObject({ cut: 0, length: tokens.length, error: null });
  });

  it('has the features of a picture as one entry, and images with grids and the numbers of their pictures', async () => {
    const { json, encoding } = await encoded(1);
    expect(encoding.tokens.filter(isFeatures).map(({ features, picture }) => [features, picture])).toEqual(
      Array.from({ length: 6 }, (_, picture) => [16, picture]),
    );
    expect(encoding.images.map(({ turn: shown, grid, pictures }) => ({ shown, grid, pictures }))).toEqual([
      { shown: 1, grid: { columns: 4, rows: 1 }, pictures: [0, 1, 2, 3, 4] },
      { shown: 1, grid: null, pictures: [5] },
    ]);
    expect(json.conversation.map(({ role, learned }) => [role, learned])).toEqual([
      ['system', false],
      ['user', false],
      ['assistant', true],
    ]);
  });

  it('marks what a limit cuts off: kept and cut tokens together are the whole record', async () => {
    const whole = tokensOf((await encoded(0)).encoding.tokens);
    const { encoding } = await encoded(0, { maxLength: whole.length - 3 });
    const tokens = tokensOf(encoding.tokens);
    expect(tokens.map(({ id }) => id)).toEqual(whole.map(({ id }) => id));
    expect(tokens.map(({ cut }) => cut ?? false)).toEqual(whole.map((_, i) => i >= whole.length - 3));
    expect(encoding).toMatchObject({ cut: 3, length: whole.length - 3 });
    expect(encoding.notices[0]).toMatch(/its end is cut off/);
  });

  it('shows a record of which nothing is left to learn, all cut, with its error', async () => {
    const { encoding } = await encoded(0, { maxLength: 16 });
    expect(encoding.error?.message).toMatch(/nothing to learn is left/);
    expect(encoding.tokens.every(({ cut }) => cut)).toBe(true);
    expect(encoding.tokens.length).toBeGreaterThan(16);
  });

  it('shows a record that is left out as cut, with the reason', async () => {
    const { encoding } = await encoded(0, { maxLength: 20, overlong: 'drop' });
    expect(encoding).toMatchObject({ error: null, length: 0 });
    expect(encoding.notices[0]).toMatch(/it is left out/);
    expect(encoding.tokens.every(({ cut }) => cut)).toBe(true);
  });

  it('refuses a record that there is not, or whose picture is missing', async () => {
    await expect(encoded(3)).rejects.toThrow(/a record below 3 for --record but received 3/);
    await expect(encoded(2)).rejects.toBeInstanceOf(UserError);
  });
});

describe('render --requests', () => {
  async function answers(...lines: readonly string[]) {
    const output: string[] = [];
    await answerRequests(dataset, encoder, Readable.from(lines.map((line) => `${line}\n`)), {
      write: (text) => output.push(text),
    });
    return output.map((text) => JSON.parse(text));
  }

  it('says that it is ready, and answers in order, mistakes as well', async () => {
    const [ready, bad, list, none, record, broken] = await answers(
      '{"id": 1, "record": -1}',
      '{"id": 2, "op": "list", "records": [0, 1, 2]}',
      'no JSON',
      '{"id": 3, "record": 0, "compat": "both"}',
      '{"id": 4, "record": 2}',
    );
    expect(ready).toMatchObject({ event: 'ready', records: 3, model_max_length: 2048 });
    expect(bad).toMatchObject({ id: 1, error: { message: expect.stringMatching(/an integer from 0 to 2/) } });
    expect(list.result.previews).toMatchObject([
      { record: 0, question: 'Was ist das?', images: 0 },
      { record: 1, images: 2 },
      { record: 2, error: { record: 2, cure: expect.any(String) } },
    ]);
    expect(none).toMatchObject({ id: null, error: { message: expect.stringMatching(/a JSON object for a request/) } });
    expect(record.result.encodings.map(({ compat }: { compat: string }) => compat)).toEqual(['inference', 'official']);
    expect(broken).toMatchObject({ id: 4, error: { file: data.file } });
  });

  it('gives the pixels that the model sees, and the files smaller', async () => {
    const [, picture, image] = await answers(
      '{"op": "picture", "record": 1, "picture": 1}',
      '{"op": "image", "record": 1, "image": 0, "width": 50}',
    );
    const { sample } = await encoder.encode(await dataset.read(1));
    const { rows, cols } = sample!.pictures[1]!;
    const size = await sharp(Buffer.from(picture.result.base64, 'base64')).metadata();
    expect(size).toMatchObject({ format: 'webp', width: 14 * cols, height: 14 * rows });
    expect(image.result).toMatchObject({ width: 50, type: 'image/webp' });
  });

  it('takes limits from a request', async () => {
    const [, short] = await answers('{"record": 0, "model_max_length": 45}');
    expect(short.result.encodings[0]).toMatchObject({ length: 45 });
    expect(short.result.encodings[0].cut).toBeGreaterThan(0);
  });
});
