/**
 * Pads encoded records as the official collator does. To one length, on the right: ids and position ids with 0, labels
 * with -100.
 */
import type { EncodedSample } from '@minicpm-finetune/processor';

/** B records, all L tokens long; every array is (B, L), row by row. */
export interface PaddedBatch {
  length: number;
  inputIds: Int32Array;
  positionIds: Int32Array;
  labels: Int32Array;
  /** 1 for tokens, 0 for padding. */
  attentionMask: Uint8Array;
}

/**
 * Pads records to the longest of them.
 * @param maxLength - longer records lose their end first (image bounds are not looked at; the encoder keeps to its own limit)
 */
export function padBatch(
  samples: readonly Pick<EncodedSample, 'inputIds' | 'labels'>[],
  maxLength = Number.POSITIVE_INFINITY,
): PaddedBatch {
  const lengths = samples.map(({ inputIds }) => Math.min(inputIds.length, maxLength));
  const length = Math.max(0, ...lengths);
  const size = samples.length * length;
  const batch: PaddedBatch = {
    length,
    inputIds: new Int32Array(size),
    positionIds: new Int32Array(size),
    labels: new Int32Array(size).fill(-100),
    attentionMask: new Uint8Array(size),
  };
  for (const [i, { inputIds, labels }] of samples.entries()) {
    const start = i * length;
    const kept = lengths[i]!;
    batch.inputIds.set(inputIds.subarray(0, kept), start);
    batch.labels.set(labels.subarray(0, kept), start);
    batch.attentionMask.fill(1, start, start + kept);
    for (let position = 0; position < kept; position++) batch.positionIds[start + position] = position;
  }
  return batch;
}
