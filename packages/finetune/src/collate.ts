/**
 * Collator: encoded records to the tensors of one batch. Pads on the right, and is the only place where a record becomes tensors.
 */
import type { EncodedSample, ModelInputs, Picture } from '@minicpm-finetune/minicpm-v';
import { fromTypedArray, keep, noGrad, ops, scope } from '@minicpm-finetune/torch';
import { padBatch } from './pad.js';

export interface Batch {
  /** ids and positions (B, L) int64, pictures per sample, image bounds per sample */
  readonly inputs: ModelInputs;
  /** (B·L) shifted ids, -100 where nothing is supervised */
  readonly labels: Int32Array;
  readonly samples: number;
  /** B·L, padding included */
  readonly tokens: number;
  readonly supervisedTokens: number;
}

/** Makes a batch. Its tensors are the receiver's: free them with `disposeBatch`. Pixels stay bytes; the vision tower normalises them. */
export function collate(samples: readonly EncodedSample[]): Batch {
  const { inputIds, positionIds, labels, length } = padBatch(samples);
  const shape = [samples.length, length];
  const tensors = scope(() =>
    noGrad(() => ({
      inputIds: ops.to(fromTypedArray(inputIds, shape), 'int64'),
      positionIds: ops.to(fromTypedArray(positionIds, shape), 'int64'),
      pictures: samples.map((sample) =>
        sample.pictures.map(
          (picture): Picture => ({
            pixels: keep(fromTypedArray(picture.pixels, picture.shape)),
            rows: picture.rows,
            cols: picture.cols,
          }),
        ),
      ),
    })),
  );
  return {
    inputs: {
      inputIds: keep(tensors.inputIds),
      positionIds: keep(tensors.positionIds),
      pictures: tensors.pictures,
      imageBounds: samples.map((sample) => sample.imageBounds),
    },
    labels,
    samples: samples.length,
    tokens: samples.length * length,
    supervisedTokens: labels.reduce((count, label) => count + (label === -100 ? 0 : 1), 0),
  };
}

/** Frees a batch's tensors. */
export function disposeBatch(batch: Batch): void {
  batch.inputs.inputIds.dispose();
  batch.inputs.positionIds.dispose();
  for (const pictures of batch.inputs.pictures) for (const picture of pictures) picture.pixels.dispose();
}
