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
import { encodeConversation, fit, type OpenConversation, picturesOf } from './encode.js';
import type { EncodedSample, RecordOptions } from './sample.js';

const sameTurn = (a: RecordTurn | undefined, b: RecordTurn | undefined): boolean =>
  a !== undefined && b !== undefined && a.role === b.role && a.content === b.content;

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
  const a = await encodeConversation(chosen, options, 'training');
  const sameImages = first.image === second.image;
  const b = await encodeConversation(rejected, options, 'training', sameImages ? a.images : undefined);
  const fitted = await fitBoth(a, b, options);
  if (fitted === null) return null;
  const [x, y] = fitted.texts;
  const shared = sameImages ? sharedTokens(x, y) : 0;
  const kept = y.imageBounds.filter(([, end]) => end <= shared).length;
  const moved = x.inputIds.length - shared;
  const withPixels = (options.pixels ?? true) === true;
  const input = { ...options, sliceConfig: fitted.sliceConfig };
  const others = y.imageBounds
    .slice(kept)
    .map(([start, end]): [number, number] => [start + moved, end + moved]);
  return {
    inputIds: Int32Array.from([...x.inputIds, ...y.inputIds.slice(shared)]),
    labels: Int32Array.from([...x.labels, ...y.labels.slice(shared)]),
    imageBounds: [...x.imageBounds, ...others],
    pictures: withPixels
      ? [
          ...picturesOf(a.images, x, input),
          ...(others.length > 0 ? picturesOf(b.images, y, input).slice(kept) : []),
        ]
      : [],
    answers: { shared, first: x.inputIds.length },
  };
}

type Texts = readonly [EncodedText, EncodedText];

/** Makes the longer conversation fit, and gives the other one the same slices. */
async function fitBoth(
  a: OpenConversation,
  b: OpenConversation,
  options: RecordOptions,
): Promise<{ texts: Texts; sliceConfig: RecordOptions['sliceConfig'] } | null> {
  const whole = [await a.encode(options.sliceConfig), await b.encode(options.sliceConfig)] as const;
  const aIsLonger = whole[0].inputIds.length >= whole[1].inputIds.length;
  const [longer, other] = aIsLonger ? [a, b] : [b, a];
  const [long, short] = aIsLonger ? whole : [whole[1], whole[0]];
  const fitted = await fit(long, options, (sliceConfig) => longer.encode(sliceConfig));
  if (fitted === null) return null;
  const { sliceConfig } = fitted;
  const text = truncate(
    sliceConfig === options.sliceConfig ? short : await other.encode(sliceConfig),
    options.maxLength,
  );
  if (!isSupervised(text))
    throw new UserError(
      `Expected at most ${options.maxLength} tokens for both answers of a record, but nothing to learn is left of one of them when it is cut.`,
      {
        flag: '--model_max_length',
        cure: 'Raise --model_max_length, or shorten what comes before the answers.',
      },
    );
  return { texts: aIsLonger ? [fitted.text, text] : [text, fitted.text], sliceConfig };
}

/** How many tokens both texts begin with, before the token that predicts the first one to learn; 0 where their prompts differ. */
function sharedTokens(x: EncodedText, y: EncodedText): number {
  const first = Math.min(...[x, y].map(({ labels }) => labels.findIndex((label) => label !== IGNORED)));
  for (let i = 0; i <= first; i++) if (x.inputIds[i] !== y.inputIds[i]) return 0;
  return first;
}
