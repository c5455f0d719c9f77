/**
 * A quick look at records without decoding pictures. Finds everything that sizes, headers, lengths and flags tell.
 * For the preflight. What only decoding finds (damage in the middle of a picture) is found by `decodeAll`.
 */
import {
  type ChatMessage,
  checkRecord,
  checkShape,
  countTokens,
  encodePrompt,
  type ImageSource,
  measureHeader,
  measureImage,
  PILLOW_MAX_PIXELS,
  planSlices,
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
/** More tokens than a length below can be wrong by: for each turn (header, thoughts) and each picture (number, line breaks). */
const DOUBT = { record: 16, turn: 8, picture: 8 } as const;

/**
 * Looks at records to learn from. Each gets its length in tokens, within a few of the true one, or the UserError that encoding would throw, but
 * for what only decoding finds. Shape: (records)
 */
export async function lookAtRecords(records: readonly DataRecord[], encoder: Encoder): Promise<(number | UserError)[]> {
  const { setup, tokenizer } = encoder;
  const pictures: (Shown | UserError)[] = [];
  for (const record of records) pictures.push(await orUserError(() => countPictures(record, encoder)));
  const turns = await tokenizer.count(
    records.flatMap(({ conversations }) => conversations.map(({ content }) => content)),
  );
  const begin = await encoder.beginTokens();
  const lengths: (number | UserError)[] = [];
  let at = 0;
  for (const [i, record] of records.entries()) {
    const counts = turns.slice(at, at + record.conversations.length);
    at += counts.length;
    const shown = pictures[i]!;
    if (shown instanceof UserError) {
      lengths.push(shown);
      continue;
    }
    const start = record.conversations[0]?.role === 'system' ? 0 : begin;
    const { tokens, fine } = measureTurns(record, { start, counts, ...shown }, setup);
    lengths.push(fine ? tokens : await orUserError(() => encodeHeaders(record, encoder, tokens)));
  }
  return lengths;
}

type Shown = Pick<Counted, 'pictures' | 'features'>;

interface Counted {
  /** Tokens before the first turn. */
  readonly start: number;
  /** Tokens of each turn's text. */
  readonly counts: readonly number[];
  /** Pictures, slices among them, and their features. */
  readonly pictures: number;
  readonly features: number;
}

/** The length of a record in tokens, and whether it can certainly be used: it fits, or something to learn is left when it is cut. */
function measureTurns(
  { conversations }: DataRecord,
  { start, counts, pictures, features }: Counted,
  { maxLength, overlong, compat }: Encoder['setup'],
): { tokens: number; fine: boolean } {
  const shown = features + pictures * TOKENS_PER_PICTURE;
  const upTo = (turns: number): number =>
    start + TOKENS_PER_TURN * turns + counts.slice(0, turns).reduce((sum, count) => sum + count, 0) + shown;
  const most = (turns: number): number => upTo(turns) + DOUBT.record + DOUBT.turn * turns + DOUBT.picture * pictures;
  const tokens = upTo(counts.length);
  if (compat === 'official') return { tokens, fine: false };
  if (most(counts.length) <= maxLength || overlong === 'drop') return { tokens, fine: true };
  const learned = conversations.findIndex(({ role, supervised = true }) => role === 'assistant' && supervised);
  const fine = overlong !== 'error' && learned !== -1 && most(learned) + TOKENS_PER_TURN < maxLength;
  return { tokens, fine };
}

/** `tokens`, once encoding without pictures has worked. */
async function encodeHeaders(record: DataRecord, encoder: Encoder, tokens: number): Promise<number> {
  await encoder.encode(record, { pixels: 'header' });
  return tokens;
}

async function orUserError<T>(work: () => Promise<T>): Promise<T | UserError> {
  try {
    return await work();
  } catch (error) {
    if (error instanceof UserError) return error;
    throw error;
  }
}

/** Pictures, slices among them, of a record whose conversation and images are sound. */
async function countPictures(record: DataRecord, encoder: Encoder): Promise<Shown> {
  const { setup, tokenizer } = encoder;
  checkRecord(record, { ...setup, tokenizer });
  const { sliceConfig, patchSize, pictureTokens } = setup;
  const featuresOf = (width: number, height: number): number =>
    countTokens(pictureTokens, { rows: Math.floor(height / patchSize), cols: Math.floor(width / patchSize) });
  let [pictures, features] = [0, 0];
  for (const source of imagesOf(record)) {
    const size = await pictureSize(source, record, encoder);
    const plan = sliceConfig ? planSlices(size, sliceConfig) : null;
    pictures += 1 + (plan?.boxes.flat().length ?? 0);
    features += featuresOf(...(plan?.source ?? size));
    for (const [left, top, right, bottom] of plan?.boxes.flat() ?? []) features += featuresOf(right - left, bottom - top);
  }
  return { pictures, features };
}

/** Looks at a record to be asked. Returns the length of the prompt in tokens. */
export async function lookAtQuestion(record: DataRecord, { setup, tokenizer }: Encoder): Promise<number> {
  const prompt = await encodePrompt(questionOf(record).messages, { ...setup, tokenizer, pixels: 'header' });
  return prompt.inputIds.length;
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
