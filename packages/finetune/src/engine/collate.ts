/**
 * Collator: encoded records to the tensors of one batch. Records are packed one after the other into one row, so
 * nothing is computed for padding. Each record keeps its own positions and attends to itself alone: the numbers are
 * those of a padded batch. The only place where a record becomes tensors.
 */
import type { ModelInputs, Picture } from '@minicpm-finetune/minicpm-v';
import type { EncodedSample } from '@minicpm-finetune/processor';
import { fromTypedArray, keep, noGrad, scope } from '@minicpm-finetune/torch';
import type { Staging } from './staging.js';

export interface Batch {
  /** ids (1, L) and positions (1, L), or (3, 1, L) on a canvas, int64; all pictures and their bounds */
  readonly inputs: ModelInputs;
  /** (L) shifted ids, -100 where nothing is supervised */
  readonly labels: Int32Array;
  readonly samples: number;
  /** L: tokens of all records */
  readonly tokens: number;
  readonly supervisedTokens: number;
  /** Of records with two answers; null: of records with answers to learn. */
  readonly answers: BatchAnswers | null;
}

/** Where the answers of a batch are. */
export interface BatchAnswers {
  /** (2 · samples) The end of each answer's own tokens in the row: of the first one of a record, then of its other one. */
  readonly ends: readonly number[];
  /** (samples) KTO: whether the first answer is called good. */
  readonly desirable: readonly (boolean | undefined)[];
  /** (samples) Log-probabilities under the reference; null: they are not known. */
  readonly reference: readonly (readonly [number, number])[] | null;
}

/** Text and bounds of a record; what `pack` needs beside its pictures. */
export type Sequence = Pick<
  EncodedSample,
  'inputIds' | 'labels' | 'imageBounds' | 'groups' | 'positionIds' | 'answers'
>;

/**
 * Makes a batch on a device. Its tensors are the receiver's: free them with `disposeBatch`. Pixels stay bytes; the vision tower normalises
 * them.
 *
 * @param staging has pictures on the device already
 */
export function collate(
  samples: readonly EncodedSample[],
  device = 'cpu',
  staging: Staging | null = null,
  reference: BatchAnswers['reference'] = null,
): Batch {
  const pictures = scope(() =>
    samples.flatMap((sample) => {
      const staged = staging?.take(sample);
      return sample.pictures.map(
        ({ pixels, shape, ...picture }, i): Picture => ({
          ...picture,
          pixels: staged?.[i] ?? keep(fromTypedArray(pixels, shape, undefined, device)),
        }),
      );
    }),
  );
  return pack(samples, pictures, device, reference);
}

/** Makes a batch of each micro-batch; null of one without records: all of them are bad, or another rank has the last ones. */
export function collateAll(
  micros: readonly { readonly samples: readonly EncodedSample[]; readonly reference?: BatchAnswers['reference'] }[],
  device: string,
  staging: Staging | null = null,
): (Batch | null)[] {
  return micros.map(({ samples, reference }) =>
    samples.length > 0 ? collate(samples, device, staging, reference) : null,
  );
}

/** Packs sequences whose pictures, in order, are tensors already; the batch takes them over. */
export function pack(
  sequences: readonly Sequence[],
  pictures: readonly Picture[],
  device = 'cpu',
  reference: BatchAnswers['reference'] = null,
): Batch {
  const tokens = sequences.reduce((sum, { inputIds }) => sum + inputIds.length, 0);
  const [ids, labels] = [new BigInt64Array(tokens), new Int32Array(tokens)];
  const bounds: [number, number][] = [];
  const rows = new Rows();
  let start = 0;
  for (const { inputIds, labels: own, imageBounds, answers } of sequences) {
    for (let i = 0; i < inputIds.length; i++) ids[start + i] = BigInt(inputIds[i]!);
    labels.set(own, start);
    for (const [from, to] of imageBounds) bounds.push([start + from, start + to]);
    rows.add(start, answers?.first ?? inputIds.length);
    if (answers) rows.add(start + answers.first, inputIds.length - answers.first, { start, length: answers.shared });
    start += inputIds.length;
  }
  const { positions, shape } = positionsOf(sequences);
  const inputs: ModelInputs = scope(() =>
    noGrad(() => ({
      inputIds: keep(fromTypedArray(ids, [1, tokens], 'int64', device)),
      ids,
      positionIds: keep(fromTypedArray(positions, shape, 'int64', device)),
      pictures: [pictures],
      imageBounds: [bounds],
      ...groupsOf(sequences),
      lengths: rows.lengths,
      ...(rows.shares ? { rows: rows.rows() } : {}),
    })),
  );
  const supervisedTokens = labels.reduce((count, label) => count + (label === -100 ? 0 : 1), 0);
  const desirable = sequences.map(({ answers }) => answers?.desirable);
  const compares = sequences.every(({ answers }) => answers !== undefined);
  const answers = compares ? { ends: rows.ends, desirable, reference } : null;
  return { inputs, labels, samples: sequences.length, tokens, supervisedTokens, answers };
}

/** The places in a row of the tokens of its sequences. */
class Rows {
  /** Of the sequences, shared tokens included. */
  readonly lengths: number[] = [];
  /** Where each one's own tokens end in the row. */
  readonly ends: number[] = [];
  /** Whether any sequence begins with tokens of another one. */
  shares = false;
  readonly #stretches: (readonly [start: number, length: number])[] = [];

  /** A sequence whose own tokens are `length` from `start` on, after others in the row. */
  add(start: number, length: number, before: { readonly start: number; readonly length: number } | null = null): void {
    if (before !== null && before.length > 0) {
      this.#stretches.push([before.start, before.length]);
      this.shares = true;
    }
    this.#stretches.push([start, length]);
    this.lengths.push((before?.length ?? 0) + length);
    this.ends.push(start + length);
  }

  /** Of the sequences one after the other, the place in the row of each token. */
  rows(): BigInt64Array {
    return BigInt64Array.from(
      this.#stretches.flatMap(([start, length]) => Array.from({ length }, (_, i) => BigInt(start + i))),
    );
  }
}

/** Positions of the sequences one after the other: one of each token, or three where a sequence has a canvas. */
function positionsOf(sequences: readonly Sequence[]): { positions: BigInt64Array; shape: readonly number[] } {
  const axes = sequences.some(({ positionIds }) => positionIds !== undefined) ? 3 : 1;
  const own = sequences.map(({ inputIds: { length }, answers, positionIds }) => {
    const second = answers === undefined ? 0 : length - answers.first + answers.shared;
    return { first: answers?.first ?? length, length: (answers?.first ?? length) + second, positionIds };
  });
  const tokens = own.reduce((sum, { length }) => sum + length, 0);
  const positions = new BigInt64Array(axes * tokens);
  let at = 0;
  for (let axis = 0; axis < axes; axis++)
    for (const { first, length, positionIds } of own)
      for (let i = 0; i < length; i++)
        positions[at++] = BigInt(positionIds?.[axis * length + i] ?? (i < first ? i : i - first));
  return { positions, shape: axes === 1 ? [1, tokens] : [3, 1, tokens] };
}

/** How many pictures share each range, where frames of videos form groups. */
function groupsOf(sequences: readonly Sequence[]): Pick<ModelInputs, 'groups'> {
  if (sequences.every(({ groups }) => groups === undefined)) return {};
  return { groups: [sequences.flatMap(({ groups, imageBounds }) => groups ?? imageBounds.map(() => 1))] };
}

/** Frees a batch's tensors. */
export function disposeBatch(batch: Batch): void {
  batch.inputs.inputIds.dispose();
  batch.inputs.positionIds.dispose();
  for (const pictures of batch.inputs.pictures) for (const picture of pictures) picture.pixels.dispose();
}
