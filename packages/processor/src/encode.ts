/**
 * A record or prompt to ids, labels, bounds and pixels. The result is what the collator takes. Pure data in and out, no
 * tensors, no files but the images': runs in worker threads.
 */
import { UserError } from '@minicpm-finetune/run';
import { checkRecord } from './chat/check-record.js';
import { type ChatMessage, checkMessages } from './chat/messages.js';
import { encodeOfficial } from './chat/official.js';
import { isSupervised, truncate } from './chat/overlong.js';
import { parseRecord, type SeedRecord } from './chat/record.js';
import { type EncodedText, encodeMessages, type Grid, type Purpose } from './chat/segments.js';
import { chatTemplate } from './chat/templates.js';
import { decodeImage, type ImageSource, measureImage, PILLOW_MAX_PIXELS } from './image/decode.js';
import { planSlices, type SliceConfig } from './image/geometry.js';
import { measureHeader } from './image/header.js';
import { checkShape, type EncodedPicture, encodeImage } from './image/pictures.js';
import type { RgbImage } from './image/resize.js';
import { imageSource } from './image/source.js';
import type { EncodedPrompt, EncodedSample, ModelInput, PromptOptions, RecordOptions } from './sample.js';

export * from './sample.js';

export type ReadOptions = PromptOptions & Pick<RecordOptions, 'pixels'>;

const NO_PIXELS = new Uint8Array(0);

/** An image that was read, and the most slices it is cut into where its message says so. */
export type ReadImage = RgbImage & { readonly maxSliceNums?: number };

/** Images in order of appearance; the same source twice is read once. */
async function readImages(messages: readonly ChatMessage[], options: ReadOptions): Promise<ReadImage[]> {
  const sources: { image: ImageSource; maxSliceNums?: number; turn: number }[] = [];
  for (const [turn, { content }] of messages.entries()) {
    if (typeof content === 'string') continue;
    for (const part of content) if (typeof part !== 'string') sources.push({ ...part, turn });
  }
  const read = new Map<ImageSource, RgbImage>();
  for (const { image, turn } of sources) {
    if (!read.has(image)) read.set(image, await readImage(image, turn, options));
  }
  return sources.map(({ image, maxSliceNums }) =>
    maxSliceNums === undefined ? read.get(image)! : { ...read.get(image)!, maxSliceNums },
  );
}

/** How an image is cut: as all are, into no more slices than its message allows. */
function sliceConfigOf({ maxSliceNums }: ReadImage, sliceConfig: SliceConfig | null): SliceConfig | null {
  if (sliceConfig === null || maxSliceNums === undefined) return sliceConfig;
  return { ...sliceConfig, maxSliceNums: Math.min(maxSliceNums, sliceConfig.maxSliceNums) };
}

async function readImage(source: ImageSource, turn: number, options: ReadOptions): Promise<RgbImage> {
  const { imageRoot, maxImagePixels = PILLOW_MAX_PIXELS, notice, pixels = true } = options;
  try {
    const path = imageSource(source, imageRoot);
    const decodeOptions = {
      maxImagePixels,
      notice: (message: string) => notice?.({ kind: 'first_frame', message }),
    };
    const measure = pixels === 'header' ? measureHeader : measureImage;
    const image =
      pixels === true
        ? await decodeImage(path, decodeOptions)
        : { ...(await measure(path, decodeOptions)), data: NO_PIXELS };
    checkShape(image, options);
    return image;
  } catch (error) {
    throw error instanceof UserError ? error.at({ turn }) : error;
  }
}

function grids(images: readonly ReadImage[], sliceConfig: SliceConfig | null): Grid[] {
  return images.map((image) => {
    const own = sliceConfigOf(image, sliceConfig);
    return own ? planSlices([image.width, image.height], own).grid : null;
  });
}

function describeLength(text: EncodedText): string {
  const inImages = text.imageSpans.reduce((sum, [start, end]) => sum + end - start, 0);
  return `${text.inputIds.length} (${inImages} of them for ${text.imageBounds.length} pictures of ${text.imageSpans.length} images)`;
}

/** A conversation that fits, with the slicing under which it does. */
export interface Fitted {
  text: EncodedText;
  sliceConfig: SliceConfig | null;
}

/** Lowers the number of slices step by step until the conversation fits; without slices it may still be too long. */
async function withFewerSlices(
  first: EncodedText,
  options: RecordOptions,
  encode: (sliceConfig: SliceConfig) => Promise<EncodedText>,
): Promise<Fitted> {
  let fitted: Fitted = { text: first, sliceConfig: options.sliceConfig };
  while (fitted.text.inputIds.length > options.maxLength && fitted.sliceConfig && fitted.sliceConfig.maxSliceNums > 1) {
    const sliceConfig = { ...fitted.sliceConfig, maxSliceNums: fitted.sliceConfig.maxSliceNums - 1 };
    fitted = { text: await encode(sliceConfig), sliceConfig };
  }
  if (fitted.text.imageBounds.length < first.imageBounds.length) {
    const message = `${first.imageBounds.length} pictures became ${fitted.text.imageBounds.length}, so that ${first.inputIds.length} tokens became ${fitted.text.inputIds.length}.`;
    options.notice?.({ kind: 'fewer_slices', message });
  }
  return fitted;
}

/** Makes a conversation fit as `overlong` says. Returns null when it is dropped. */
export async function fit(
  text: EncodedText,
  options: RecordOptions,
  encode: (sliceConfig: SliceConfig) => Promise<EncodedText>,
): Promise<Fitted | null> {
  const { maxLength, overlong = 'fewer_slices', notice, sliceConfig } = options;
  if (text.inputIds.length <= maxLength) return { text, sliceConfig };
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
  const fitted = overlong === 'fewer_slices' ? await withFewerSlices(text, options, encode) : { text, sliceConfig };
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

/** The pictures of all images, as many as have a place in the text. */
export function picturesOf(images: readonly ReadImage[], text: EncodedText, input: ModelInput): EncodedPicture[] {
  const kept = images.slice(0, text.imageSpans.length);
  return kept.flatMap(
    (image) => encodeImage(image, { ...input, sliceConfig: sliceConfigOf(image, input.sliceConfig) }).pictures,
  );
}

/** A conversation whose images were read. */
export interface OpenConversation {
  readonly images: readonly ReadImage[];
  encode(sliceConfig: SliceConfig | null): Promise<EncodedText>;
}

/** Reads the images of a conversation; `known`: they are read already. */
export async function encodeConversation(
  messages: readonly ChatMessage[],
  options: ReadOptions,
  purpose: Purpose,
  known?: readonly ReadImage[],
): Promise<OpenConversation> {
  const template = chatTemplate(options.llmType, options.tokenizer);
  const images = known ?? (await readImages(messages, options));
  const encode = (sliceConfig: SliceConfig | null) =>
    encodeMessages(template, messages, grids(images, sliceConfig), options.queryNum, purpose);
  return { images, encode };
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
  const { images, encode } = await encodeConversation(checkRecord(checked, options), options, 'training');
  const fitted = await fit(await encode(options.sliceConfig), options, encode);
  if (!fitted) return null;
  const { text, sliceConfig } = fitted;
  return {
    inputIds: Int32Array.from(text.inputIds),
    labels: Int32Array.from(text.labels),
    imageBounds: text.imageBounds,
    pictures: (options.pixels ?? true) === true ? picturesOf(images, text, { ...options, sliceConfig }) : [],
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
  const { images, encode } = await encodeConversation(messages, options, purpose);
  const text = await encode(options.sliceConfig);
  const pictures = (options.pixels ?? true) === true ? picturesOf(images, text, options) : [];
  return { inputIds: Int32Array.from(text.inputIds), imageBounds: text.imageBounds, pictures };
}
