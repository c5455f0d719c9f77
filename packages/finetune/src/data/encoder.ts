/**
 * Creates the function that encodes records of a run. From a model folder and the run's configuration, by way of plain
 * data that can be sent to worker threads. Encoding itself is the processor's; no libtorch is loaded here.
 */
import {
  CHAT_FORMATS,
  chatTemplate,
  checkLlmType,
  checkVocabulary,
  type EncodedSample,
  type EncodeNotice,
  encodeAnswers,
  encodeRecord,
  type ModelConfig,
  modelInput,
  type RecordEncoding,
  type RecordOptions,
  readConfig,
  Tokenizer,
  VERSIONS,
  videoOf,
  withEncoding,
  withSlice,
  withVideo,
} from '@minicpm-finetune/processor';
import { type PreferenceLoss, type RunConfig, UserError } from '@minicpm-finetune/run';
import type { DataRecord } from './record.js';
import { idleVideoFlags, type VideoFlags, videoChoices } from './video-flags.js';

/** Settings of the encoding of a run's records. Plain data. */
export interface EncoderSetup extends Omit<RecordOptions, 'tokenizer' | 'imageRoot' | 'notice' | 'videoLimits'> {
  /** Folder of tokenizer.json. */
  readonly tokenizerFolder: string;
  /** Tokens that the model knows; a tokenizer of more is refused. */
  readonly vocabSize: number;
  /** The loss that compares answers; null: records have answers to learn. */
  readonly preference: PreferenceLoss | null;
}

export type EncoderModelFlags = Pick<RunConfig['model'], 'llm_type' | 'max_slice_nums' | 'scale_resolution'>;
export type EncoderDataFlags = VideoFlags &
  Pick<
    RunConfig['data'],
    'model_max_length' | 'overlong' | 'compat' | 'thinking' | 'allow_special_text' | 'max_image_pixels'
  >;

/** A sentence for each flag of think blocks and videos that the model has no use for. */
export function unusedByModel(
  flags: VideoFlags & Pick<EncoderDataFlags, 'thinking'>,
  { version }: Pick<ModelConfig, 'version'>,
): string[] {
  const { title, llmType } = VERSIONS[version];
  const notices: string[] = [];
  if (flags.thinking !== 'inference' && !CHAT_FORMATS[llmType].thinks)
    notices.push(`--thinking ${flags.thinking}: without effect: ${title} does not think.`);
  return [...notices, ...idleVideoFlags(flags, version)];
}

/** How pictures are cut: as the flags say, and where they say nothing as the checkpoint does. */
export function sliceOf(
  { slice }: ModelConfig,
  flags: Pick<EncoderModelFlags, 'max_slice_nums' | 'scale_resolution'>,
): ModelConfig['slice'] {
  return {
    maxSliceNums: flags.max_slice_nums ?? slice.maxSliceNums,
    scaleResolution: flags.scale_resolution ?? slice.scaleResolution,
    patchSize: slice.patchSize,
    multiple: slice.multiple,
  };
}

/** How a run encodes records, for its result. What has no effect on the model is not said. */
export function encodingOf(
  { version }: Pick<ModelConfig, 'version'>,
  { compat, thinking }: Pick<EncoderDataFlags, 'compat' | 'thinking'>,
): RecordEncoding {
  const used = compat === 'inference' && CHAT_FORMATS[VERSIONS[version].llmType].thinks;
  return { compat, thinking: used ? thinking : 'inference' };
}

/** The checkpoint's configuration with the encoding, pictures and videos of a run: so its result says how they were. */
export const readingOf = (config: ModelConfig, { model, data }: Pick<RunConfig, 'model' | 'data'>): ModelConfig =>
  withEncoding(
    withVideo(withSlice(config, sliceOf(config, model)), videoOf(config.video, videoChoices(data))),
    encodingOf(config, data),
  );

/** Reads config.json of `modelFolder` and puts the flags over it. Throws UserError for a model that is not supported or another --llm_type. */
export function encoderSetup(
  modelFolder: string,
  model: EncoderModelFlags,
  data: EncoderDataFlags,
  preference: PreferenceLoss | null = null,
): EncoderSetup {
  const config = readConfig(modelFolder);
  if (model.llm_type !== null) checkLlmType(config, model.llm_type);
  return {
    tokenizerFolder: modelFolder,
    vocabSize: config.llm.vocabSize,
    preference,
    ...modelInput(config, { slice: sliceOf(config, model), video: videoChoices(data) }),
    maxLength: data.model_max_length,
    overlong: data.overlong,
    compat: data.compat,
    thinking: data.thinking,
    allowSpecialText: data.allow_special_text,
    maxImagePixels: data.max_image_pixels,
  };
}

/** The result for a record; `sample` is null if it was too long and --overlong is drop. */
export interface Encoded {
  readonly sample: EncodedSample | null;
  readonly notices: readonly EncodeNotice[];
}

/** A valid record: a failure on it is the model folder's fault. */
const TRIAL: DataRecord = {
  id: undefined,
  image: undefined,
  conversations: [
    { role: 'user', content: 'a' },
    { role: 'assistant', content: 'b' },
  ],
};

export class Encoder {
  #beginTokens: Promise<number> | undefined;

  readonly setup: EncoderSetup;
  readonly tokenizer: Tokenizer;

  private constructor(setup: EncoderSetup, tokenizer: Tokenizer) {
    this.setup = setup;
    this.tokenizer = tokenizer;
  }

  /** Loads the tokenizer and tries it. Throws UserError if it is missing, broken, lacks special tokens or has the template of another model. */
  static async open(setup: EncoderSetup): Promise<Encoder> {
    const tokenizer = Tokenizer.load(setup.tokenizerFolder);
    checkVocabulary(tokenizer, setup.vocabSize);
    const encoder = new Encoder(setup, tokenizer);
    await encoder.encode(TRIAL, { maxLength: Number.MAX_SAFE_INTEGER, preference: null });
    return encoder;
  }

  /** The same with parts of the setup replaced; the tokenizer stays. */
  with(changes: Partial<Omit<EncoderSetup, 'tokenizerFolder' | 'vocabSize'>>): Encoder {
    return new Encoder({ ...this.setup, ...changes }, this.tokenizer);
  }

  /** Tokens that a conversation without a system turn begins with. */
  beginTokens(): Promise<number> {
    const { begin } = chatTemplate(this.setup.llmType, this.tokenizer);
    this.#beginTokens ??= this.tokenizer.encode(begin).then((ids) => ids.length);
    return this.#beginTokens;
  }

  /**
   * Encodes one record, for a loss that compares answers with both of them. `changes` replace parts of the setup.
   *
   * @param other KTO: the record whose answer is not one to this question; absent: the answer is encoded alone
   * @throws UserError naming the turn; the caller knows file and record
   */
  async encode(record: DataRecord, changes: Partial<EncoderSetup> = {}, other?: DataRecord): Promise<Encoded> {
    const { tokenizerFolder: _, vocabSize: __, preference, ...options } = { ...this.setup, ...changes };
    requirePurpose(record, preference);
    const notices: EncodeNotice[] = [];
    const all = { ...options, tokenizer: this.tokenizer, notice: (notice: EncodeNotice) => notices.push(notice) };
    const second = secondOf(record, other);
    const sample = second === undefined ? await encodeRecord(record, all) : await encodeAnswers(record, second, all);
    if (sample?.answers && record.desirable !== undefined) sample.answers.desirable = record.desirable;
    return { sample, notices };
  }
}

/** The conversation that a record is compared with; undefined: it is encoded alone. */
function secondOf(record: DataRecord, other: DataRecord | undefined): DataRecord | undefined {
  const { rejected, conversations } = record;
  if (rejected !== undefined) return { ...record, ...rejected };
  if (other === undefined) return undefined;
  return { ...record, conversations: [...conversations.slice(0, -1), other.conversations.at(-1)!] };
}

/** A record has to be what the training learns from. @throws UserError naming the key and the cure */
export function requirePurpose(
  { rejected, desirable, comparedKey: key }: DataRecord,
  preference: PreferenceLoss | null,
): void {
  if (preference === null && key !== undefined && key !== 'label')
    throw new UserError(
      `Expected an answer to learn for a record but received answers to compare, by the key ${key}.`,
      {
        key,
        flag: '--preference',
        cure: `Give --preference dpo (or kto, for answers called good or bad), or remove ${key}.`,
      },
    );
  if (preference === 'kto' && desirable === undefined)
    throw new UserError(
      'Expected true or false under the key label for a record of --preference kto but received neither.',
      {
        key: 'label',
        flag: '--preference',
        cure: 'Write "label": true for an answer that is good, false for one that is bad; pairs are for --preference dpo.',
      },
    );
  if (preference !== null && preference !== 'kto' && rejected === undefined)
    throw new UserError(`Expected a rejected answer for a record of --preference ${preference} but received none.`, {
      key: 'rejected',
      flag: '--preference',
      cure: 'Write "rejected" beside the conversation, or "chosen" and "rejected" beside a prompt; answers called good or bad are for --preference kto.',
    });
}
