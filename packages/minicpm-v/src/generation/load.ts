/**
 * `loadModel`: a checkpoint with adapters, ready to answer. Several adapters stack in the order given: each but the
 * last is merged into the weights in memory before the next one is applied, which equals merging them one after the
 * other; the last one stays an adapter. Not here: training, data files, terminals.
 */
import {
  type ChatMessage,
  type ChatTemplate,
  Detokenizer,
  type EncodedPrompt,
  type ModelConfig,
  requireCheckpoint,
  strip,
  type Tokenizer,
} from '@minicpm-finetune/processor';
import { atOnce, inTurns, type LlmType, type Steps } from '@minicpm-finetune/run';
import { type DType, keep, noGrad, ops, scope } from '@minicpm-finetune/torch';
import { baseFingerprint } from '../adapters/checksums.js';
import { promptNotices } from '../adapters/encoding.js';
import { loadAdapter } from '../adapters/folder.js';
import { removeLora } from '../adapters/lora.js';
import type { BaseFingerprint } from '../adapters/manifest.js';
import { mergeLoaded } from '../adapters/merge.js';
import { quantizingLayers } from '../adapters/quantize.js';
import { describeSlices, slicesOfAdapters, type TrainedSlices } from '../adapters/slices.js';
import { describeVideo, type TrainedVideos, videosOfAdapters } from '../adapters/videos.js';
import type { HashProgress } from '../checkpoint/content.js';
import { loadingWeights } from '../checkpoint/weights.js';
import { MiniCPMV } from '../model/minicpm-v.js';
import { generate } from './generate.js';
import { holdingWeights } from './hold-weights.js';
import { PromptEncoder, type ReadingOptions } from './prompt.js';
import { GREEDY, type Sampling } from './sampling.js';

export interface LoadModelOptions {
  /** Folder of a checkpoint. */
  readonly model: string;
  /** Adapter folders, in the order in which they go on. */
  readonly adapter?: string | readonly string[];
  /** Type of the weights; as stored when absent. */
  readonly dtype?: DType;
  /**
   * Keep the language model's linear weights, and its output layer if that is one of its own, as 8-bit integers: half the memory of bfloat16, and
   * answers come faster on a CPU.
   */
  readonly loadIn8Bit?: boolean;
  /** `cpu` (the default), `cuda`, `cuda:1`, `mps` */
  readonly device?: string;
  /** The `weights` of the checkpoint's `modelIdentity`, if it is known: they are not hashed again. */
  readonly fingerprint?: string;
  /** With adapters, the weights are hashed to know whether the adapters are theirs; not called where the hash is remembered. */
  readonly onHash?: HashProgress;
  /** Is told what a user should know of the adapters and of how the model was trained, a sentence each. The model has them as `notices`, too. */
  readonly notice?: (message: string) => void;
}

export interface AnswerOptions extends Partial<Sampling>, ReadingOptions {
  /** Longest answer in tokens; 1024 when absent. */
  readonly maxNewTokens?: number;
  /** Number of each conversation for its random draws; its place in the list when absent. */
  readonly streams?: readonly number[];
  readonly signal?: AbortSignal;
}

export interface Answer {
  /** Without the stop token, stripped at both ends. */
  readonly text: string;
  readonly tokens: number;
  /** Why it ended; null: it was stopped by `signal`. */
  readonly end: 'stop' | 'length' | null;
}

const MAX_NEW_TOKENS = 1024;

/** Tokens that end an answer besides the format's and the tokenizer's end token, if the tokenizer has them: the reference's terminators. */
const TERMINATORS: Readonly<Record<LlmType, readonly string[]>> = {
  qwen: ['<|endoftext|>'],
  llama: ['</s>'],
  llama3: ['<|end_of_text|>'],
  minicpm: [],
  qwen3: ['<|endoftext|>'],
  qwen3_5: ['<|endoftext|>'],
};

/** Ids that end an answer. */
export function stopTokens({ llmType, end, tokenizer }: ChatTemplate): ReadonlySet<number> {
  const names = [end, tokenizer.eosToken, ...TERMINATORS[llmType]];
  return new Set(names.map((name) => tokenizer.tokenId(name)).filter((id) => id !== undefined));
}

/**
 * Loads a checkpoint and its adapters. The event loop runs meanwhile, but while adapters are read.
 *
 * @throws UserError when the folder is none of a checkpoint, or anything in it or in an adapter does not fit.
 */
export async function loadModel(options: LoadModelOptions): Promise<LoadedModel> {
  const { model: folder, adapter = [], dtype, device = 'cpu' } = options;
  requireCheckpoint(folder, { flag: '--model', adapterFlag: '--adapter' });
  const { config, template } = PromptEncoder.open(folder);
  const model = new MiniCPMV(config);
  const adapters = typeof adapter === 'string' ? [adapter] : adapter;
  try {
    await inTurns(loadingWeights(model, folder, dtype === undefined ? {} : { dtype }));
    if (device !== 'cpu') await inTurns(moving(model, device));
    const reading = putAdapters(model, adapters, options);
    for (const line of reading.notices) options.notice?.(line);
    if (options.loadIn8Bit) await inTurns(quantizingLayers(model, 'int8', { head: true }));
    await inTurns(holdingWeights(model));
    return new LoadedModel(model, template, reading);
  } catch (error) {
    removeLora(model);
    model.dispose();
    throw error;
  }
}

/** Stacks adapters on a model, which keeps the last one as an adapter. */
function putAdapters(
  model: MiniCPMV,
  adapters: readonly string[],
  options: Pick<LoadModelOptions, 'model' | 'fingerprint' | 'onHash'>,
): Pick<LoadedModel, 'slice' | 'video' | 'notices'> {
  const fingerprint: BaseFingerprint = (format) =>
    format === 2 && options.fingerprint !== undefined
      ? options.fingerprint
      : baseFingerprint(options.model, format, options.onHash);
  const notices: string[] = [...promptNotices(null, model.config.encoding)];
  const trained: (TrainedSlices & TrainedVideos)[] = [];
  adapters.forEach((path, i) => {
    const loaded = loadAdapter(path, model, { trainable: false, fingerprint });
    trained.push({ adapter: path, slices: loaded.slices, videos: loaded.videos });
    const last = i === adapters.length - 1;
    notices.push(...(last ? loaded.notices : mergeLoaded(path, model, loaded, 'compute with --dtype float32')));
    notices.push(...promptNotices(path, loaded.encoding));
  });
  const { slice, notices: ofSlices } = slicesOfAdapters(trained, model.config.slice);
  const { video, notices: ofVideos } = videosOfAdapters(trained, model.config.video);
  return { slice, video, notices: [...notices, ...ofSlices, ...ofVideos] };
}

/**
 * Moves all parameters to a device; those that train continue to. Weights are mapped from their files: they are copied from there one at a time,
 * without pinned memory of their size.
 */
export const moveTo = (model: MiniCPMV, device: string): void => atOnce(moving(model, device));

function* moving(model: MiniCPMV, device: string): Steps<void> {
  for (const [, parameter] of model.namedParameters()) {
    if (parameter.compact !== undefined) {
      parameter.compact.moveTo(device);
      continue;
    }
    const { data, requiresGrad } = parameter;
    parameter.data = noGrad(() => scope(() => keep(ops.toDevice(data, device, data.dtype))));
    parameter.data.requiresGrad = requiresGrad;
    yield;
  }
}

/** A model that answers. Free it with `dispose` (or `using`). */
export class LoadedModel {
  readonly #stop: ReadonlySet<number>;
  readonly #encoder: PromptEncoder;

  readonly model: MiniCPMV;
  readonly template: ChatTemplate;
  /** How pictures are cut: as in the training of the last adapter, or as the checkpoint says. */
  readonly slice: ModelConfig['slice'];
  /** How videos are read, likewise; null: not at all. */
  readonly video: ModelConfig['video'];
  /** What a user should know of the adapters, and of how the model was trained. */
  readonly notices: readonly string[];

  constructor(
    model: MiniCPMV,
    template: ChatTemplate,
    {
      slice = model.config.slice,
      video = model.config.video,
      notices = [],
    }: Partial<Pick<LoadedModel, 'slice' | 'video' | 'notices'>> = {},
  ) {
    this.model = model;
    this.template = template;
    this.slice = slice;
    this.video = video;
    this.notices = notices;
    this.#stop = stopTokens(template);
    this.#encoder = new PromptEncoder(model.config, template, { slice, video });
  }

  get config(): MiniCPMV['config'] {
    return this.model.config;
  }

  /** A sentence for pictures, and one for videos, where `options` ask to read them otherwise than in the training. */
  otherReading(options: ReadingOptions): string[] {
    const asked = this.#encoder.readingFor(options);
    const pairs = [[this.slice, asked.slice].map(describeSlices)];
    if (this.video !== null && asked.video !== null) pairs.push([this.video, asked.video].map(describeVideo));
    return pairs
      .filter(([own, other]) => own !== other)
      .map(([own, other]) => `trained with ${own}, asked with ${other}.`);
  }

  get tokenizer(): Tokenizer {
    return this.template.tokenizer;
  }

  /**
   * Answers a conversation, piece by piece as the text becomes certain; the pieces together are the answer.
   * The last message is the question; pictures stand between texts: `{ role: 'user', content: [{ image: 'a.png' }, 'What is this?'] }`.
   */
  async *chat(messages: readonly ChatMessage[], options: AnswerOptions = {}): AsyncGenerator<string> {
    const prompt = await this.encode(messages, options);
    const text = new Detokenizer(this.tokenizer);
    for await (const [token] of generate(this.model, [prompt], this.#generateOptions(options))) {
      if (token!.end === 'stop') break;
      const piece = await text.push(token!.id);
      if (piece !== '') yield piece;
    }
    const rest = await text.end();
    if (rest !== '') yield rest;
  }

  /** Answers several conversations side by side. An answer does not depend on the others in the list. */
  async generate(conversations: readonly (readonly ChatMessage[])[], options: AnswerOptions = {}): Promise<Answer[]> {
    const prompts: EncodedPrompt[] = [];
    for (const messages of conversations) prompts.push(await this.encode(messages, options));
    return await this.answer(prompts, options);
  }

  /** Answers encoded prompts side by side. */
  async answer(prompts: readonly EncodedPrompt[], options: AnswerOptions = {}): Promise<Answer[]> {
    const ids = prompts.map((): number[] => []);
    const ends = prompts.map((): Answer['end'] => null);
    for await (const step of generate(this.model, prompts, this.#generateOptions(options))) {
      for (const { sequence, id, end } of step) {
        ids[sequence]!.push(id);
        ends[sequence] = end;
      }
    }
    return await Promise.all(ids.map((own, i) => this.#answerOf(own, ends[i]!)));
  }

  async #answerOf(ids: readonly number[], end: Answer['end']): Promise<Answer> {
    const text = await this.tokenizer.decode(end === 'stop' ? ids.slice(0, -1) : ids);
    return { text: strip(text), tokens: ids.length, end };
  }

  /** A conversation as a prompt. */
  async encode(messages: readonly ChatMessage[], options: AnswerOptions = {}): Promise<EncodedPrompt> {
    return await this.#encoder.encode(messages, options);
  }

  #generateOptions(options: AnswerOptions): Parameters<typeof generate>[2] {
    const { maxNewTokens = MAX_NEW_TOKENS, streams, signal, ...rest } = options;
    const given = Object.keys(GREEDY).filter((key) => rest[key as keyof Sampling] !== undefined);
    return {
      sampling: { ...GREEDY, ...Object.fromEntries(given.map((key) => [key, rest[key as keyof Sampling]])) },
      maxNewTokens,
      stopTokens: this.#stop,
      ...(streams === undefined ? {} : { streams }),
      ...(signal === undefined ? {} : { signal }),
    };
  }

  dispose(): void {
    removeLora(this.model);
    this.model.dispose();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}
