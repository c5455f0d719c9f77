/**
 * Answers a data file's questions, as JSON Lines. The question of a record is everything before its last assistant
 * turn, which is the reference; a record that ends in a user turn has none. All records are looked at before the model
 * is loaded. The output can be resumed: each batch is appended when it is answered, and answers that are there stay if
 * what made them is the same by content: the model, its adapters, the settings (settings.ts) and the record (match.ts).
 *
 * Not here: reading data (data/), generation (minicpm-v).
 */
import {
  type AnswerOptions,
  changedFile,
  type LoadedModel,
  modelIdentity,
  PromptEncoder,
  weightStates,
} from '@minicpm-finetune/minicpm-v';
import { type EncodedPrompt, requireCheckpoint, type SliceConfig } from '@minicpm-finetune/processor';
import { counted, UserError } from '@minicpm-finetune/run';
import { Dataset } from '../../data/dataset.js';
import { type AnswerLine, type BadLine, contentOf, type Question, type QuestionContent } from '../../data/question.js';
import type { DataRecord } from '../../data/record.js';
import { idleVideoFlags, videoFlags } from '../../data/video-flags.js';
import { explainingMemory, startEngine } from '../../engine/machine.js';
import { asTask, hashingTask, type Reporter, SILENT } from '../../report/reporter.js';
import { exactMatch } from '../../train/metrics.js';
import { answerOptions } from '../chat/options.js';
import { loadForAnswers } from '../shared/load-model.js';
import { type Looked, lookAtRecords, withQuestion } from './look.js';
import { type AskedRecord, isAnswer, type Line, matchLines, outdatedFile, refuseOutdated } from './match.js';
import type { AnswerFileOptions } from './options.js';
import { AnswerFile, badLines } from './output.js';
import { type AnswerSettings, compareSettings, settingsOf } from './settings.js';

export interface GenerateSummary {
  /** Answered so far: all, unless it was aborted or some are bad. Each record counts once. */
  readonly records: number;
  /** Of them, answered by earlier runs. */
  readonly resumed: number;
  /** Records that could not be asked. */
  readonly bad: number;
  /** Records that were not asked yet, because it was aborted. */
  readonly left: number;
  /** Answers whose record has one of its own, and how many of them are exactly that, think blocks in front and white space at the ends aside. */
  readonly compared: number;
  readonly exact: number;
  /** `exact / compared`; null without references. */
  readonly exactMatch: number | null;
}

export interface GenerateContext {
  readonly reporter?: Reporter;
  /** Aborting it ends the work after the batch under way; what is answered stays in the file. */
  readonly signal?: AbortSignal;
}

const LESS_MEMORY =
  'Take a smaller --batch_size, --dtype bfloat16, a smaller --max_slice_nums or --max_new_tokens, or --device cpu.';

/** The work of one command: what it asks, and where the answers go. */
interface Work {
  readonly options: AnswerFileOptions;
  readonly data: Dataset;
  readonly file: AnswerFile;
  readonly reporter: Reporter;
  readonly signal: AbortSignal | undefined;
  /** Of the checkpoint's weights. */
  readonly fingerprint: string;
  /** States of the files of weights before they were hashed. */
  readonly weights: ReadonlyMap<string, string>;
}

/** Where the work begins. */
interface Settled {
  /** Of earlier runs. */
  readonly answers: readonly AnswerLine[];
  readonly missing: readonly AskedRecord[];
  readonly bad: readonly BadLine[];
}

/**
 * Answers all records of the data and writes a line for each.
 *
 * @throws UserError for a record that cannot be asked (with file and record), and for an output file that another process writes, that this
 *   program did not write, or that was made with another model, settings or data
 */
export async function generateAnswers(
  options: AnswerFileOptions,
  { reporter = SILENT, signal }: GenerateContext = {},
): Promise<GenerateSummary> {
  requireCheckpoint(options.model, { flag: '--model', adapterFlag: '--adapter' });
  const encoder = PromptEncoder.open(options.model, options.adapters);
  const data = await Dataset.open(options.dataPaths, (message) => reporter.notice(message));
  try {
    using file = new AnswerFile(options.output);
    for (const notice of file.notices) reporter.notice(notice);
    const reading = encoder.promptOptions(readingOptions(options));
    for (const line of idleVideoFlags(videoFlags(options.video), encoder.config.version)) reporter.notice(line);
    const looked = await lookAtRecords({ data, reading, onBadRecord: options.onBadRecord, reporter });
    const weights = weightStates(options);
    const settings = await identify(options, reading.sliceConfig, reporter);
    if (file.settings !== null) compareSettings(file.settings, settings, options.output);
    const fingerprint = settings.model.weights;
    const work: Work = { options, data, file, reporter, signal, weights, fingerprint };
    const { answers, missing, bad } = settle(work, looked, settings);
    const lines = [...answers, ...bad];
    if (missing.length > 0) await answerMissing(missing, lines, work);
    return summarize(lines, answers.length, data.length);
  } finally {
    await data.close();
  }
}

const readingOptions = (options: AnswerFileOptions): AnswerOptions => ({
  ...answerOptions(options),
  allowSpecialText: options.allowSpecialText,
});

/** What makes the answers asked now. */
async function identify(
  options: AnswerFileOptions,
  sliceConfig: SliceConfig | null,
  reporter: Reporter,
): Promise<AnswerSettings> {
  using hashing = hashingTask(reporter);
  const identity = await modelIdentity({ ...options, onProgress: hashing.update });
  return settingsOf(options, identity, sliceConfig);
}

/** Brings the file to the state of the data now, before anything is asked. */
function settle(
  { options, file, reporter }: Work,
  { records, bad: errors }: Looked,
  settings: AnswerSettings,
): Settled {
  const { output, temperature, askChanged } = options;
  const matched = matchLines(file.lines, records, temperature > 0);
  const { answers, twice, outdated, missing } = matched;
  if (!askChanged) refuseOutdated(matched, records, errors, output);
  if (records.length === 0) throw allBad(errors);
  const bad = [...errors].map(([record, { message }]): BadLine => ({ record, error: message }));
  file.begin(settings);
  file.become([...answers, ...twice, ...bad], outdated);
  const again = new Set(twice.map(({ record }) => record));
  if (again.size > 0) {
    const which = counted(again.size, 'record');
    reporter.notice(
      `${output} has ${which} more than once (${[...again].slice(0, 5).join(', ')}${again.size > 5 ? ', …' : ''}); each is counted once.`,
    );
  }
  if (outdated.length > 0)
    reporter.notice(
      `${counted(outdated.length, 'answer')} to records that changed since moved to ${outdatedFile(output)}.`,
    );
  const repaired = [...badLines(file.lines).keys()].filter((record) => !errors.has(record)).length;
  if (repaired > 0)
    reporter.notice(
      `${counted(repaired, 'record')} that could not be asked before ${repaired === 1 ? 'is' : 'are'} asked again.`,
    );
  return { answers, missing, bad };
}

function allBad(errors: ReadonlyMap<number, UserError>): UserError {
  const [first] = errors.values();
  return new UserError(
    `Expected a record that can be asked but all ${errors.size} are bad; the first: ${first!.message}`,
    {
      ...first!.details(),
      cause: first!.cause,
    },
  );
}

async function answerMissing(missing: readonly AskedRecord[], lines: Line[], work: Work): Promise<void> {
  const { options, data, file, reporter, signal, fingerprint } = work;
  const device = startEngine(options);
  const task = { label: 'Answering', total: data.length, unit: 'records' };
  await asTask(reporter, task, (update) =>
    explainingMemory(device, LESS_MEMORY, async () => {
      using model = await loadForAnswers(options, { device, reporter, fingerprint });
      let tokens = 0;
      for (let i = 0; i < missing.length && !signal?.aborted; i += options.batchSize) {
        const batch = await answerBatch(missing.slice(i, i + options.batchSize), model, work);
        refuseChanged(work);
        file.append(batch);
        lines.push(...batch);
        tokens += batch.filter(isAnswer).reduce((sum, line) => sum + line.tokens, 0);
        update(lines.length, `${tokens} tokens`);
      }
    }),
  );
}

/** Weights are mapped from their files: after a file was written, the answers are those of no model that was named. */
function refuseChanged({ weights, options }: Work): void {
  const changed = changedFile(weights);
  if (changed === undefined) return;
  throw new UserError('Expected the weights of the model as they were at the start but they were written meanwhile.', {
    file: changed,
    cure: `The answers that are in ${options.output} are those of the model before. Let the training end first, or copy the model aside.`,
  });
}

interface Prompted {
  readonly record: DataRecord;
  readonly question: Question;
  readonly content: QuestionContent;
  readonly prompt: EncodedPrompt;
}

async function answerBatch(
  batch: readonly AskedRecord[],
  model: LoadedModel,
  { options, data }: Work,
): Promise<Line[]> {
  const how = readingOptions(options);
  const bad: BadLine[] = [];
  const asked = new Map<number, Prompted>();
  for (const { record: index } of batch) {
    const outcome = await withQuestion(index, data, options.allowSpecialText, async (record, question) => {
      const prompt = await model.encode(question.messages, how);
      return { record, question, prompt, content: await contentOf(question, new Map()) };
    });
    if (!(outcome instanceof UserError)) asked.set(index, outcome);
    else if (options.onBadRecord === 'stop') throw outcome;
    else bad.push({ record: index, error: outcome.message }); // it was good a moment ago
  }
  const prompts = [...asked.values()].map(({ prompt }) => prompt);
  const answers = await model.answer(prompts, { ...how, streams: [...asked.keys()] });
  const lines = [...asked].map(
    (
      [
        index,
        {
          record,
          question: { text, reference },
          content,
        },
      ],
      i,
    ): AnswerLine => {
      const { text: answer, tokens, end } = answers[i]!;
      return {
        record: index,
        ...(record.id === undefined ? {} : { id: record.id }),
        question: text,
        ...(reference === null ? {} : { reference }),
        answer,
        tokens,
        end,
        content,
      };
    },
  );
  return [...lines, ...bad];
}

function summarize(lines: readonly Line[], resumed: number, records: number): GenerateSummary {
  const answers = lines.filter(isAnswer);
  const known = answers.filter(({ reference }) => reference !== undefined);
  const exact = known.filter(({ reference, answer }) => exactMatch(answer, reference!) === 1).length;
  return {
    records: answers.length,
    resumed,
    bad: lines.length - answers.length,
    left: records - lines.length,
    compared: known.length,
    exact,
    exactMatch: known.length === 0 ? null : exact / known.length,
  };
}
