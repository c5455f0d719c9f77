import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { EncodedPicture } from '@minicpm-finetune/processor';
import { ENGLISH } from '@minicpm-finetune/run';
import sharp from 'sharp';
import { beforeAll, describe, expect, it } from 'vitest';
import { parseFlags } from '../../src/cli/command.js';
import { renderCommand } from '../../src/cli/render/command.js';
import { contactSheet, headingOf, interleaved } from '../../src/cli/render/contact-sheet.js';
import { drawLabel, LETTER, undrawable } from '../../src/cli/render/labels.js';
import { type RenderedSample, renderRecord } from '../../src/cli/render/render.js';
import { diff } from '../../src/cli/render/token-diff.js';
import { Dataset } from '../../src/data/dataset.js';
import { Encoder, encoderSetup } from '../../src/data/encoder.js';
import { DATA_FLAGS, type MadeData, MODEL, MODEL_FLAGS, makeData } from '../support/made-data.js';

const turn = (role: string, content: string) => ({ role, content });
const RECORDS = [
  {
    conversations: [
      turn('user', 'Was ist das?'),
      turn('assistant', '汉字 🎉'),
      turn('user', 'user'),
      turn('assistant', 'assistant'),
    ],
  },
  {
    image: 'images/1.jpg',
    conversations: [turn('system', 'Be brief.'), turn('user', '<image>\nWhat?'), turn('assistant', 'That.')],
  },
  {
    image: { '<image_00>': 'images/0.jpg', '<image_01>': 'images/3.jpg' },
    conversations: [turn('user', '<image_01><image_00>Which?'), turn('assistant', 'Both.')],
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

/** The text of the tokens that pass. */
function said({ tokens }: RenderedSample, which: (token: RenderedSample['tokens'][number]) => boolean): string {
  return tokens
    .filter(which)
    .map(({ text }) => text)
    .join('');
}

describe('renderRecord', () => {
  it('tells who says each token and what is learned, characters of several tokens whole', async () => {
    const rendered = await renderRecord(dataset, 0, encoder, 'inference');
    expect(said(rendered, () => true)).toBe(await encoder.tokenizer.decode([...rendered.sample.inputIds]));
    expect(said(rendered, ({ supervised }) => supervised)).toBe('汉字 🎉<|im_end|>assistant<|im_end|>');
    expect(said(rendered, ({ role }) => role === 'user')).toBe(
      '<|im_start|>user\nWas ist das?<|im_end|>\n<|im_start|>user\nuser<|im_end|>\n',
    );
    expect(said(rendered, ({ role }) => role === 'system')).toMatch(/^<\|im_start\|>system\n.*<\|im_end\|>\n$/s);
    expect(rendered.tokens.every(({ learned }) => learned === undefined)).toBe(true);
  });

  it('shows an answer that is not learned as context, and says so', async () => {
    const marked = { ...turn('assistant', 'WRONG'), weight: 0 };
    const conversations = [turn('user', 'Q'), marked, turn('user', 'Again'), turn('assistant', 'RIGHT')];
    const { file } = await makeData(1, new Map([[0, { conversations }]]));
    const rendered = await renderRecord(await Dataset.open([file], () => {}), 0, encoder, 'inference');
    expect(said(rendered, ({ role }) => role === 'assistant')).toContain('assistant\nWRONG<|im_end|>');
    expect(said(rendered, ({ supervised }) => supervised)).toBe('RIGHT<|im_end|>');
    expect(rendered.notices).toEqual(['The answer in turn 1 is marked as not to be learned: it is context only.']);
  });

  it('marks the features of pictures, and finds the grids of images', async () => {
    const one = await renderRecord(dataset, 1, encoder, 'inference');
    expect(said(one, ({ role }) => role === 'system')).toBe('<|im_start|>system\nBe brief.<|im_end|>\n');
    expect(one.shownImages).toEqual([{ grid: { columns: 2, rows: 1 }, pictures: [0, 1, 2] }]);
    expect(one.tokens.filter(({ image }) => image)).toHaveLength(3 * 16);
    const two = await renderRecord(dataset, 2, encoder, 'inference');
    expect(two.shownImages.map(({ grid }) => grid)).toEqual([{ columns: 4, rows: 1 }, null]); // in the order of the text
  });

  it('shows what the official code teaches in place of a token', async () => {
    const official = await renderRecord(dataset, 0, encoder, 'official');
    const instead = official.tokens.filter(({ learned }) => learned !== undefined);
    expect(instead.map(({ text, learned }) => [text, learned])).toEqual([
      ['\n', '<|im_end|>'],
      ['\n', '<|im_end|>'],
    ]);
  });

  it('names the record that cannot be shown', async () => {
    await expect(renderRecord(dataset, 3, encoder, 'inference')).rejects.toMatchObject({
      file: data.file,
      record: 3,
      line: 4,
    });
    await expect(renderRecord(dataset, 4, encoder, 'inference')).rejects.toThrow(
      /a record below 4 for --record but received 4/,
    );
  });
});

describe('the contact sheet', () => {
  const INFOS = [
    { name: 'images/3.jpg', size: { width: 640, height: 160 }, turn: 0, role: 'user' },
    { name: 'images/0.jpg', size: { width: 42, height: 56 }, turn: 0, role: 'user' },
  ];

  it('shows the pixels of the pictures in their places, below their labels', async () => {
    const { sample, shownImages } = await renderRecord(dataset, 2, encoder, 'inference');
    const infos = INFOS.map((info, i) => ({ ...info, shown: shownImages[i]! }));
    const png = sharp(await contactSheet(sample.pictures, infos, [], 14));
    const { data: sheet, info } = await png.raw().toBuffer({ resolveWithObject: true });
    const pixel = (x: number, y: number) => [...sheet.subarray((y * info.width + x) * 3, (y * info.width + x) * 3 + 3)];
    const [overview, slice, , , , small] = sample.pictures;
    const at = (picture: EncodedPicture, x: number, y: number) => {
      const from = (y * picture.cols * 14 + x) * 3;
      return [...interleaved(picture, 14).subarray(from, from + 3)];
    };
    const cell = (picture: EncodedPicture): number => Math.max(picture.cols * 14, 9 * LETTER.width);
    const labels = 2 * LETTER.height;
    const heading = async (i: number): Promise<number> =>
      (await drawLabel(headingOf(i, infos[i]!), info.width - 16)).height + 8;
    const first = 8 + (await heading(0)) + labels;
    expect(pixel(8 + 5, first + 9)).toEqual(at(overview!, 5, 9));
    expect(pixel(8 + cell(overview!) + 16 + 3, first + 7)).toEqual(at(slice!, 3, 7));
    const second = first + Math.max(overview!.rows, slice!.rows) * 14 + 24 + (await heading(1)) + labels;
    expect(pixel(8 + 20, second + 30)).toEqual(at(small!, 20, 30));
    expect(pixel(2, 2)).toEqual([96, 96, 96]);
    const ink = (left: number, top: number, width: number, height: number): number => {
      let count = 0;
      for (let y = top; y < top + height; y++)
        for (let x = left; x < left + width; x++) count += pixel(x, y)[0] === 255 ? 1 : 0;
      return count;
    };
    const inkOf = async (text: string): Promise<number> =>
      (await drawLabel(text, 999)).data.filter((v) => v === 255).length / 4;
    expect(ink(8, first - labels, 108, LETTER.height)).toBe(await inkOf('overview'));
    expect(ink(8 + cell(overview!) + 16, first - labels, 108, LETTER.height)).toBe(await inkOf('slice 1'));
    expect(ink(8, 8, info.width - 16, LETTER.height)).toBeGreaterThan(400);
  });

  it('says of each image its file, size, turn and slices', async () => {
    expect(headingOf(0, { ...INFOS[0]!, shown: { grid: { columns: 4, rows: 2 }, pictures: [] } })).toBe(
      'image 0: images/3.jpg, 640x160, turn 0 (user), 8 slices, 4 in a row',
    );
    expect(headingOf(3, { ...INFOS[1]!, shown: { grid: null, pictures: [] } })).toBe(
      'image 3: images/0.jpg, 42x56, turn 0 (user), not sliced',
    );
    const file = (name: string): string => join(data.folder, 'images', name);
    const images = async (record: number, compat: 'inference' | 'official') =>
      (await renderRecord(dataset, record, encoder, compat)).images;
    expect(await images(1, 'inference')).toEqual([{ source: file('1.jpg'), turn: 1, role: 'user' }]);
    expect(await images(2, 'inference')).toEqual([
      { source: file('3.jpg'), turn: 0, role: 'user' },
      { source: file('0.jpg'), turn: 0, role: 'user' },
    ]);
    expect((await images(2, 'official')).map(({ source }) => source)).toEqual([file('0.jpg'), file('3.jpg')]);
    expect(await images(0, 'inference')).toEqual([]);
  });

  it('knows the turn of each picture of a longer conversation, also of one without a tag', async () => {
    const many = await makeData(
      2,
      new Map(
        [
          {
            image: { '<image_00>': 'images/0.jpg', '<image_01>': 'images/1.jpg' },
            conversations: [
              turn('user', 'First <image_01>'),
              turn('assistant', 'A'),
              turn('user', 'Then <image_00>'),
              turn('assistant', 'B'),
            ],
          },
          { image: 'images/0.jpg', conversations: [turn('system', 'S'), turn('user', 'Q'), turn('assistant', 'A')] },
        ].entries(),
      ),
    );
    const own = await Dataset.open([many.file], () => {});
    const turns = async (record: number) =>
      (await renderRecord(own, record, encoder, 'inference')).images.map(({ turn: number }) => number);
    expect([await turns(0), await turns(1)]).toEqual([[0, 2], [1]]);
    await own.close();
  });

  it('undoes the patch layout: an unsliced picture of its own size comes back as it was decoded', async () => {
    const { sample } = await renderRecord(dataset, 2, encoder, 'inference');
    const decoded = await sharp(join(data.folder, 'images/0.jpg')).raw().toBuffer();
    expect(Buffer.compare(interleaved(sample.pictures.at(-1)!, 14), decoded)).toBe(0);
  });

  it('takes pictures in planes as they are', () => {
    const pixels = Uint8Array.from({ length: 3 * 28 * 14 }, (_, i) => i % 251);
    const rgb = interleaved({ pixels, shape: [3, 28, 14], rows: 2, cols: 1 }, 14);
    expect([...rgb.subarray(3, 6)]).toEqual([pixels[1], pixels[28 * 14 + 1], pixels[2 * 28 * 14 + 1]]);
  });
});

describe('labels', () => {
  const shape = ({ data: pixels, width }: Awaited<ReturnType<typeof drawLabel>>): string =>
    Array.from(
      { length: pixels.length / 4 },
      (_, i) => (pixels[4 * i + 3] ? '#' : '.') + ((i + 1) % width ? '' : '\n'),
    ).join('');

  it('have a glyph of its own for every printable character', async () => {
    const characters = Array.from({ length: 94 }, (_, i) => String.fromCharCode(33 + i));
    const shapes = await Promise.all(characters.map(async (one) => shape(await drawLabel(one, 100))));
    expect(new Set(shapes).size).toBe(94);
    expect(shapes.every((one) => one.includes('##'))).toBe(true);
  });

  it('draw a letter in double pixels', async () => {
    const rows = shape(await drawLabel('T', 100)).split('\n');
    expect(rows[0]).toBe('##########..');
    expect(rows[2]).toBe('....##......');
    expect(rows.slice(0, -1)).toHaveLength(LETTER.height);
  });

  it('break at spaces, or anywhere, and keep to their width', async () => {
    const lines = (text: string, letters: number) => drawLabel(text, letters * LETTER.width);
    expect(await lines('aa bb cc', 5)).toMatchObject({ width: 5 * LETTER.width, height: 2 * LETTER.height });
    expect(await lines('aaaaaaaaaaa', 5)).toMatchObject({ width: 5 * LETTER.width, height: 3 * LETTER.height });
    expect(await lines('x', 0)).toMatchObject({ width: LETTER.width, height: LETTER.height });
  });

  it('write characters without a font by their numbers', async () => {
    const nobody = '\u{10fffd}'; // no font has it
    expect(await undrawable(`a${nobody}b`)).toEqual([nobody]);
    expect(await drawLabel(`a${nobody}b`, 999)).toEqual(await drawLabel('a\\u{10fffd}b', 999));
  });

  it('draw other characters with the fonts of the machine, or by their numbers if it has none', async () => {
    for (const text of ['Müller', 'Ж', '发票', '🎉']) {
      const label = await drawLabel(text, 400);
      const found = (await undrawable(text)).length === 0;
      expect(shape(label)).toContain('#');
      const numbers = [...text]
        .map((one) => (one < '\x7f' ? one : `\\u{${one.codePointAt(0)!.toString(16)}}`))
        .join('');
      if (!found) expect(label).toEqual(await drawLabel(numbers, 400));
    }
  });
});

describe('diff', () => {
  it('is a shortest way from one to the other', () => {
    const runs = (a: string, b: string) =>
      diff([...a], [...b], (c) => c).map(({ kind, items }) => kind[0] + items.join(''));
    expect(runs('abcd', 'abcd')).toEqual(['babcd']);
    expect(runs('abcd', 'abXd')).toEqual(['bab', 'fc', 'sX', 'bd']);
    expect(runs('', 'ab')).toEqual(['sab']);
    expect(runs('ab', '')).toEqual(['fab']);
    expect(
      runs('abcabba', 'cbabac')
        .filter((run) => run[0] !== 'b')
        .join('')
        .replaceAll(/[fs]/g, ''),
    ).toHaveLength(5);
  });
});

describe('the command', () => {
  async function run(...words: string[]): Promise<{ code: number; out: string; err: string }> {
    const io = { out: '', err: '' };
    const stream = (key: 'out' | 'err') => ({
      write: (text: string) => {
        io[key] += text;
      },
    });
    const all = ['--data_path', data.file, '--model_name_or_path', MODEL, '--scale_resolution', '56', ...words];
    const code = await renderCommand.run(parseFlags(renderCommand.text, renderCommand.flags, all), {
      stdout: stream('out'),
      stderr: stream('err'),
      env: {},
      say: ENGLISH,
    });
    return { code, ...io };
  }

  it('prints lines of tokens without control characters when not on a terminal', async () => {
    const { code, out } = await run('--record', '1');
    expect(code).toBe(0);
    expect(out).not.toContain('\u001b');
    expect(out).toMatch(/--compat inference: \d+ tokens, \d+ learned, 3 pictures \(1 \+ 2x1\)/);
    expect(out.match(/\[16 features of a picture\]/g)).toHaveLength(3);
    expect(out).toMatch(/^ {2}\d+-\d+ +assistant \* \|[^|]+\|.*<\|im_end\|>\|$/m);
    expect((await run('--color', 'always')).out).toContain('\u001b[1;32m');
  });

  it('shows the difference of both encodings', async () => {
    const { out } = await run('--compat', 'both');
    expect(out).toMatch(/^- --compat official: .*\n\+ --compat inference: /m);
    expect(out).toMatch(/^Differences \(the same pixels\):$/m);
    expect(out).toMatch(/^- .*\* \|\\n⇒<\|im_end\|>\|$/m);
    expect(out).toMatch(/^\+ .* {3}\|\\n\|$/m);
  });

  it('writes the contact sheet, and says so when there is nothing to write', async () => {
    const file = join(data.folder, 'sheet.png');
    const { err } = await run('--record', '1', '--contact_sheet', file);
    expect(err.split('\n')[0]).toBe(`3 pictures written to ${file}`);
    expect((await sharp(readFileSync(file)).metadata()).format).toBe('png');
    const none = join(data.folder, 'none.png');
    expect((await run('--contact_sheet', none)).err).toMatch(/has no pictures/);
    expect(existsSync(none)).toBe(false);
  });

  it('refuses a bad record with its place', async () => {
    await expect(run('--record', '3')).rejects.toMatchObject({ record: 3, file: data.file });
    writeFileSync(join(data.folder, 'empty.json'), '[]');
    await expect(run('--data_path', join(data.folder, 'empty.json'))).rejects.toThrow(/at least one record/);
  });
});
