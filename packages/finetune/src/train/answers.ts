/**
 * The model's answers to fixed evaluation records. `--eval_generate N` shows how they change during a training:
 *
 *     eval/step-<n>/answers.jsonl   question, reference, answer and metrics, a line for each record
 *     eval/step-<n>/model.json      which weights answered, by their content
 *     eval/images/                  the records' images and frames of their videos, once, named by their content
 *
 * and the same for TensorBoard. Greedy, so that nothing is drawn from the run's random generator. Not here: the loss (evaluate.ts).
 */
import { copyFileSync, writeFileSync } from 'node:fs';
import { extname, posix } from 'node:path';
import { LoadedModel, setLoraTraining, tensorsFingerprint } from '@minicpm-finetune/minicpm-v';
import { chatTemplate, decodeImage, encodePrompt, type ImageSource, Tokenizer } from '@minicpm-finetune/processor';
import { RUN_FILES } from '@minicpm-finetune/run';
import sharp from 'sharp';
import {
  type AnswerLine,
  contentOf,
  fixedRecords,
  picturesOf,
  type Question,
  type QuestionContent,
  questionOf,
} from '../data/question.js';
import type { DataRecord } from '../data/record.js';
import { agree, exchangeTexts, fromFirstAsync } from '../parallel/agree.js';
import { asTask } from '../report/reporter.js';
import { type AnswerMetrics, answerMetrics, meanMetrics } from './metrics.js';
import type { Run } from './run.js';
import { framesOfStrip, stripsOf, type VideoStrip } from './video-strips.js';

/** A line of answers.jsonl. Metrics are there if the record has an answer of its own. */
export interface EvalAnswer extends AnswerLine, Partial<AnswerMetrics> {
  /** Files relative to the line's own. */
  readonly images: readonly string[];
  /** Of each video, where there is one: files of some of the frames that the model sees, their times in seconds, and how many it sees. */
  readonly videos?: readonly {
    readonly frames: readonly string[];
    readonly times: readonly number[];
    readonly seen: number;
  }[];
}

export interface EvalAnswers {
  /** Means over the records with a reference; null if there is none. */
  readonly metrics: AnswerMetrics | null;
  /** answers.jsonl relative to the run folder; null if it could not be written. */
  readonly file: string | null;
}

/** Answers are cut at twice the longest reference, but not below this. */
const LEAST_TOKENS = 32;
/** Longest side of a picture in TensorBoard. */
const BOARD_SIDE = 256;

interface Asked {
  readonly index: number;
  readonly record: DataRecord;
  readonly question: Question;
  readonly content: QuestionContent;
  readonly strips: readonly VideoStrip[];
}

/**
 * Answers the fixed records, all ranks together, and writes them to the run folder; if that fails the run goes on, with a warning.
 * Collective.
 */
export async function answerRecords(run: Run): Promise<EvalAnswers> {
  const { log, ranks } = run;
  const { step } = run.state;
  const asked = await agree(ranks, 'records to answer', () => readAsked(run));
  const lines = await answerAll(run, asked);
  const scored = lines.flatMap(({ answer, reference }) =>
    reference === undefined ? [] : [answerMetrics(answer, reference)],
  );
  const metrics = scored.length === 0 ? null : meanMetrics(scored);
  try {
    return { metrics, file: await fromFirstAsync(ranks, 'answers', () => writeAnswers(run, asked, lines)) };
  } catch (error) {
    const message = `ANSWERS NOT SAVED at step ${step}: ${(error as Error).message} The run goes on.`;
    if (ranks.rank === 0) log.warn('write_failed', message, step);
    return { metrics, file: null };
  }
}

async function readAsked({ config, data }: Run): Promise<Asked[]> {
  const dataset = data.evaluation!;
  const asked: Asked[] = [];
  const known = new Map<string, string>();
  for (const index of fixedRecords(dataset.length, config.eval.eval_generate)) {
    const record = await dataset.read(index);
    const question = questionOf(record);
    const content = await contentOf(question, known);
    asked.push({ index, record, question, content, strips: await stripsOf(question, content, data.encoder) });
  }
  return asked;
}

/** The answers in the order of the records: in rounds, in which each rank answers one batch. */
async function answerAll(run: Run, asked: readonly Asked[]): Promise<EvalAnswer[]> {
  const { config, data, training, log, ranks } = run;
  const options = { ...data.encoder, tokenizer: Tokenizer.load(data.encoder.tokenizerFolder) };
  const model = new LoadedModel(training.model, chatTemplate(options.llmType, options.tokenizer));
  const maxNewTokens = await answerLength(asked, options.tokenizer);
  const size = config.batch.per_device_eval_batch_size;
  const task = { label: 'Answering', total: asked.length, unit: 'records' };
  const lines: EvalAnswer[] = [];
  const answerOf = async (batch: readonly Asked[]): Promise<EvalAnswer[]> => {
    const prompts = [];
    for (const { question } of batch) prompts.push(await encodePrompt(question.messages, options));
    const answers = prompts.length === 0 ? [] : await model.answer(prompts, { maxNewTokens });
    return batch.map((one, k) => {
      const { text: answer, tokens, end } = answers[k]!;
      return lineOf(one, { answer, tokens, end });
    });
  };
  setLoraTraining(training.model, false);
  try {
    await asTask(log.reporter, task, async (update) => {
      for (let first = 0; first < asked.length; first += size * ranks.size) {
        const start = first + size * ranks.rank;
        const own = await agree(ranks, 'answers', () => answerOf(asked.slice(start, start + size)));
        const all = exchangeTexts(ranks.group, JSON.stringify(own), 'answers');
        for (const text of all) lines.push(...(JSON.parse(text) as EvalAnswer[]));
        update(lines.length);
      }
    });
  } finally {
    setLoraTraining(training.model, true);
  }
  return lines;
}

async function answerLength(asked: readonly Asked[], tokenizer: Tokenizer): Promise<number> {
  let longest = 0;
  for (const { question } of asked) {
    if (question.reference === null) continue;
    longest = Math.max(longest, (await tokenizer.encode(question.reference)).length);
  }
  return Math.max(LEAST_TOKENS, 2 * longest);
}

function lineOf(
  { index, record, question, content, strips }: Asked,
  answer: Pick<EvalAnswer, 'answer' | 'tokens' | 'end'>,
): EvalAnswer {
  const { text, reference } = question;
  return {
    record: index,
    ...(record.id === undefined ? {} : { id: record.id }),
    question: text,
    ...(reference === null ? {} : { reference }),
    ...answer,
    ...(reference === null ? {} : answerMetrics(answer.answer, reference)),
    content,
    images: imageNames(question, content).map(besideLine),
    ...(strips.length > 0 && {
      videos: strips.map(({ names, times, seen }) => ({ frames: names.map(besideLine), times, seen })),
    }),
  };
}

const besideLine = (name: string): string => posix.join('..', 'images', name);

/** `<hash of the content><.ext>`, of each picture in order; for embedded bytes, the extension follows from their magic number. */
function imageNames(question: Question, content: QuestionContent): string[] {
  return picturesOf(question).map((source, k) => {
    const extension = typeof source === 'string' ? extname(source).toLowerCase() : extensionOf(source);
    return `${content.images[k]}${extension}`;
  });
}

function extensionOf(bytes: Uint8Array): string {
  const start = Buffer.from(bytes.subarray(0, 4)).toString('latin1');
  if (start === '\x89PNG') return '.png';
  if (start.startsWith('\xff\xd8')) return '.jpg';
  if (start === 'GIF8') return '.gif';
  if (start === 'RIFF') return '.webp';
  return start.startsWith('BM') ? '.bmp' : '';
}

/** Writes images and lines; returns the file of the lines relative to the run folder. */
async function writeAnswers(run: Run, asked: readonly Asked[], lines: readonly EvalAnswer[]): Promise<string> {
  const { step } = run.state;
  const { own } = run.output;
  for (const { index, question, content, strips } of asked) {
    const names = imageNames(question, content);
    for (const [k, source] of picturesOf(question).entries()) {
      const name = posix.join(RUN_FILES.answers, 'images', names[k]!);
      if (own.ownership(name) === 'own') continue;
      own.put(name, (path) => (typeof source === 'string' ? copyFileSync(source, path) : writeFileSync(path, source)));
      await showImage(run, `eval/record ${index}${k === 0 ? '' : `, image ${k}`}`, source);
    }
    for (const strip of strips) await writeStrip(run, strip);
  }
  const file = posix.join(RUN_FILES.answers, `step-${step}`, 'answers.jsonl');
  own.put(file, (path) => writeFileSync(path, lines.map((line) => `${JSON.stringify(line)}\n`).join('')));
  const model = posix.join(posix.dirname(file), 'model.json');
  own.put(model, (path) => writeFileSync(path, `${JSON.stringify(modelOf(run), null, 2)}\n`));
  run.log.board?.text(step, 'eval/answers', markdown(lines));
  return file;
}

async function writeStrip({ output: { own }, config }: Run, strip: VideoStrip): Promise<void> {
  const fileOf = (name: string): string => posix.join(RUN_FILES.answers, 'images', name);
  if (strip.names.every((name) => own.ownership(fileOf(name)) === 'own')) return;
  for await (const [name, jpeg] of framesOfStrip(strip, config.data.max_image_pixels))
    if (own.ownership(fileOf(name)) !== 'own') own.put(fileOf(name), (path) => writeFileSync(path, jpeg));
}

/** Which model answered: its base, and the content of what was trained up to here. */
function modelOf({ config, state, training }: Run): object {
  const trained = [...training.trainable].map(([name, { data }]) => [name, data] as const);
  return { step: state.step, model: config.model.model_name_or_path, trained: tensorsFingerprint(trained) };
}

async function showImage({ log, config, state }: Run, tag: string, source: ImageSource): Promise<void> {
  if (log.board === null) return;
  const { width, height, data } = await decodeImage(source, { maxImagePixels: config.data.max_image_pixels });
  const raw = { width, height, channels: 3 } as const;
  const small = { width: BOARD_SIDE, height: BOARD_SIDE, fit: 'inside', withoutEnlargement: true } as const;
  const made = await sharp(data, { raw }).resize(small).png().toBuffer({ resolveWithObject: true });
  log.board.image(state.step, { tag, png: made.data, width: made.info.width, height: made.info.height });
}

function markdown(lines: readonly EvalAnswer[]): string {
  const cell = (text: string): string => text.replaceAll('|', '\\|').replaceAll('\n', '<br>');
  const rows = lines.map(
    ({ record, question, reference = '', answer }) =>
      `| ${record} | ${cell(question)} | ${cell(reference)} | ${cell(answer)} |`,
  );
  return ['| record | question | reference | answer |', '|---|---|---|---|', ...rows].join('\n');
}
