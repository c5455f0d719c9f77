/**
 * Two answers to one prompt, for preference tuning. The prompt is encoded once and both answers follow it: the row holds
 * the first conversation and then the other one's answer alone. Images are read and cut once.
 *
 * The last token of the prompt is in the row twice, at the front of either answer: it is what predicts their first tokens.
 */
import { UserError } from '@minicpm-finetune/run';
import { checkRecord } from './chat/check-record.js';
import { isSupervised, truncate } from './chat/overlong.js';
import { parseRecord, type RecordTurn, type SeedRecord } from './chat/record.js';
import { type EncodedText, IGNORED } from './chat/segments.js';
import { type Conversation, encodeShown, type Fitted, fit, openConversation } from './encode.js';
import type { EncodedSample, RecordOptions } from './sample.js';

const sameTurn = (a: RecordTurn | undefined, b: RecordTurn | undefined): boolean =>
  a !== undefined && b !== undefined && a.role === b.role && a.content === b.content && a.thought === b.thought;

/** The records with only those answers supervised that come where the conversations differ. */
function comparedAnswers(first: SeedRecord, second: SeedRecord): [SeedRecord, SeedRecord] {
  const [a, b] = [first.conversations, second.conversations];
  let common = 0;
  while (sameTurn(a[common], b[common])) common++;
  if (common === a.length && common === b.length) common--; // one answer, of different pictures
  const compared = (record: SeedRecord): SeedRecord => ({
    ...record,
    conversations: record.conversations.map((turn, i) => (i < common ? { ...turn, supervised: false } : turn)),
  });
  return [compared(first), compared(second)];
}

/**
 * Encodes two conversations that differ in their answers (or in their images) as one row. Overlong ones are made to fit as `overlong` says,
 * both with the same slices.
 * @returns null only when one of them is too long and `overlong` is 'drop'
 * @throws UserError as `encodeRecord`
 */
export async function encodeAnswers(
  first: SeedRecord,
  second: SeedRecord,
  options: RecordOptions,
): Promise<EncodedSample | null> {
  const records = comparedAnswers(parseRecord(first), parseRecord(second));
  const [chosen, rejected] = records.map((record) => checkRecord(record, options)) as [
    ReturnType<typeof checkRecord>,
    ReturnType<typeof checkRecord>,
  ];
  const a = await openConversation(chosen, options, 'training');
  const sameMedia = first.image === second.image && first.video === second.video;
  const b = await openConversation(rejected, options, 'training', sameMedia ? a.media : undefined);
  const both = await fitBoth(a, b, options);
  return both && (await joined(both, [a, b], options, sameMedia));
}

type Both = readonly [Fitted, Fitted];

/** Makes the longer conversation fit, and shows as much of its media to the other one. */
async function fitBoth(a: Conversation, b: Conversation, options: RecordOptions): Promise<Both | null> {
  const everything = { sliceConfig: options.sliceConfig, maxFrames: null };
  const lengths = [await a.encode(everything), await b.encode(everything)].map(({ text }) => text.inputIds.length);
  const aIsLonger = lengths[0]! >= lengths[1]!;
  const long = await fit(aIsLonger ? a : b, options);
  if (long === null) return null;
  const whole = await (aIsLonger ? b : a).encode(long.shown);
  const short = { ...whole, text: truncate(whole.text, options.maxLength) };
  if (!isSupervised(short.text))
    throw new UserError(
      `Expected at most ${options.maxLength} tokens for both answers of a record, but nothing to learn is left of one of them when it is cut.`,
      {
        flag: '--model_max_length',
        cure: 'Raise --model_max_length, or shorten what comes before the answers.',
      },
    );
  return aIsLonger ? [long, short] : [short, long];
}

/** Two conversations as one row. What they share is there once, pictures included. */
async function joined(
  both: Both,
  [a, b]: readonly [Conversation, Conversation],
  options: RecordOptions,
  sameMedia: boolean,
): Promise<EncodedSample> {
  const [x, y] = both.map(({ text }) => text) as [EncodedText, EncodedText];
  const shared = sameMedia ? sharedTokens(x, y) : 0;
  const kept = y.imageBounds.filter(([, end]) => end <= shared).length;
  const first = await encodeShown(both[0], a.media, options);
  const allShared = kept === y.imageBounds.length;
  const second = await encodeShown(both[1], b.media, allShared ? { ...options, pixels: false } : options);
  const moved = x.inputIds.length - shared;
  const groups = [
    first.groups ?? x.imageBounds.map(() => 1),
    (second.groups ?? y.imageBounds.map(() => 1)).slice(kept),
  ];
  const before = (second.groups ?? y.imageBounds.map(() => 1)).slice(0, kept).reduce((sum, count) => sum + count, 0);
  return {
    inputIds: Int32Array.from([...x.inputIds, ...y.inputIds.slice(shared)]),
    labels: Int32Array.from([...x.labels, ...y.labels.slice(shared)]),
    imageBounds: [
      ...x.imageBounds,
      ...y.imageBounds.slice(kept).map(([start, end]): [number, number] => [start + moved, end + moved]),
    ],
    pictures: [...first.pictures, ...second.pictures.slice(allShared ? 0 : before)],
    ...(groups.flat().some((count) => count > 1) ? { groups: groups.flat() } : {}),
    ...positionsOfBoth(first.positionIds, second.positionIds),
    ...(first.videos ? { videos: first.videos } : {}),
    answers: { shared, first: x.inputIds.length },
  };
}

/** (3 * (L + M)) of (3 * L) and (3 * M): both sequences one after the other on each axis. */
function positionsOfBoth(
  first: Int32Array | undefined,
  second: Int32Array | undefined,
): Pick<EncodedSample, 'positionIds'> {
  if (first === undefined || second === undefined) return {};
  const axis = (positions: Int32Array, i: number): Int32Array =>
    positions.subarray((i * positions.length) / 3, ((i + 1) * positions.length) / 3);
  return { positionIds: Int32Array.from([0, 1, 2].flatMap((i) => [...axis(first, i), ...axis(second, i)])) };
}

/** How many tokens both texts begin with, before the token that predicts the first one to learn; 0 where their prompts differ. */
function sharedTokens(x: EncodedText, y: EncodedText): number {
  const first = Math.min(...[x, y].map(({ labels }) => labels.findIndex((label) => label !== IGNORED)));
  for (let i = 0; i <= first; i++) if (x.inputIds[i] !== y.inputIds[i]) return 0;
  return first;
}
