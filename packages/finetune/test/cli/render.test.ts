import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { ENGLISH } from '@minicpm-finetune/run';
import sharp from 'sharp';
import { beforeAll, describe, expect, it } from 'vitest';
import { parseFlags } from '../../src/cli/command.js';
import { renderCommand } from '../../src/cli/render/command.js';
import { contactSheet, interleaved } from '../../src/cli/render/contact-sheet.js';
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
    expect(one.grids).toEqual([{ columns: 2, rows: 1 }]);
    expect(one.tokens.filter(({ image }) => image)).toHaveLength(3 * 16);
    const two = await renderRecord(dataset, 2, encoder, 'inference');
    expect(two.grids).toEqual([{ columns: 4, rows: 1 }, null]); // in the order of the text
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
  it('shows the pixels of the pictures in their places', async () => {
    const { sample, grids } = await renderRecord(dataset, 2, encoder, 'inference');
    const png = sharp(await contactSheet(sample.pictures, grids, 14));
    const { data: sheet, info } = await png.raw().toBuffer({ resolveWithObject: true });
    const pixel = (x: number, y: number) => [...sheet.subarray((y * info.width + x) * 3, (y * info.width + x) * 3 + 3)];
    const [overview, slice, , , , small] = sample.pictures;
    const [width, height] = [overview!.cols * 14, overview!.rows * 14];
    const at = (rgb: Uint8Array, w: number, x: number, y: number) => [
      ...rgb.subarray((y * w + x) * 3, (y * w + x) * 3 + 3),
    ];
    expect(pixel(8 + 5, 8 + 9)).toEqual(at(interleaved(overview!, 14), width, 5, 9));
    expect(pixel(24 + width + 3, 8 + 7)).toEqual(at(interleaved(slice!, 14), slice!.cols * 14, 3, 7));
    const top = 8 + Math.max(height, slice!.rows * 14) + 16;
    expect(pixel(8 + 20, top + 30)).toEqual(at(interleaved(small!, 14), small!.cols * 14, 20, 30));
    expect(pixel(2, 2)).toEqual([96, 96, 96]);
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
    expect((await run('--record', '1', '--contact_sheet', file)).err).toBe(`3 pictures written to ${file}\n`);
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
