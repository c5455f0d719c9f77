/**
 * The program API: the commands as functions. They print nothing unless a `reporter` that prints is given (`new
 * Progress()` shows what the commands show), install no signal handlers and never end the process; a mistake of the
 * caller is a `UserError`. Computing is synchronous inside of a step: the event loop turns between steps.
 *
 *     const { config } = resolveConfig({ model_name_or_path: 'model', data_path: ['train.json'], output_dir: 'run', use_lora: true });
 *     const { trainLoss } = await train(config, { onEvent: (event) => console.log(event) });
 *     using model = await loadModel({ model: 'model', adapter: 'run' });
 */
import {
  type LoadedModel,
  type LoadModelOptions as LoadFolderOptions,
  loadModel as loadFolder,
  type MergeReport,
} from '@minicpm-finetune/minicpm-v';
import type { VideoChoices } from '@minicpm-finetune/processor';
import type { FloatDType, RunConfig } from '@minicpm-finetune/run';
import { SAMPLING_FLAGS } from './cli/chat/flags.js';
import { type CheckReport, checkRecords } from './cli/check-data/check-data.js';
import { type GenerateContext, type GenerateSummary, generateAnswers } from './cli/generate/generate.js';
import { type MergeOptions, mergeAdapters } from './cli/merge/merge.js';
import { requireResolved } from './config/resolve.js';
import { encoderSetup } from './data/encoder.js';
import { type EngineOptions, startEngine } from './engine/machine.js';
import { resolveModel } from './hub/hub.js';
import { hashingTask, type Reporter, SILENT } from './report/reporter.js';

export type {
  Answer,
  AnswerOptions,
  LoadedModel,
  MergeReport,
} from '@minicpm-finetune/minicpm-v';
export type { ChatMessage, Part, VideoChoices, VideoSource } from '@minicpm-finetune/processor';
export {
  type CheckpointEvent,
  type EvalEvent,
  type RunConfig,
  type RunEndEvent,
  type RunEvent,
  type RunStartEvent,
  type StampedEvent,
  type StepEvent,
  type StopEvent,
  UserError,
  type UserErrorDetails,
  type WarningEvent,
} from '@minicpm-finetune/run';
export type { CheckReport, Distribution, RecordFinding } from './cli/check-data/check-data.js';
export type { GenerateContext, GenerateSummary } from './cli/generate/generate.js';
export type { MergeOptions } from './cli/merge/merge.js';
export { type ConfigValues, type ResolvedConfig, resolveConfig } from './config/resolve.js';
export { Progress, type ProgressOptions, type TextStream } from './report/progress.js';
export { type Reporter, SILENT, type StepStatus, type Task, type TrainingLength } from './report/reporter.js';
export { type TrainOptions, type TrainResult, train } from './train/train.js';

export interface CheckOptions {
  /** Data files; the training data of the configuration unless given. */
  readonly paths?: readonly string[];
  /** Worker threads; one per core unless given, 0: this thread. */
  readonly threads?: number;
  readonly reporter?: Reporter;
}

/**
 * Encodes every record as a training with this configuration would, and reports every mistake, what looks odd, and lengths. Changes nothing.
 *
 * @throws UserError only for what concerns no single record: a configuration that `resolveConfig` did not make, a file that is no data, a
 *   model that cannot be found
 */
export async function checkData(config: RunConfig, options: CheckOptions = {}): Promise<CheckReport> {
  requireResolved(config);
  const { paths = config.data.data_path, threads = null, reporter = SILENT } = options;
  const { model_name_or_path: model, cache_dir: cacheDir } = config.model;
  const folder = await resolveModel(model, { flag: 'model_name_or_path', cacheDir, reporter, weights: false });
  return await checkRecords({
    paths,
    encoder: encoderSetup(folder, config.model, config.data, config.preference.preference),
    threads,
    reporter,
  });
}

export interface LoadModelOptions extends Omit<LoadFolderOptions, 'device'>, Partial<EngineOptions> {
  /** Folder of a checkpoint, or the id of a model of the Hugging Face hub. */
  readonly model: string;
  /** Hugging Face's cache folder unless given. */
  readonly cacheDir?: string;
  readonly reporter?: Reporter;
}

/**
 * Loads a model with its adapters, ready to answer, on the best device unless one is given. Free it with `dispose` (or `using`).
 *
 * @throws UserError for a model that cannot be found, or a model or adapter that cannot be used
 */
export async function loadModel(options: LoadModelOptions): Promise<LoadedModel> {
  const { model: named, cacheDir = null, reporter = SILENT, device = 'auto', threads = null, ...rest } = options;
  const model = await resolveModel(named, { flag: 'model', cacheDir, reporter });
  using hashing = hashingTask(reporter);
  return await loadFolder({ onHash: hashing.update, ...rest, model, device: startEngine({ device, threads }) });
}

export interface GenerateOptions extends Partial<EngineOptions> {
  /** Folder of a checkpoint, or the id of a model of the Hugging Face hub. */
  readonly model: string;
  /** Adapter folders; each is applied on top of the previous result. */
  readonly adapters?: readonly string[];
  /** Data files whose records are answered. */
  readonly dataPaths: readonly string[];
  /** JSON Lines file for the answers; an unfinished file is resumed. */
  readonly output: string;
  /** Records answered at the same time. Default 8. */
  readonly batchSize?: number;
  /** Longest answer in tokens. */
  readonly maxNewTokens?: number;
  /** Default 0: always the most likely token. */
  readonly temperature?: number;
  readonly topP?: number;
  readonly topK?: number;
  readonly repetitionPenalty?: number;
  readonly seed?: number;
  /** Let the model think before it answers. Default false. */
  readonly enableThinking?: boolean;
  /** Type to compute in; the weights' own unless given. */
  readonly dtype?: FloatDType;
  /** Keep the language model's linear weights as 8-bit integers: half the memory of bfloat16, faster answers on a CPU. */
  readonly loadIn8Bit?: boolean;
  /** Most slices a picture is cut into; as in the adapter's training, or as the checkpoint says, unless given. */
  readonly maxSliceNums?: number;
  /** Side in pixels of the square a slice's area aims at; likewise. */
  readonly scaleResolution?: number;
  /** How frames of videos are sampled; as published unless given. */
  readonly video?: VideoChoices;
  /** Read special tokens in the text as plain text; otherwise they are an error. */
  readonly allowSpecialText?: boolean;
  /** `skip`: a record that cannot be asked gets a line with the error. Default `stop`. */
  readonly onBadRecord?: 'stop' | 'skip';
  /** When resumed, ask records again whose text or pictures changed since; otherwise the file is refused. */
  readonly askChanged?: boolean;
  /** Hugging Face's cache folder unless given. */
  readonly cacheDir?: string;
}

/**
 * Answers the last question of every record of data files and writes a JSON line for each.
 *
 * @throws UserError for a model or record that cannot be used, and for an output file made with other settings
 */
export async function generate(options: GenerateOptions, context: GenerateContext = {}): Promise<GenerateSummary> {
  const { model: named, cacheDir = null, dataPaths, output } = options;
  const flags = SAMPLING_FLAGS;
  const all = {
    model: await resolveModel(named, { flag: 'model', cacheDir, reporter: context.reporter ?? SILENT }),
    dataPaths,
    output,
    adapters: options.adapters ?? [],
    batchSize: options.batchSize ?? 8,
    maxNewTokens: options.maxNewTokens ?? flags.max_new_tokens.default,
    temperature: options.temperature ?? flags.temperature.default,
    topP: options.topP ?? flags.top_p.default,
    topK: options.topK ?? flags.top_k.default,
    repetitionPenalty: options.repetitionPenalty ?? flags.repetition_penalty.default,
    seed: options.seed ?? flags.seed.default,
    enableThinking: options.enableThinking ?? flags.enable_thinking.default,
    dtype: options.dtype ?? null,
    loadIn8Bit: options.loadIn8Bit ?? false,
    maxSliceNums: options.maxSliceNums ?? null,
    scaleResolution: options.scaleResolution ?? null,
    video: options.video ?? {},
    allowSpecialText: options.allowSpecialText ?? false,
    onBadRecord: options.onBadRecord ?? 'stop',
    askChanged: options.askChanged ?? false,
    device: options.device ?? 'auto',
    threads: options.threads ?? null,
  };
  return await generateAnswers(all, context);
}

/**
 * Merges adapters into their base and saves a checkpoint that needs none. What was written is opened again and compared.
 *
 * @throws UserError for an output folder in use, an adapter of another base, or a result that differs
 */
export async function merge(
  options: MergeOptions & { readonly cacheDir?: string },
  { reporter = SILENT }: { readonly reporter?: Reporter } = {},
): Promise<MergeReport> {
  const { cacheDir = null, ...rest } = options;
  const model = await resolveModel(options.model, { flag: 'model', cacheDir, reporter });
  using hashing = hashingTask(reporter);
  const report = mergeAdapters({ onHash: hashing.update, ...rest, model });
  for (const line of report.notices) reporter.notice(line);
  return report;
}
