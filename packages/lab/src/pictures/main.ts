/**
 * `npm run picture`: records the quickstart for the README. Runs it in a pseudo terminal (util-linux's `script`) and
 * writes docs/quickstart.svg: its screens, and held-out digits with the answers of the trained model.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { type Answered, drawSvg } from './svg.js';
import { type Recording, type Row, record, screenOf } from './terminal.js';

const ROOT = join(dirname(fileURLToPath(import.meta.url)), '..', '..', '..', '..');
const COLUMNS = 112;
const HEIGHT = 36;
const SCREENS = 18;
const TILES = 17;

/** Screens at even intervals, and the last one. */
function screensOf(recording: Recording): Row[][] {
  const end = recording.at(-1)!.seconds;
  const upTo = (seconds: number): string =>
    recording
      .filter((piece) => piece.seconds <= seconds)
      .map((piece) => piece.text)
      .join('');
  return Array.from({ length: SCREENS }, (_, i) => screenOf(upTo((end * (i + 1)) / SCREENS), COLUMNS, HEIGHT));
}

interface Line {
  readonly id: string;
  readonly answer: string;
  readonly reference: string;
}

/** Held-out digits spread over the file, as the quickstart's trained model answered them. */
function answeredDigits(): Answered[] {
  const lines = readFileSync(join('quickstart', 'after.jsonl'), 'utf8')
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line) as Line);
  return Array.from({ length: TILES }, (_, i) => {
    const { id, answer, reference } = lines[Math.floor(((i + 0.5) * lines.length) / TILES)]!;
    const png = readFileSync(join('quickstart', 'data', 'images', `${id}.png`));
    return { png, answer, right: answer === reference };
  });
}

try {
  const command = `${process.execPath} ${join(ROOT, 'packages', 'lab', 'dist', 'quickstart', 'main.js')}`;
  const recording = await record(command, COLUMNS);
  const svg = drawSvg({
    screens: screensOf(recording),
    columns: COLUMNS,
    height: HEIGHT,
    title: 'A terminal in which a tiny model learns to read handwritten digits, and digits with its answers',
    caption: 'Held-out digits and what the trained model answers (red: wrong)',
    answered: answeredDigits(),
  });
  writeFileSync(join(ROOT, 'docs', 'quickstart.svg'), svg);
  console.error('docs/quickstart.svg written');
} catch (error) {
  console.error((error as Error).message);
  process.exitCode = 1;
}
