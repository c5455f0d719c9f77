/**
 * Answers a data file's questions, as JSON Lines. The question of a record is everything before its last assistant
 * turn, which is the reference; a record that ends in a user turn has none. The output can be resumed: each batch is
 * appended when it is answered, records that already have a line are not asked again, and a file beside it
 * (`<output>.settings.json`) holds the settings. Not here: reading data (data/), generation (minicpm-v).
 */
import { appendFileSync, existsSync, mkdirSync, readFileSync, renameSync, truncateSync, writeFileSync } from 'node:fs';
import { dirname, resolve } from 'node:path';
import { type LoadedModel, loadModel } from '@minicpm-finetune/minicpm-v';
import { checkPictureNames, type EncodedPrompt, imagesOf } from '@minicpm-finetune/processor';
import { shown, UserError } from '@minicpm-finetune/run';
import { Dataset } from '../../data/dataset.js';
import { type AnswerLine, type Question, questionOf } from '../../data/question.js';
import { type DataRecord, withWrittenTurn } from '../../data/record.js';
import { type DeviceName, explainingMemory, startEngine } from '../../engine/machine.js';
import { asTask, type Reporter, SILENT } from '../../report/reporter.js';
import { answerOptions, type ChatOptions } from '../chat/options.js';

export interface AnswerFileOptions extends Omit<ChatOptions, 'images' | 'prompt' | 'system'> {
  readonly dataPaths: readonly string[];
  /** JSON Lines file; an unfinished file is resumed. */
  readonly output: string;
  /** Records answered side by side. */
  readonly batchSize: number;
  readonly allowSpecialText: boolean;
}

export interface GenerateSummary {
  /** Answered so far: all, unless it was aborted. */
  readonly records: number;
  /** Of them, answered by earlier runs. */
  readonly resumed: number;
  /** Share of the answers that are exactly the reference, white space at the ends aside; null without references. */
  readonly exactMatch: number | null;
}

export interface GenerateContext {
  readonly reporter?: Reporter;
  /** Aborting it ends the work after the batch under way; what is answered stays in the file. */
  readonly signal?: AbortSignal;
}

/**
 * Answers all records of the data and writes a line for each.
 *
 * @throws UserError for a record that cannot be asked (with file and record), and for an output file made with other settings.
 */
export async function generateAnswers(
  options: AnswerFileOptions,
  { reporter = SILENT, signal }: GenerateContext = {},
): Promise<GenerateSummary> {
  const data = await Dataset.open(options.dataPaths, (message) => reporter.notice(message));
  try {
    const lines = openOutput(options, data.fingerprint);
    const done = new Set(lines.map(({ record }) => record));
    const missing = Array.from({ length: data.length }, (_, record) => record).filter((record) => !done.has(record));
    const task = { label: 'Answering', total: data.length, unit: 'records' };
    if (missing.length > 0) {
      const device = startEngine(options);
      await asTask(reporter, task, (update) =>
        explainingMemory(device, LESS_MEMORY, () =>
          answerMissing(missing, data, lines, { ...options, device }, { update, signal, reporter }),
        ),
      );
    }
    return summarize(lines, done.size);
  } finally {
    await data.close();
  }
}

const LESS_MEMORY =
  'Take a smaller --batch_size, --dtype bfloat16, a smaller --max_slice_nums or --max_new_tokens, or --device cpu.';

async function answerMissing(
  missing: readonly number[],
  data: Dataset,
  lines: AnswerLine[],
  options: AnswerFileOptions & { readonly device: DeviceName },
  {
    update,
    signal,
    reporter,
  }: { update: (done: number, note: string) => void; signal: AbortSignal | undefined; reporter: Reporter },
): Promise<void> {
  const { device, dtype } = options;
  using model = await loadModel({
    model: options.model,
    adapter: options.adapters,
    device,
    notice: (message) => reporter.notice(message),
    ...(dtype === null ? {} : { dtype }),
  });
  const otherSlices = model.otherSlices(answerOptions(options));
  if (otherSlices !== undefined) reporter.notice(otherSlices);
  let tokens = 0;
  for (let i = 0; i < missing.length && !signal?.aborted; i += options.batchSize) {
    const batch = await answerBatch(missing.slice(i, i + options.batchSize), data, model, options);
    appendFileSync(options.output, batch.map((line) => `${JSON.stringify(line)}\n`).join(''));
    lines.push(...batch);
    tokens += batch.reduce((sum, line) => sum + line.tokens, 0);
    update(lines.length, `${tokens} tokens`);
  }
}

async function answerBatch(
  records: readonly number[],
  data: Dataset,
  model: LoadedModel,
  options: AnswerFileOptions,
): Promise<AnswerLine[]> {
  const how = { ...answerOptions(options), allowSpecialText: options.allowSpecialText };
  const questions: { record: DataRecord; question: Question; prompt: EncodedPrompt }[] = [];
  for (const index of records) {
    let record: DataRecord | undefined;
    try {
      record = await data.read(index);
      if (!options.allowSpecialText) checkPictureNames(record.conversations, imagesOf(record));
      const question = questionOf(record);
      questions.push({ record, question, prompt: await model.encode(question.messages, how) });
    } catch (error) {
      const placed = record ? withWrittenTurn(error, record) : error;
      throw placed instanceof UserError ? placed.at(data.place(index)) : placed;
    }
  }
  const prompts = questions.map(({ prompt }) => prompt);
  const answers = await model.answer(prompts, { ...how, streams: records });
  return questions.map(({ record, question: { text, reference } }, i) => {
    const { text: answer, tokens, end } = answers[i]!;
    return {
      record: records[i]!,
      ...(record.id === undefined ? {} : { id: record.id }),
      question: text,
      ...(reference === null ? {} : { reference }),
      answer,
      tokens,
      end,
    };
  });
}

/** Settings that determine the answers. An existing output file is resumed only if they match. */
function settingsOf(options: AnswerFileOptions, data: string): Record<string, unknown> {
  const { model, adapters, maxNewTokens, temperature, topP, topK, repetitionPenalty, seed, dtype } = options;
  const { maxSliceNums, scaleResolution } = options;
  return {
    model: resolve(model),
    adapters: adapters.map((path) => resolve(path)),
    data,
    max_new_tokens: maxNewTokens,
    temperature,
    top_p: topP,
    top_k: topK,
    repetition_penalty: repetitionPenalty,
    seed,
    dtype,
    max_slice_nums: maxSliceNums,
    scale_resolution: scaleResolution,
  };
}

/** The lines that are there already. Starts the file, or checks that it was made the same way and cuts off a line without end. */
function openOutput(options: AnswerFileOptions, data: string): AnswerLine[] {
  const { output } = options;
  const settingsFile = `${output}.settings.json`;
  const settings = settingsOf(options, data);
  if (!existsSync(output)) {
    mkdirSync(dirname(resolve(output)), { recursive: true });
    writeFileSync(`${settingsFile}.tmp`, `${JSON.stringify(settings, null, 2)}\n`);
    renameSync(`${settingsFile}.tmp`, settingsFile);
    writeFileSync(output, '');
    return [];
  }
  const before = existsSync(settingsFile) ? (JSON.parse(readFileSync(settingsFile, 'utf8')) as typeof settings) : {};
  const other = Object.keys(settings).find((key) => JSON.stringify(before[key]) !== JSON.stringify(settings[key]));
  if (other !== undefined) {
    throw new UserError(
      `Expected answers made with ${other} ${shown(settings[other])} in the output file but received answers made with ${shown(before[other])}.`,
      {
        file: output,
        flag: '--output',
        cure: 'Give another file, or delete this one and its settings.json to start from scratch.',
      },
    );
  }
  return readLines(output);
}

function readLines(output: string): AnswerLine[] {
  const text = readFileSync(output, 'utf8');
  const end = text.lastIndexOf('\n') + 1;
  if (end < text.length) truncateSync(output, Buffer.byteLength(text.slice(0, end)));
  return text
    .slice(0, end)
    .split('\n')
    .slice(0, -1)
    .map((line, i) => {
      try {
        return JSON.parse(line) as AnswerLine;
      } catch (cause) {
        const details = { file: output, line: i + 1, cure: 'Delete the line: its record is then asked again.', cause };
        throw new UserError('Expected a JSON object for a line of the output but received something else.', details);
      }
    });
}

function summarize(lines: readonly AnswerLine[], resumed: number): GenerateSummary {
  const known = lines.filter(({ reference }) => reference !== undefined);
  const exact = known.filter(({ reference, answer }) => reference!.trim() === answer.trim()).length;
  return { records: lines.length, resumed, exactMatch: known.length === 0 ? null : exact / known.length };
}
