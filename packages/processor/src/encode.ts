/**
 * A record or prompt to ids, labels, bounds and pixels. The result is what the collator takes. Pure data in and out, no
 * tensors, no files but those of images and videos: runs in worker threads.
 */
import { UserError } from '@minicpm-finetune/run';
import { canvasPositions } from './chat/canvas.js';
import { checkRecord } from './chat/check-record.js';
import type { LayoutOptions, Purpose } from './chat/layout.js';
import { type ChatMessage, checkMessages } from './chat/messages.js';
import { encodeOfficial } from './chat/official.js';
import { isSupervised, truncate } from './chat/overlong.js';
import { parseRecord, type SeedRecord } from './chat/record.js';
import { type EncodedText, encodeMessages } from './chat/segments.js';
import { chatTemplate } from './chat/templates.js';
import {
  encodeMedia,
  type MeasuredMedium,
  measureMedium,
  mostFrames,
  type Pictures,
  type ReadMedium,
  type ReadOptions,
  readMedia,
  type Shown,
} from './media.js';
import { countTokens } from './picture-tokens.js';
import type { EncodedPrompt, EncodedSample, EncodedVideo, PromptOptions, RecordOptions } from './sample.js';

export * from './sample.js';

function describeLength(text: EncodedText): string {
  const inImages = text.imageSpans.reduce((sum, [start, end]) => sum + end - start, 0);
  return `${text.inputIds.length} (${inImages} of them for ${text.imageBounds.length} pictures of ${text.imageSpans.length} images)`;
}

/** A conversation as ids, with what is shown of its media. */
export interface Fitted {
  text: EncodedText;
  shown: Shown;
  media: readonly MeasuredMedium[];
}

/** A conversation whose media are read, to be encoded as often as it takes to fit. */
export interface Conversation {
  media: readonly ReadMedium[];
  encode: (shown: Shown) => Promise<Fitted>;
}

/** Lowers the number of slices step by step until the conversation fits, then that of frames; it may still be too long. */
async function withLess(first: Fitted, options: RecordOptions, { media, encode }: Conversation): Promise<Fitted> {
  let fitted = first;
  const tooLong = (): boolean => fitted.text.inputIds.length > options.maxLength;
  while (tooLong() && fitted.shown.sliceConfig && fitted.shown.sliceConfig.maxSliceNums > 1) {
    const { sliceConfig } = fitted.shown;
    fitted = await encode({
      ...fitted.shown,
      sliceConfig: { ...sliceConfig, maxSliceNums: sliceConfig.maxSliceNums - 1 },
    });
  }
  const before = fitted;
  for (let frames = mostFrames(media, null) - 1; tooLong() && frames > 0; ) {
    fitted = await encode({ ...fitted.shown, maxFrames: frames });
    const excess = fitted.text.inputIds.length / options.maxLength;
    frames = Math.min(frames - 1, Math.floor(frames / Math.max(1, excess)));
  }
  const count = ({ text }: Fitted): number => text.imageBounds.length;
  const tell = (kind: 'fewer_slices' | 'fewer_frames', from: Fitted, to: Fitted): void => {
    if (count(to) === count(from)) return;
    const message = `${count(from)} pictures became ${count(to)}, so that ${from.text.inputIds.length} tokens became ${to.text.inputIds.length}.`;
    options.notice?.({ kind, message });
  };
  tell('fewer_slices', first, before);
  tell('fewer_frames', before, fitted);
  return fitted;
}

/** Makes a conversation fit as `overlong` says. Returns null when it is dropped. */
export async function fit(conversation: Conversation, options: RecordOptions): Promise<Fitted | null> {
  const { maxLength, overlong = 'fewer_slices', notice } = options;
  const whole = await conversation.encode({ sliceConfig: options.sliceConfig, maxFrames: null });
  const { text } = whole;
  if (text.inputIds.length <= maxLength) return whole;
  const received = `Expected at most ${maxLength} tokens for a record but received ${describeLength(text)}`;
  if (overlong === 'error') {
    throw new UserError(`${received}.`, {
      flag: '--model_max_length',
      cure: 'Raise --model_max_length, shorten the record, or choose another --overlong.',
    });
  }
  if (overlong === 'drop') {
    notice?.({ kind: 'drop', message: `${received}; it is left out.` });
    return null;
  }
  const fitted = overlong === 'fewer_slices' ? await withLess(whole, options, conversation) : whole;
  if (fitted.text.inputIds.length <= maxLength) return fitted;
  const short = truncate(fitted.text, maxLength);
  if (!isSupervised(short)) {
    throw new UserError(`${received}, and nothing to learn is left of it when it is cut.`, {
      flag: '--model_max_length',
      cure: 'Raise --model_max_length, or shorten what comes before the first answer.',
    });
  }
  notice?.({ kind: 'truncate_text', message: `${received}; its end is cut off.` });
  return { ...fitted, text: short };
}

/** Reads the media of a conversation; `known`: they are read already. */
export async function openConversation(
  messages: readonly ChatMessage[],
  options: ReadOptions & Pick<RecordOptions, 'thinking'>,
  purpose: Purpose,
  known?: readonly ReadMedium[],
): Promise<Conversation> {
  const template = chatTemplate(options.llmType, options.tokenizer);
  const media = known ?? (await readMedia(messages, options));
  const { enableThinking = false, imageIds = true, thinking = 'inference' } = options;
  const { numbered = false, separator = '' } = options.video ?? {};
  const layout: LayoutOptions = { purpose, thinking, enableThinking, imageIds, videos: { numbered, separator } };
  const encode = async (shown: Shown): Promise<Fitted> => {
    const measured = media.map((medium) => measureMedium(medium, shown, options));
    return { text: await encodeMessages(template, messages, measured, layout), shown, media: measured };
  };
  return { media, encode };
}

/** What a sample has beside its ids and labels. Of images and videos, as many count as have a place in the text. */
export async function encodeShown(
  { text, shown, media }: Fitted,
  read: readonly ReadMedium[],
  options: ReadOptions,
): Promise<Omit<EncodedPrompt, 'inputIds'>> {
  const wanted = (options.pixels ?? true) === true;
  const none: Pictures = { pictures: [], groups: [] };
  const { pictures, groups } = wanted ? await encodeMedia(read.slice(0, text.imageSpans.length), shown, options) : none;
  return {
    imageBounds: text.imageBounds,
    pictures,
    ...(groups.some((count) => count > 1) ? { groups } : {}),
    ...positionsOf(text, media, options),
    ...videosOf(media.slice(0, text.imageSpans.length)),
  };
}

function videosOf(media: readonly MeasuredMedium[]): Pick<EncodedSample, 'videos'> {
  const videos: EncodedVideo[] = [];
  let first = 0;
  for (const { kind, sizes, times } of media) {
    if (kind === 'video') videos.push({ bounds: [first, first + sizes.length], times: [...times] });
    first += sizes.length;
  }
  return videos.length > 0 ? { videos } : {};
}

/** Positions on a canvas, where the model has one and the text has pictures. */
function positionsOf(
  { inputIds, imageBounds }: EncodedText,
  media: readonly MeasuredMedium[],
  { canvas, pictureTokens }: PromptOptions,
): Pick<EncodedSample, 'positionIds'> {
  if (!canvas || imageBounds.length === 0) return {};
  const sizes = media.flatMap((medium) => medium.sizes).slice(0, imageBounds.length);
  const grids = sizes.map((size): [number, number] => {
    const side = Math.sqrt((size.rows * size.cols) / countTokens(pictureTokens, size)); // of a token in patches
    return [size.rows / side, size.cols / side];
  });
  return { positionIds: canvasPositions({ inputIds, bounds: imageBounds, grids, marks: canvas }).positionIds };
}

/**
 * Encodes one record of the seed form (see `parseRecord`).
 * @returns null only when the record is too long and `overlong` is 'drop'
 * @throws UserError naming the turn, what was expected and received, and the cure; the caller adds file and record
 */
export async function encodeRecord(record: SeedRecord, options: RecordOptions): Promise<EncodedSample | null> {
  const checked = parseRecord(record);
  if (options.compat === 'official') {
    checkRecord(checked, options);
    return await encodeOfficialRecord(checked, options);
  }
  return await encodeConversation(checkRecord(checked, options), options);
}

/**
 * Encodes a conversation to learn from, whose parts are joined with exactly one newline.
 * @returns null only when it is too long and `overlong` is 'drop'
 * @throws UserError as `encodeRecord`
 */
export async function encodeConversation(
  messages: readonly ChatMessage[],
  options: RecordOptions,
): Promise<EncodedSample | null> {
  const conversation = await openConversation(messages, options, 'training');
  const fitted = await fit(conversation, options);
  if (!fitted) return null;
  return {
    inputIds: Int32Array.from(fitted.text.inputIds),
    labels: Int32Array.from(fitted.text.labels),
    ...(await encodeShown(fitted, conversation.media, options)),
  };
}

/** As the official code encodes it; but pictures and their places must belong together, or the model could not use them. */
async function encodeOfficialRecord(record: SeedRecord, options: RecordOptions): Promise<EncodedSample> {
  const sample = await encodeOfficial({ ...record, image: record.image ?? {} }, options);
  if (sample.imageBounds.length !== sample.pictures.length) {
    throw new UserError(
      `Expected a place in the text for each of the ${sample.pictures.length} pictures but received ${sample.imageBounds.length}.`,
      { flag: '--compat', cure: 'Use each image tag once, raise --model_max_length, or leave out --compat official.' },
    );
  }
  return sample;
}

/**
 * Encodes a conversation that the model shall continue.
 * @throws UserError as `encodeRecord`
 */
export async function encodePrompt(messages: readonly ChatMessage[], options: ReadOptions): Promise<EncodedPrompt> {
  checkMessages(messages, chatTemplate(options.llmType, options.tokenizer), options.allowSpecialText ?? false);
  const purpose = options.continueFinal === true ? 'continue' : 'prompt';
  const conversation = await openConversation(messages, options, purpose);
  const whole = await conversation.encode({ sliceConfig: options.sliceConfig, maxFrames: null });
  const inputIds = Int32Array.from(whole.text.inputIds);
  return { inputIds, ...(await encodeShown(whole, conversation.media, options)) };
}
