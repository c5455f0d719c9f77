/**
 * A quick look at a record without decoding pictures. Finds everything that sizes, headers, lengths and flags tell.
 * For the preflight. What only decoding finds (damage in the middle of a picture) is found by `decodeAll`.
 */
import {
  type ChatMessage,
  chatTemplate,
  checkMessages,
  checkShape,
  encodePrompt,
  type ImageSource,
  measureHeader,
  measureImage,
  PILLOW_MAX_PIXELS,
  planSlices,
  recordMessages,
} from '@minicpm-finetune/processor';
import { UserError } from '@minicpm-finetune/run';
import type { Encoder } from './encoder.js';
import { questionOf } from './question.js';
import { type DataRecord, imagesOf } from './record.js';

/** What a record is for: to learn from, or to ask its question. */
export type Purpose = 'training' | 'question';

/** Marks around each picture. */
const TOKENS_PER_PICTURE = 2;
/** Header and end of a turn. */
const TOKENS_PER_TURN = 5;
/** More tokens than the count below can be wrong by: for each turn (header, thoughts) and for each picture (number, line breaks). */
const DOUBT = { record: 64, turn: 24, picture: 8 } as const;

/**
 * The record's length in tokens, within a few of the true one.
 *
 * @throws UserError as encoding would, but for what only decoding finds
 */
export async function look(record: DataRecord, encoder: Encoder, purpose: Purpose): Promise<number> {
  if (purpose === 'question') return await lookAtQuestion(record, encoder);
  const { setup, tokenizer } = encoder;
  const official = setup.compat === 'official';
  const template = chatTemplate(setup.llmType, tokenizer);
  if (!official) checkMessages(recordMessages(record), template, setup.allowSpecialText ?? false);
  let tokens = record.conversations[0]?.role === 'system' ? 0 : await encoder.beginTokens();
  for (const { content } of record.conversations) {
    tokens += TOKENS_PER_TURN + (await tokenizer.encode(content, { plain: true })).length;
  }
  let pictures = 0;
  for (const source of imagesOf(record)) {
    const [width, height] = await pictureSize(source, record, encoder);
    const grid = setup.sliceConfig ? planSlices([width, height], setup.sliceConfig).grid : null;
    pictures += 1 + (grid ? grid[0] * grid[1] : 0);
  }
  tokens += pictures * (setup.queryNum + TOKENS_PER_PICTURE);
  const doubt = DOUBT.record + DOUBT.turn * record.conversations.length + DOUBT.picture * pictures;
  if (official || tokens + doubt > setup.maxLength) await encoder.encode(record, { pixels: 'header' });
  return tokens;
}

async function pictureSize(
  source: ImageSource,
  record: DataRecord,
  { setup }: Encoder,
): Promise<[width: number, height: number]> {
  const { maxImagePixels = PILLOW_MAX_PIXELS, compat } = setup;
  try {
    const size = await measureHeader(source, { maxImagePixels });
    if (compat !== 'official') checkShape(size, setup);
    return [size.width, size.height];
  } catch (error) {
    throw withTurn(error, source, record, setup);
  }
}

/** The error with the turn that shows the picture, where it has one. */
function withTurn(error: unknown, source: ImageSource, record: DataRecord, { compat }: Encoder['setup']): unknown {
  if (!(error instanceof UserError) || compat === 'official') return error;
  const shows = ({ content }: ChatMessage): boolean =>
    typeof content !== 'string' && content.some((part) => typeof part !== 'string' && part.image === source);
  const turn = questionOf(record).messages.findIndex(shows);
  return turn === -1 ? error : error.at({ turn });
}

async function lookAtQuestion(record: DataRecord, { setup, tokenizer }: Encoder): Promise<number> {
  const prompt = await encodePrompt(questionOf(record).messages, { ...setup, tokenizer, pixels: 'header' });
  return prompt.inputIds.length;
}

/**
 * Decodes every picture of a record, and forgets it.
 *
 * @throws UserError for one that cannot be decoded
 */
export async function decodeAll(record: DataRecord, { setup }: Encoder): Promise<void> {
  const { maxImagePixels = PILLOW_MAX_PIXELS } = setup;
  for (const source of imagesOf(record)) {
    try {
      await measureImage(source, { maxImagePixels });
    } catch (error) {
      throw withTurn(error, source, record, setup);
    }
  }
}
