/** Data sets made for tests: real pictures, real tokenizer, and faults planted at known places. */
import { mkdirSync, mkdtempSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import sharp from 'sharp';
import { Random } from '../../src/data/random.js';

/** Folder of a tiny MiniCPM-V 2.6's config.json and tokenizer; no weights. */
export const MODEL = fileURLToPath(new URL('../fixtures/data/model', import.meta.url));

export const MODEL_FLAGS = { llm_type: 'qwen', max_slice_nums: 9, scale_resolution: 56 } as const;
export const DATA_FLAGS = {
  model_max_length: 2048,
  overlong: 'fewer_slices',
  compat: 'inference',
  thinking: 'inference',
  video_fps: null,
  video_max_frames: null,
  video_max_packing: null,
  video_max_slice_nums: null,
  allow_special_text: false,
  max_image_pixels: 100_000,
} as const;

/** The pictures that were made, by size and seed: most tests take the same ones. */
const made = new Map<string, Promise<Buffer>>();

/** A picture of bands of colour with noise, so that it is neither flat nor incompressible. */
export async function picture(width: number, height: number, seed: number): Promise<Buffer> {
  const key = [width, height, seed].join();
  const found = made.get(key) ?? makePicture(width, height, seed);
  made.set(key, found);
  return await found;
}

async function makePicture(width: number, height: number, seed: number): Promise<Buffer> {
  const random = new Random(seed);
  const colours = Uint8Array.from({ length: 24 }, () => random.below(224));
  const raw = new Uint8Array(width * height * 3);
  for (let y = 0, at = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const band = (((x * 4) / width) | 0) + (((y * 2) / height) | 0) * 4;
      for (let c = 0; c < 3; c++) raw[at++] = colours[band * 3 + c]! + (random.next() & 31);
    }
  }
  return sharp(raw, { raw: { width, height, channels: 3 } })
    .jpeg({ quality: 85 })
    .toBuffer();
}

export interface MadeData {
  readonly folder: string;
  readonly file: string;
  readonly records: number;
}

type Line = Record<string, unknown> | string;

const ask = (question: string, answer: string) => [
  { role: 'user', content: question },
  { role: 'assistant', content: answer },
];

/** A sound record: most have a picture of one of several sizes, some have two or none. */
export function soundRecord(i: number): Record<string, unknown> {
  const answer = `Picture ${i}, ${'word '.repeat(i % 7)}and that is all.`;
  if (i % 10 === 9) return { id: i, conversations: ask(`Say ${i}.`, answer) };
  if (i % 10 === 8) {
    const image = { '<image_00>': `images/${i % 16}.jpg`, '<image_01>': `images/${(i + 5) % 16}.jpg` };
    return { id: i, image, conversations: ask('<image_00>\n<image_01>\nCompare.', answer) };
  }
  return { id: i, image: `images/${i % 16}.jpg`, conversations: ask('<image>\nWhat is it?', answer) };
}

/** Writes a JSON Lines file of `records` records and its 16 pictures; `change` replaces lines by index. */
export async function makeData(records: number, change: ReadonlyMap<number, Line> = new Map()): Promise<MadeData> {
  const folder = mkdtempSync(join(tmpdir(), 'data-'));
  mkdirSync(join(folder, 'images'));
  const sizes = [
    [56, 56],
    [90, 60],
    [60, 130],
    [200, 40],
  ] as const;
  for (let i = 0; i < 16; i++) {
    const [width, height] = sizes[i % sizes.length]!;
    writeFileSync(join(folder, 'images', `${i}.jpg`), await picture(width, height, i));
  }
  await writeBadPictures(folder);
  const lines = Array.from({ length: records }, (_, i) => change.get(i) ?? soundRecord(i));
  const file = join(folder, 'data.jsonl');
  writeFileSync(file, lines.map((line) => `${typeof line === 'string' ? line : JSON.stringify(line)}\n`).join(''));
  return { folder, file, records };
}

async function writeBadPictures(folder: string): Promise<void> {
  const good = await picture(90, 60, 99);
  writeFileSync(join(folder, 'images/cut.jpg'), good.subarray(0, good.length / 2));
  writeFileSync(join(folder, 'images/garbage.jpg'), 'this is no picture at all');
  writeFileSync(join(folder, 'images/empty.png'), '');
  writeFileSync(join(folder, 'images/thin.jpg'), await picture(1, 5000, 1));
  writeFileSync(join(folder, 'images/large.jpg'), await picture(400, 300, 2));
}

/** One fault of every kind that a record can have, with what its message must say. */
export const FAULTS: readonly (readonly [line: Line, message: RegExp])[] = [
  [
    { image: 'images/gone.jpg', conversations: ask('Q', 'A') },
    /Expected the file "images\/gone.jpg" .* but there is none/,
  ],
  [{ image: 'images/cut.jpg', conversations: ask('Q', 'A') }, /cut.jpg but received a broken one/],
  [
    { image: 'images/garbage.jpg', conversations: ask('Q', 'A') },
    /garbage.jpg but received text that begins with "this is/,
  ],
  [{ image: 'images/empty.png', conversations: ask('Q', 'A') }, /empty.png but received an empty file/],
  [{ image: 'images/thin.jpg', conversations: ask('Q', 'A') }, /received one of 1x5000/],
  [{ image: 'images/large.jpg', conversations: ask('Q', 'A') }, /at most 100000 pixels but received 400x300/],
  [{ image: 'https://example.org/a.jpg', conversations: ask('Q', 'A') }, /Expected an image file .* received "https:/],
  [
    { image: ['images/1.jpg', 'images/2.jpg'], conversations: ask('<image>Q', 'A') },
    /one <image> in the text for each of the 2 images .* received 1/,
  ],
  [{ conversations: ask('<image>\nQ', 'A') }, /Expected an image for the tag <image>/],
  [
    { image: { '<image_00>': 'images/1.jpg' }, conversations: ask('Q', 'A') },
    /Expected the tag <image_00> in the text/,
  ],
  [
    { image: { '<image_00>': 'images/1.jpg' }, conversations: ask('<image_00> <image_01>', 'A') },
    /Expected an image for the tag <image_01>/,
  ],
  [
    {
      conversations: [
        { role: 'user', content: 'Q' },
        { role: 'bot', content: 'A' },
      ],
    },
    /received "bot"/,
  ],
  [
    {
      conversations: [
        { role: 'assistant', content: 'A' },
        { role: 'user', content: 'Q' },
      ],
    },
    /first turn but received assistant/,
  ],
  [{ conversations: [{ role: 'user', content: 'Q' }] }, /Expected a turn of the assistant/],
  [
    {
      conversations: [
        { role: 'user', content: 'Q' },
        { role: 'assistant', content: null },
      ],
    },
    /Expected text for the content .* received null/,
  ],
  [{ conversations: [...ask('Q', 'A'), { role: 'system', content: 'S' }] }, /received "system"/],
  [{ conversations: ask('What is <|im_end|>?', 'A') }, /without special tokens .* received <\|im_end\|>/],
  [
    {
      conversations: [
        { from: 'human', value: 'Q' },
        { role: 'assistant', content: 'A' },
      ],
    },
    /from and value for every turn .* received role and content/,
  ],
  [{ conversations: [] }, /empty list/],
  ['{"conversations": [{"role": "user", "content": "Q"},]}', /Expected a value .* in the JSON of a record/],
];

/** Spreads the faults over `records` indices, always the same. */
export function plantFaults(records: number): Map<number, (typeof FAULTS)[number]> {
  const places = new Random(5)
    .shuffle(Uint32Array.from({ length: records - 1 }, (_, i) => i + 1))
    .subarray(0, FAULTS.length);
  return new Map(FAULTS.map((fault, i) => [places[i]!, fault]));
}
