/**
 * The answers to fixed records, with their pictures. Files are read when they are asked for; names in them are looked up in
 * the listing of `eval/images`, so no name leads anywhere else.
 */
import { createHash } from 'node:crypto';
import { lstatSync, readdirSync, readFileSync, realpathSync } from 'node:fs';
import { basename, join, relative, sep } from 'node:path';
import { RUN_FILES } from '@minicpm-finetune/run';
import type { AnswerIndex, AnswerRecord, ImageHandle, StepAnswers } from '../../shared/api.js';
import { ApiError } from '../errors.js';
import { answerSteps } from './details.js';
import type { KnownRun } from './known-run.js';
import type { RunRecord } from './run-record.js';

const LARGEST_FILE = 64 << 20;
const METRICS = ['exact_match', 'anls', 'rouge_l'] as const;

type Line = Readonly<Record<string, unknown>>;

/** All steps, and the records of all of them: a record of a later step may be new. */
export function answerIndex(run: KnownRun, record: RunRecord): AnswerIndex {
  const images = new Set(imageNames(run));
  const steps = answerSteps(run.folder);
  const records = new Map<number, AnswerRecord>();
  for (const step of [steps.at(-1), ...steps.slice(0, 1)]) {
    if (step === undefined) continue;
    for (const line of linesOf(run, step).lines) {
      const number = numberOf(line.record);
      if (number === null || records.has(number)) continue;
      records.set(number, {
        record: number,
        ...questionOf(line),
        images: handlesOf(run, line.images, images),
        videos: videosOf(run, line, images),
      });
    }
  }
  return {
    steps: steps.map((step) => {
      const event = record.evals.findLast((one) => one.event.step === step)?.event;
      return { step, epoch: event?.epoch ?? null, metrics: event?.metrics ?? {} };
    }),
    records: [...records.values()].sort((a, b) => a.record - b.record),
  };
}

/** @throws ApiError 404 */
export function stepAnswers(run: KnownRun, step: number): StepAnswers {
  if (!answerSteps(run.folder).includes(step))
    throw new ApiError(404, `Expected answers of step ${step} but there are none.`);
  const { lines, damaged } = linesOf(run, step);
  const answers = lines.flatMap((line) => {
    const record = numberOf(line.record);
    if (record === null) return [];
    const metrics = METRICS.flatMap((name) => {
      const value = numberOf(line[name]);
      return value === null ? [] : [[name, value] as const];
    });
    return [
      {
        record,
        answer: textOf(line.answer) ?? '',
        tokens: numberOf(line.tokens),
        end: textOf(line.end),
        metrics: Object.fromEntries(metrics),
      },
    ];
  });
  return { step, answers, damaged };
}

function linesOf(run: KnownRun, step: number): { lines: Line[]; damaged: number[] } {
  const path = join(run.folder, RUN_FILES.answers, `step-${step}`, 'answers.jsonl');
  const real = insideRun(run, path);
  if (real === null) return { lines: [], damaged: [] };
  const damaged: number[] = [];
  const lines = readFileSync(real, 'utf8')
    .split('\n')
    .flatMap((text, index): Line[] => {
      if (text.trim() === '') return [];
      try {
        const value: unknown = JSON.parse(text);
        if (typeof value === 'object' && value !== null) return [value as Line];
      } catch {
        // named below
      }
      damaged.push(index + 1);
      return [];
    });
  return { lines, damaged };
}

/** The real path of a file below the run folder; null: it is missing, too large, no file, or leads outside. */
function insideRun(run: KnownRun, path: string): string | null {
  const status = lstatSync(path, { throwIfNoEntry: false });
  if (!status?.isFile() || status.size > LARGEST_FILE) return null;
  const real = realpathSync(path);
  const way = relative(realpathSync(run.folder), real);
  return way === '..' || way.startsWith(`..${sep}`) ? null : real;
}

const numberOf = (value: unknown): number | null =>
  typeof value === 'number' && Number.isFinite(value) ? value : null;
const textOf = (value: unknown): string | null => (typeof value === 'string' ? value : null);

function questionOf(line: Line): Pick<AnswerRecord, 'id' | 'question' | 'reference'> {
  const { id } = line;
  const shownId = typeof id === 'string' || typeof id === 'number' ? String(id) : null;
  return { id: shownId, question: textOf(line.question) ?? '', reference: textOf(line.reference) };
}

function imageNames(run: KnownRun): string[] {
  try {
    const folder = join(run.folder, RUN_FILES.answers, 'images');
    return readdirSync(folder, { withFileTypes: true }).flatMap((entry) => (entry.isFile() ? [entry.name] : []));
  } catch {
    return [];
  }
}

function handlesOf(run: KnownRun, names: unknown, listed: ReadonlySet<string>): (ImageHandle | null)[] {
  if (!Array.isArray(names)) return [];
  return names.map((name: unknown) => {
    const file = typeof name === 'string' ? basename(name) : '';
    return listed.has(file) ? `${run.id}.${handleOfName(file)}` : null;
  });
}

function videosOf(run: KnownRun, { videos }: Line, listed: ReadonlySet<string>): AnswerRecord['videos'] {
  if (!Array.isArray(videos)) return [];
  return videos.map((video: unknown) => {
    const { frames, times, seen } = (typeof video === 'object' && video !== null ? video : {}) as Line;
    const timeOf = (index: number): number => numberOf(Array.isArray(times) ? times[index] : null) ?? 0;
    const shown = handlesOf(run, frames, listed).map((image, index) => ({ image, time: timeOf(index) }));
    return { frames: shown, seen: numberOf(seen) ?? shown.length };
  });
}

function handleOfName(name: string): string {
  return createHash('sha256').update(name).digest('base64url').slice(0, 22);
}

/** The run and the second part of a handle. */
export function splitHandle(handle: ImageHandle): [run: string, image: string] {
  const [run = '', image = ''] = handle.split('.', 2);
  return [run, image];
}

/** The file that a handle stands for, found in the listing. @throws ApiError 404 */
export function imageFile(run: KnownRun, image: string): string {
  const name = imageNames(run).find((one) => handleOfName(one) === image);
  const path = name === undefined ? null : insideRun(run, join(run.folder, RUN_FILES.answers, 'images', name));
  if (path === null) throw new ApiError(404, 'Expected a picture of the run but there is none of this handle.');
  return path;
}
