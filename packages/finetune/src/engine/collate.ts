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
}

/** Text and bounds of a record; what `pack` needs beside its pictures. */
export type Sequence = Pick<EncodedSample, 'inputIds' | 'labels' | 'imageBounds' | 'groups' | 'positionIds'>;

/**
 * Makes a batch on a device. Its tensors are the receiver's: free them with `disposeBatch`. Pixels stay bytes; the vision tower normalises
 * them.
 *
 * @param staging has pictures on the device already
 */
export function collate(samples: readonly EncodedSample[], device = 'cpu', staging: Staging | null = null): Batch {
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
  return pack(samples, pictures, device);
}

/** Makes a batch of each micro-batch; null of one without records: all of them are bad, or another rank has the last ones. */
export function collateAll(
  micros: readonly { readonly samples: readonly EncodedSample[] }[],
  device: string,
  staging: Staging | null = null,
): (Batch | null)[] {
  return micros.map(({ samples }) => (samples.length > 0 ? collate(samples, device, staging) : null));
}

/** Packs sequences whose pictures, in order, are tensors already; the batch takes them over. */
export function pack(sequences: readonly Sequence[], pictures: readonly Picture[], device = 'cpu'): Batch {
  const lengths = sequences.map(({ inputIds }) => inputIds.length);
  const tokens = lengths.reduce((sum, length) => sum + length, 0);
  const [ids, labels] = [new BigInt64Array(tokens), new Int32Array(tokens)];
  const bounds: [number, number][] = [];
  let start = 0;
  for (const { inputIds, labels: own, imageBounds } of sequences) {
    for (let i = 0; i < inputIds.length; i++) ids[start + i] = BigInt(inputIds[i]!);
    labels.set(own, start);
    for (const [from, to] of imageBounds) bounds.push([start + from, start + to]);
    start += inputIds.length;
  }
  const { positions, shape } = positionsOf(sequences, tokens);
  const inputs: ModelInputs = scope(() =>
    noGrad(() => ({
      inputIds: keep(fromTypedArray(ids, [1, tokens], 'int64', device)),
      ids,
      positionIds: keep(fromTypedArray(positions, shape, 'int64', device)),
      pictures: [pictures],
      imageBounds: [bounds],
      ...groupsOf(sequences),
      lengths,
    })),
  );
  const supervisedTokens = labels.reduce((count, label) => count + (label === -100 ? 0 : 1), 0);
  return { inputs, labels, samples: sequences.length, tokens, supervisedTokens };
}

/** Positions of packed sequences: one of each token, or three where a sequence has a canvas. */
function positionsOf(
  sequences: readonly Sequence[],
  tokens: number,
): { positions: BigInt64Array; shape: readonly number[] } {
  const axes = sequences.some(({ positionIds }) => positionIds !== undefined) ? 3 : 1;
  const positions = new BigInt64Array(axes * tokens);
  for (let axis = 0; axis < axes; axis++) {
    let at = axis * tokens;
    for (const { inputIds, positionIds } of sequences) {
      const { length } = inputIds;
      for (let i = 0; i < length; i++) positions[at++] = BigInt(positionIds?.[axis * length + i] ?? i);
    }
  }
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
