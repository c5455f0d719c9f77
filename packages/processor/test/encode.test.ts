/** Whole records: images and text together, lengths, and every mistake a record can have. */
import { mkdtempSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { UserError } from '@minicpm-finetune/run';
import sharp from 'sharp';
import { beforeAll, describe, expect, it } from 'vitest';
import { type EncodeNotice, encodePrompt, encodeRecord, type RecordOptions } from '../src/encode.js';
import { Tokenizer } from '../src/tokenizer.js';

const FIXTURES = join(import.meta.dirname, 'fixtures');
const folder = mkdtempSync(join(tmpdir(), 'encode-'));
const QUERIES = 4;
const notices: EncodeNotice[] = [];
const options: RecordOptions = {
  tokenizer: Tokenizer.load(join(FIXTURES, 'tokenizers/minicpm-v-2_6')),
  llmType: 'qwen',
  sliceConfig: { maxSliceNums: 4, scaleResolution: 56, patchSize: 14 },
  patchSize: 14,
  pictureTokens: { queryNum: QUERIES },
  batchVision: true,
  maxLength: 2048,
  imageRoot: folder,
  notice: (notice) => notices.push(notice),
};

const user = (content: string) => ({ role: 'user', content }) as const;
const assistant = (content: string) => ({ role: 'assistant', content }) as const;
const system = (content: string) => ({ role: 'system', content }) as const;

/** Pictures of one colour, so that their order can be seen. */
async function picture(name: string, width: number, height: number, level: number): Promise<void> {
  const background = { r: level, g: level, b: level };
  await sharp({ create: { width, height, channels: 3, background } })
    .png()
    .toFile(join(folder, name));
}

beforeAll(async () => {
  await Promise.all([
    picture('small.png', 40, 40, 10),
    picture('big.png', 112, 112, 200),
    picture('thin.png', 1, 5000, 5),
  ]);
  writeFileSync(join(folder, 'broken.png'), 'no picture');
});

async function shown(ids: ArrayLike<number>): Promise<string> {
  const text = await options.tokenizer.decode(Array.from(ids));
  return text
    .replaceAll('<unk>'.repeat(QUERIES), '#')
    .replace('<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n', '');
}

async function encoded(record: Parameters<typeof encodeRecord>[0], changes: Partial<RecordOptions> = {}) {
  notices.length = 0;
  const sample = await encodeRecord(record, { ...options, ...changes });
  return sample!;
}

describe('a record', () => {
  it('with one image and no tag has it in front of the first question', async () => {
    const sample = await encoded({ image: 'small.png', conversations: [user('What?'), assistant('Grey.')] });
    expect(await shown(sample.inputIds)).toBe(
      '<|im_start|>user\n<image_id>0</image_id><image>#</image>\nWhat?<|im_end|>\n<|im_start|>assistant\nGrey.<|im_end|>\n',
    );
    expect(sample.imageBounds.length).toBe(1);
    expect(sample.pictures.map(({ shape, rows, cols }) => ({ shape, rows, cols }))).toEqual([
      { shape: [3, 14, 14 * 16], rows: 4, cols: 4 },
    ]);
    expect(structuredClone(sample)).toEqual(sample);
  });

  it.each([
    ['<image>\nWhat?', '<image_id>0</image_id><image>#</image>\nWhat?'],
    ['<image>What?', '<image_id>0</image_id><image>#</image>\nWhat?'],
    ['Look at <image> now', 'Look at\n<image_id>0</image_id><image>#</image>\nnow'],
    ['What? \n\n <image>', 'What?\n<image_id>0</image_id><image>#</image>'],
  ])('joins text and image with one newline: %j', async (content, expected) => {
    const sample = await encoded({ image: 'small.png', conversations: [user(content), assistant('x')] });
    expect(await shown(sample.inputIds)).toBe(
      `<|im_start|>user\n${expected}<|im_end|>\n<|im_start|>assistant\nx<|im_end|>\n`,
    );
    expect(sample.pictures.length).toBe(sample.imageBounds.length);
  });

  it('finds a tag in a later turn', async () => {
    const conversations = [user('Hi'), assistant('Hello'), user('<image> This?'), assistant('x')];
    expect(await shown((await encoded({ image: 'small.png', conversations })).inputIds)).toContain(
      'user\nHi<|im_end|>\n<|im_start|>assistant\nHello<|im_end|>\n<|im_start|>user\n<image_id>0</image_id>',
    );
  });

  it('has pictures in the order of the text, not of the record', async () => {
    const image = { '<image_00>': 'small.png', '<image_01>': 'big.png' };
    const sample = await encoded({ image, conversations: [user('<image_01> or <image_00>'), assistant('x')] });
    expect(sample.pictures.map(({ pixels }) => pixels[0])).toEqual([200, 200, 200, 200, 200, 10]);
    expect(sample.imageBounds.length).toBe(6);
  });

  it('numbers tags with the digits of any script', async () => {
    const record = { image: { '<image_０１>': 'small.png' }, conversations: [user('<image_０１>?'), assistant('x')] };
    expect((await encoded(record)).pictures.length).toBe(1);
  });

  it('may have no image', async () => {
    for (const image of [undefined, null, {}]) {
      const sample = await encoded({
        ...(image === undefined ? {} : { image }),
        conversations: [user('Hi'), assistant('x')],
      });
      expect([sample.imageBounds, sample.pictures]).toEqual([[], []]);
    }
  });

  it('may begin with a system turn', async () => {
    const sample = await encoded({ conversations: [system('Be brief.'), user('Hi'), assistant('x')] });
    expect(await shown(sample.inputIds)).toMatch(
      /^<\|im_start\|>system\nBe brief\.<\|im_end\|>\n<\|im_start\|>user\nHi/,
    );
  });

  it('may show an image as bytes', async () => {
    const image = new Uint8Array(await sharp(join(folder, 'small.png')).jpeg().toBuffer());
    expect((await encoded({ image, conversations: [user('?'), assistant('x')] })).pictures.length).toBe(1);
  });

  it('is the same twice in a row', async () => {
    const record = { image: 'big.png', conversations: [user('?'), assistant('x')] };
    expect(await encoded(record)).toEqual(await encoded(record));
  });
});

describe('a record that is too long', () => {
  const answer = assistant('word '.repeat(30).trim());
  const record = { image: 'big.png', conversations: [user('What?'), answer] };

  it('gets fewer slices first', async () => {
    const whole = await encoded(record);
    const sample = await encoded(record, { maxLength: whole.inputIds.length - 1 });
    expect([whole.pictures.length, sample.pictures.length]).toEqual([5, 3]); // 3 allowed slices make a grid of 1x2
    expect(sample.inputIds.length).toBeLessThan(whole.inputIds.length);
    expect(sample.labels.filter((label) => label !== -100)).toEqual(whole.labels.filter((label) => label !== -100));
    expect(notices).toEqual([{ kind: 'fewer_slices', message: expect.stringContaining('5 pictures became 3') }]);
  });

  it('then loses the end of its text', async () => {
    const unsliced = await encoded(record, { sliceConfig: { ...options.sliceConfig!, maxSliceNums: 1 } });
    const maxLength = unsliced.inputIds.length - 5;
    const sample = await encoded(record, { maxLength });
    expect(sample.inputIds).toEqual(unsliced.inputIds.slice(0, maxLength));
    expect(sample.labels.at(-1)).toBe(-100);
    expect(notices.map(({ kind }) => kind)).toEqual(['fewer_slices', 'truncate_text']);
  });

  it('keeps all slices when only text may be cut', async () => {
    const whole = await encoded(record);
    const sample = await encoded(record, { maxLength: whole.inputIds.length - 1, overlong: 'truncate_text' });
    expect(sample.pictures.length).toBe(5);
    expect(sample.inputIds).toEqual(whole.inputIds.slice(0, -1));
  });

  it('never has an image cut in two', async () => {
    const image = { '<image_00>': 'small.png', '<image_01>': 'big.png' };
    const two = { image, conversations: [user('<image_00>'), assistant('Yes.'), user('<image_01>'), assistant('No.')] };
    const whole = await encoded(two);
    const unk = options.tokenizer.requireId('<unk>');
    const [first, last] = [whole.imageBounds[1]![0], whole.imageBounds.at(-1)![1]];
    for (let maxLength = first; maxLength <= last; maxLength++) {
      const sample = await encoded(two, { maxLength, overlong: 'truncate_text' });
      expect(sample.pictures.length).toBe(1);
      expect(sample.imageBounds).toEqual(whole.imageBounds.slice(0, 1));
      expect(sample.inputIds.filter((id) => id === unk).length).toBe(QUERIES);
      expect(sample.inputIds.length).toBeLessThanOrEqual(maxLength);
    }
  });

  it('is refused when nothing to learn would be left', async () => {
    const error: unknown = await encoded(record, { maxLength: 10 }).catch((e: unknown) => e);
    expect(error).toMatchObject({ flag: '--model_max_length' });
    expect((error as Error).message).toContain('nothing to learn is left');
  });

  it('is left out, or an error, when asked', async () => {
    expect(await encoded(record, { maxLength: 60, overlong: 'drop' })).toBeNull();
    expect(notices.map(({ kind }) => kind)).toEqual(['drop']);
    await expect(encoded(record, { maxLength: 60, overlong: 'error' })).rejects.toThrow(
      /at most 60 tokens for a record but received \d+ \(\d+ of them for 5 pictures of 1 images\)/,
    );
  });
});

describe('a mistake', () => {
  const fine = [user('Hi'), assistant('x')];
  it.each<[string, unknown, number | undefined, string]>([
    ['no object', 'text', undefined, 'Expected an object for a record but received "text"'],
    [
      'no conversation',
      { image: 'small.png' },
      undefined,
      'a list of turns with role and content for the key conversations',
    ],
    ['an empty conversation', { conversations: [] }, undefined, '0 turns without one'],
    [
      'another role',
      { conversations: [user('Hi'), { role: 'bot', content: 'x' }] },
      1,
      'user or assistant (or system for the first turn) for the key conversations.1.role but received "bot"',
    ],
    [
      'no text',
      { conversations: [user('Hi'), { role: 'assistant', content: null }] },
      1,
      'Expected text for the key conversations.1.content but received null',
    ],
    ['a list of images', { image: ['small.png'], conversations: fine }, undefined, 'an object of tags and paths'],
    ['a number as image', { image: 5, conversations: fine }, undefined, 'for the key image but received 5'],
    [
      'the assistant first',
      { conversations: [assistant('x'), user('Hi')] },
      0,
      'Expected user for the role of the first turn',
    ],
    [
      'the assistant after the system',
      { conversations: [system('s'), assistant('x')] },
      1,
      'Expected user for the role of the first turn',
    ],
    ['no assistant', { conversations: [user('Hi'), user('Anyone?')] }, undefined, 'Expected a turn of the assistant'],
    [
      'a late system turn',
      { conversations: [user('Hi'), system('s'), assistant('x')] },
      1,
      'Expected the system turn first',
    ],
    [
      'a tag without image',
      { conversations: [user('<image> Hi'), assistant('x')] },
      0,
      'the tag <image> in the text but the record has no image',
    ],
    [
      'an unknown tag',
      { image: { '<image_00>': 'small.png' }, conversations: [user('<image_00> <image_07>'), assistant('x')] },
      0,
      'the tag <image_07> in the text but the record has <image_00>',
    ],
    [
      'an image without tag',
      { image: { '<image_00>': 'small.png' }, conversations: fine },
      undefined,
      'the tag <image_00> in the text for its image but it is in none of the 2 turns',
    ],
    [
      'a bad tag',
      { image: { picture: 'small.png' }, conversations: fine },
      undefined,
      'tags like <image_00> for the images of a record but received "picture"',
    ],
    [
      'an image in an answer',
      { image: 'small.png', conversations: [user('Hi'), assistant('<image>')] },
      1,
      'images in user turns only but received <image>',
    ],
    [
      'a special token',
      { conversations: [user('Hi'), assistant('a <|im_end|> b')] },
      1,
      'without special tokens in the turn of assistant but received <|im_end|>',
    ],
    [
      'a tag twice in a turn',
      { image: 'small.png', conversations: [user('<image> and <image>'), assistant('x')] },
      0,
      'Expected <image> once in the text for its picture but received it again',
    ],
    [
      'a tag in every turn',
      { image: 'small.png', conversations: [user('<image>\nA?'), assistant('x'), user('<image>\nB?'), assistant('y')] },
      2,
      'Expected <image> once',
    ],
    [
      'a numbered tag twice',
      { image: { '<image_00>': 'small.png' }, conversations: [user('<image_00> <image_00>'), assistant('x')] },
      0,
      'Expected <image_00> once',
    ],
    [
      'half a character',
      { conversations: [user('Hi'), assistant('cut \ud83d')] },
      1,
      'half of one, \\ud83d, as character 5: "cut \\ud83d"',
    ],
    [
      'half a character in a system prompt',
      { conversations: [system('\ude00'), ...fine] },
      0,
      'half of one, \\ude00, as character 1',
    ],
    [
      'half a character in a tag',
      { image: { '<image_0\ud83d>': 'small.png' }, conversations: fine },
      undefined,
      'received "<image_0\\ud83d>"',
    ],
    [
      "another tool's picture",
      { conversations: [user('<img>small.png</img> What?'), assistant('x')] },
      0,
      'Expected <image> for a picture in the text but received "<img>small.png</img>", and the record has no picture',
    ],
    [
      'no answer to learn',
      { conversations: [user('Hi'), { ...assistant('x'), supervised: false }] },
      undefined,
      'its only answer is marked as not to be learned',
    ],
    ['no file', { image: 'nowhere.png', conversations: fine }, 0, 'nowhere.png" but received no such file'],
    [
      'a broken file',
      {
        image: { '<image_00>': 'broken.png' },
        conversations: [user('Hi'), assistant('y'), user('<image_00>'), assistant('x')],
      },
      2,
      'broken.png but received text that begins with "no picture"',
    ],
    ['a picture too thin', { image: 'thin.png', conversations: fine }, 0, '1x5000, which would become'],
  ])('is named: %s', async (_, record, turn, message) => {
    const error: unknown = await encoded(record as Parameters<typeof encodeRecord>[0]).catch((e: unknown) => e);
    expect(error).toBeInstanceOf(UserError);
    expect((error as UserError).message).toContain(message);
    expect((error as UserError).message).toMatch(/^Expected .* but /);
    expect((error as UserError).turn).toBe(turn);
    expect((error as UserError).cure).toBeTruthy();
  });

  it.each(['a \ud83d', '<img>a.png</img> Q', '![](a.png)'])(
    'is named with --compat official, too: %j',
    async (text) => {
      const record = { image: {}, conversations: [user(text), assistant('x')] };
      await expect(encoded(record, { compat: 'official' })).rejects.toMatchObject({ turn: 0 });
      await expect(encoded(record)).rejects.toMatchObject({ turn: 0 });
    },
  );

  it('is named: a picture too large', async () => {
    const error: unknown = await encoded({ image: 'big.png', conversations: fine }, { maxImagePixels: 12_000 }).catch(
      (e: unknown) => e,
    );
    expect(error).toMatchObject({ flag: '--max_image_pixels', turn: 0 });
  });

  it('is named: a system turn where the model knows none', async () => {
    const tokenizer = Tokenizer.load(join(FIXTURES, 'tokenizers/minicpm-v-2'));
    const changes = { tokenizer, llmType: 'minicpm', batchVision: false } as const;
    await expect(encoded({ conversations: [system('s'), ...fine] }, changes)).rejects.toThrow(
      '--llm_type minicpm but received system',
    );
  });

  it('is not special text that is allowed', async () => {
    const record = { conversations: [user('What is <|im_start|>?'), assistant('A mark like <|im_end|>.')] };
    const sample = await encoded(record, { allowSpecialText: true });
    const end = options.tokenizer.requireId('<|im_end|>');
    expect(sample.inputIds.filter((id) => id === end).length).toBe(3); // system, user, assistant
    expect(await shown(sample.inputIds)).toContain('A mark like <|im_end|>.<|im_end|>');
    const html = { conversations: [user('Explain <img src="a.png">.'), assistant('A picture.')] };
    expect(await shown((await encoded(html, { allowSpecialText: true })).inputIds)).toContain('<img src="a.png">');
  });
});

describe('encodePrompt', () => {
  it('gives ids, bounds and pictures for the answer to come', async () => {
    const messages = [{ role: 'user', content: [{ image: 'big.png' }, 'What?'] }] as const;
    const prompt = await encodePrompt(messages, options);
    expect(prompt.imageBounds.length).toBe(5);
    expect(prompt.pictures.length).toBe(5);
    expect(await shown(prompt.inputIds)).toMatch(/What\?<\|im_end\|>\n<\|im_start\|>assistant\n$/);
  });

  it('leaves the last turn open when it is to be continued', async () => {
    const messages = [user('What?'), assistant('It is')];
    const open = await encodePrompt(messages, { ...options, continueFinal: true });
    expect(await shown(open.inputIds)).toMatch(/What\?<\|im_end\|>\n<\|im_start\|>assistant\nIt is$/);
    const answered = await encodePrompt(messages, options);
    expect(await shown(answered.inputIds)).toMatch(/It is<\|im_end\|>\n<\|im_start\|>assistant\n$/);
  });

  it('cuts an image into no more slices than its message allows, and others as ever', async () => {
    const ask = (...most: (number | undefined)[]) =>
      encodePrompt(
        [
          {
            role: 'user',
            content: most.map((maxSliceNums) => ({ image: 'big.png', ...(maxSliceNums && { maxSliceNums }) })),
          },
        ],
        options,
      );
    const counts: number[] = [];
    for (const most of [[undefined], [1], [1, undefined], [99]]) {
      const { imageBounds, pictures } = await ask(...most);
      expect(pictures.length).toBe(imageBounds.length);
      counts.push(pictures.length);
    }
    expect(counts).toEqual([5, 1, 6, 5]);
  });

  it('refuses special tokens in what the user asks', async () => {
    await expect(encodePrompt([user('<|im_end|>')], options)).rejects.toThrow('received <|im_end|>');
    await expect(encodePrompt([system('\ud83d'), user('Hi')], options)).rejects.toThrow('half of one');
  });
});
