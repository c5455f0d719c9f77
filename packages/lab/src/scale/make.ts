/**
 * Makes a large data set for measurements. Short questions and answers, every second record with a small picture. The
 * pictures are files of their own, with the content of a few hundred.
 *
 *     node packages/lab/dist/scale/make.js --records 300000 --pictures 150000 --output FOLDER
 */
import { closeSync, mkdirSync, openSync, writeFileSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { Command } from 'commander';
import sharp from 'sharp';

const CONTENTS = 200;
const WORDS = 'the a digit picture shows line of red blue small large number and with that is in two three word'.split(
  ' ',
);

/** Small integers below n, always the same. */
function numbers(seed: number): (n: number) => number {
  let state = seed + 1;
  return (n) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * n);
  };
}

/** Noise in bands, as JPEG: neither flat nor incompressible. */
async function picture(seed: number): Promise<Buffer> {
  const below = numbers(seed);
  const [width, height] = [40 + below(60), 40 + below(60)];
  const raw = Uint8Array.from({ length: width * height * 3 }, (_, i) => (((i / 60) | 0) % 5) * 40 + below(32));
  return await sharp(raw, { raw: { width, height, channels: 3 } })
    .jpeg({ quality: 80 })
    .toBuffer();
}

const below = numbers(1);
const sentence = (words: number): string => Array.from({ length: words }, () => WORDS[below(WORDS.length)]).join(' ');

const program = new Command()
  .requiredOption('--output <folder>')
  .option('--records <n>', '', Number, 300_000)
  .option('--pictures <n>', 'picture files; with fewer than half of the records they are used again', Number, 150_000)
  .parse();
const { output, records, pictures } = program.opts<{ output: string; records: number; pictures: number }>();
const contents = await Promise.all(Array.from({ length: CONTENTS }, (_, i) => picture(i)));
mkdirSync(output, { recursive: true });
const nameOf = (i: number): string => `images/${i % 100}/${i}.jpg`;
for (let i = 0; i < 100; i++) mkdirSync(join(output, 'images', String(i)), { recursive: true });
for (let i = 0; i < pictures; i++) writeFileSync(join(output, nameOf(i)), contents[i % CONTENTS]!);
const file = openSync(join(output, 'data.jsonl'), 'w');
for (let i = 0; i < records; i++) {
  const seen = i % 2 === 0;
  const question = `${seen ? '<image>\n' : ''}${sentence(4 + below(20))}?`;
  const record = {
    id: String(i),
    ...(seen ? { image: nameOf((i / 2) % pictures) } : {}),
    conversations: [
      { role: 'user', content: question },
      { role: 'assistant', content: `${sentence(4 + below(40))}.` },
    ],
  };
  writeSync(file, `${JSON.stringify(record)}\n`);
}
closeSync(file);
