/** The answer that KTO reads after another question. Its log-probability measures how far the model has gone. */
import { UserError } from '@minicpm-finetune/run';
import type { Dataset } from './dataset.js';
import type { Encoder } from './encoder.js';
import type { DataRecord } from './record.js';

/** Of `records` records, the one whose answer KTO reads as an answer to the question of record `index`: half the data away. */
function strangerOf(index: number, records: number): number {
  return (index + Math.max(1, records >> 1)) % records;
}

/** That of record `index`; undefined: the loss needs none. @throws UserError where there is no other record */
export async function strangerTo(dataset: Dataset, encoder: Encoder, index: number): Promise<DataRecord | undefined> {
  if (encoder.setup.preference !== 'kto') return undefined;
  if (dataset.length > 1) return await dataset.read(strangerOf(index, dataset.length));
  throw new UserError('Expected at least 2 records for --preference kto but received 1.', {
    flag: '--preference',
    cure: 'KTO compares each answer with an answer to another question: add records.',
  });
}
