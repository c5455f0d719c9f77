/**
 * `--compat official`: records as the official code has them. Follows `finetune/dataset.py` of the MiniCPM-V cookbook
 * and of OpenBMB's repository, quirks included. Where that code fails on every record (llm types minicpm and llama:
 * lists in place of arrays) it is repaired in that one point. Where it raises, this throws a UserError.
 *
 * Here: images and their places in the text. Tokens and the loss mask are in `official-ids.ts`.
 */
import { expected, UserError } from '@minicpm-finetune/run';
import { decodeImage, type ImageSource, PILLOW_MAX_PIXELS } from '../image/decode.js';
import { planSlices } from '../image/geometry.js';
import { measureHeader } from '../image/header.js';
import { checkShape, type EncodedPicture, encodeImage, type SlicedImage } from '../image/pictures.js';
import type { RgbImage } from '../image/resize.js';
import { imageSource } from '../image/source.js';
import { fixedTokens } from '../picture-tokens.js';
import type { EncodedSample, RecordOptions } from '../sample.js';
import { conversationToIds, type OfficialVariant, type RawMessage } from './official-ids.js';
import { imagePlaceholder } from './placeholders.js';
import { NUMBERED_TAG } from './python.js';
import { requireTokens } from './templates.js';

export interface OfficialOptions extends RecordOptions {
  /** The two copies of the code differ in where the mask of the qwen branch starts. Default: 'cookbook'. */
  variant?: OfficialVariant;
}

const SINGLE_TAG = '<image>';
const NO_PIXELS = new Uint8Array(0);

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value) && !(value instanceof Uint8Array);
}

async function readImages(image: unknown, options: OfficialOptions): Promise<Map<string, RgbImage>> {
  const sources = isObject(image) ? Object.entries(image) : [[SINGLE_TAG, image] as const];
  const images = new Map<string, RgbImage>();
  for (const [tag, source] of sources) {
    if (typeof source !== 'string' && !(source instanceof Uint8Array)) {
      throw expected('the path of an image', tag, source, {
        cure: 'The official code knows no records without images; leave out --compat official, or write "image": {}.',
      });
    }
    images.set(tag, await readImage(source, options));
  }
  return images;
}

async function readImage(source: ImageSource, options: OfficialOptions): Promise<RgbImage> {
  const { imageRoot, maxImagePixels = PILLOW_MAX_PIXELS, notice } = options;
  const path = imageSource(source, imageRoot);
  const decode = { maxImagePixels, notice: (message: string) => notice?.({ kind: 'first_frame', message }) };
  if (options.pixels === 'header') return { ...(await measureHeader(path, decode)), data: NO_PIXELS };
  return await decodeImage(path, decode);
}

/** Slices the images and writes their placeholders; only sliced images get an id, counted among themselves. */
function placeholders(
  images: Map<string, RgbImage>,
  options: OfficialOptions,
): { texts: Map<string, string>; pictures: EncodedPicture[] } {
  const { llmType, sliceConfig, pictureTokens, tokenizer } = options;
  if (llmType === 'qwen' && !sliceConfig && images.size > 0) {
    throw new UserError('Expected a slice configuration for --llm_type qwen but received none.', {
      cure: 'The official code fails without slicing; leave out --compat official.',
    });
  }
  const features = tokenizer.unkToken.repeat(fixedTokens(pictureTokens));
  const texts = new Map<string, string>();
  const pictures: EncodedPicture[] = [];
  let sliced = 0;
  for (const [tag, image] of images) {
    const encoded = options.pixels === 'header' ? withoutPixels(image, options) : encodeImage(image, options);
    const imageId = llmType === 'qwen' && encoded.grid ? sliced++ : undefined;
    const schema = llmType === 'qwen' ? 'new' : 'old';
    texts.set(tag, imagePlaceholder({ schema, grid: encoded.grid, features, imageId }));
    pictures.push(...encoded.pictures);
  }
  return { texts, pictures };
}

/** The grid of an image, and as many pictures as it becomes, empty. */
function withoutPixels(image: RgbImage, options: OfficialOptions): SlicedImage {
  const { sliceConfig } = options;
  if (!sliceConfig) checkShape(image, options);
  const grid = sliceConfig ? planSlices([image.width, image.height], sliceConfig).grid : null;
  const empty: EncodedPicture = { pixels: NO_PIXELS, shape: [3, 0, 0], rows: 0, cols: 0 };
  return { grid, pictures: Array.from({ length: 1 + (grid ? grid[0] * grid[1] : 0) }, () => empty) };
}

function contentText(message: RawMessage, turn: number): string {
  if (typeof message.content === 'string') return message.content;
  throw expected('text', 'the content of a turn', message.content, { turn });
}

/** Puts the placeholders into the text. A single image is looked for in the first turn only. */
function placeImages(conversation: readonly RawMessage[], texts: Map<string, string>): RawMessage[] {
  const single = texts.size === 1 ? texts.get(SINGLE_TAG) : undefined;
  if (single !== undefined) {
    const content = contentText(conversation[0]!, 0);
    const placed = content.includes(SINGLE_TAG)
      ? content.replaceAll(SINGLE_TAG, () => single)
      : `${single}\n${content}`;
    return [{ ...conversation[0], content: placed }, ...conversation.slice(1)];
  }
  return conversation.map((message, turn) => {
    const parts = contentText(message, turn).split(new RegExp(`(${NUMBERED_TAG.source})`, 'u'));
    const placed = parts.map((part, i) => {
      if (i % 2 === 0) return part;
      const text = texts.get(part);
      if (text !== undefined) return text;
      throw new UserError(`Expected an image for the tag ${part} in the text but received none.`, { turn });
    });
    return { ...message, content: placed.join('\n') };
  });
}

function checkConversation(conversation: unknown): RawMessage[] {
  if (!Array.isArray(conversation) || !conversation.every(isObject)) {
    throw expected('a list of turns', 'the key conversations', conversation);
  }
  if (conversation.length < 2) {
    throw expected('at least two turns', 'the key conversations', conversation, { cure: 'Add the answer.' });
  }
  const { role } = conversation[0]!;
  if (role !== 'user') throw expected('user', 'the role of the first turn', role, { turn: 0 });
  return conversation;
}

/**
 * Encodes a record of the seed form. Pictures are in the order of the record, image bounds in that of the text; nothing
 * checks that they belong together.
 * @throws UserError where the official code raises
 */
export async function encodeOfficial(record: unknown, options: OfficialOptions): Promise<EncodedSample> {
  if (!isObject(record)) throw expected('an object', 'a record', record);
  requireTokens(options.llmType, options.tokenizer);
  const conversation = checkConversation(record.conversations);
  const images = await readImages(record.image, options);
  const { texts, pictures } = placeholders(images, options);
  const placed = placeImages(conversation, texts);
  const { tokenizer, llmType, maxLength, variant = 'cookbook' } = options;
  return { ...(await conversationToIds(placed, { tokenizer, llmType, maxLength, variant })), pictures };
}
