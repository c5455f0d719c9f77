/**
 * A quick look at records without decoding pictures. Finds everything that sizes, headers, lengths and flags tell.
 * For the preflight. What only decoding finds (damage in the middle of a picture) is found by `decodeAll`.
 */
import {
  checkRecord,
  encodePrompt,
  measureConversation,
  measureHeader,
  measureImage,
  PILLOW_MAX_PIXELS,
} from '@minicpm-finetune/processor';
import { UserError } from '@minicpm-finetune/run';
import { type Encoder, requirePurpose } from './encoder.js';
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
    records.flatMap(({ conversations }) => conversations.map(({ content, thought = '' }) => thought + content)),
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

/** The length of a record that is encoded without pictures; `tokens` where it is left out. */
async function encodeHeaders(record: DataRecord, encoder: Encoder, tokens: number): Promise<number> {
  const { sample } = await encoder.encode(record, { pixels: 'header' });
  return sample?.inputIds.length ?? tokens;
}

async function orUserError<T>(work: () => Promise<T>): Promise<T | UserError> {
  try {
    return await work();
  } catch (error) {
    if (error instanceof UserError) return error;
    throw error;
  }
}

/** Pictures, slices and frames among them, of a record whose conversation, images and videos are sound. */
async function countPictures(record: DataRecord, encoder: Encoder): Promise<Shown> {
  const { setup, tokenizer } = encoder;
  requirePurpose(record, setup.preference);
  const messages = checkRecord(record, { ...setup, tokenizer });
  if (setup.compat === 'official') {
    for (const source of imagesOf(record)) await measureHeader(source, limitsOf(setup));
    return { pictures: 0, features: 0 }; // its length is that of an encoding
  }
  return await measureConversation(messages, { ...setup, tokenizer, pixels: 'header' });
}

const limitsOf = ({ maxImagePixels = PILLOW_MAX_PIXELS }: Encoder['setup']) => ({ maxImagePixels });

/** Looks at a record to be asked. Returns the length of the prompt in tokens. */
export async function lookAtQuestion(record: DataRecord, { setup, tokenizer }: Encoder): Promise<number> {
  const prompt = await encodePrompt(questionOf(record).messages, { ...setup, tokenizer, pixels: 'header' });
  return prompt.inputIds.length;
}

/**
 * Decodes every picture and frame of a record, and forgets it.
 *
 * @throws UserError for one that cannot be decoded
 */
export async function decodeAll(record: DataRecord, { setup, tokenizer }: Encoder): Promise<void> {
  if (setup.compat === 'official') {
    for (const source of imagesOf(record)) await measureImage(source, limitsOf(setup));
    return;
  }
  const { rejected } = record;
  const other = rejected !== undefined && rejected.image !== record.image ? [{ ...record, ...rejected }] : [];
  for (const one of [record, ...other])
    await measureConversation(questionOf(one).messages, { ...setup, tokenizer, pixels: false });
}
