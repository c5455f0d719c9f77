/**
 * What a checkpoint knows of the training data. Tensors of one number for each record, by which a resumed run tells
 * whether it sees the same data, and makes the same order of it.
 *
 *     texts     hash of what the record says
 *     used      hash of its pictures' content as a step has used them; 0: no step has used the record
 *     stamps    of its picture files: unchanged files need not be read again
 *     lengths   by which records were packed or grouped
 *     sizes     records of each data file
 */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { fromTypedArray, SafetensorsFile, scope, type Tensor } from '@minicpm-finetune/torch';

export const RECORDS_FILE = 'records.safetensors';

/** Shapes: (records), of `sizes`: (files). */
export interface RecordsState {
  readonly sizes: readonly number[];
  readonly texts: BigUint64Array;
  readonly used: BigUint64Array;
  readonly stamps: BigUint64Array;
  readonly lengths: Uint32Array;
}

/** By the names they have in the file; in the caller's scope. */
export function recordsTensors({ sizes, lengths, ...hashes }: RecordsState): Map<string, Tensor> {
  const int32 = (array: Uint32Array): Tensor =>
    fromTypedArray(new Int32Array(array.buffer, array.byteOffset, array.length), [array.length]);
  const int64 = (array: BigUint64Array): Tensor =>
    fromTypedArray(new BigInt64Array(array.buffer, array.byteOffset, array.length), [array.length]);
  const tensors = new Map([
    ['sizes', int32(Uint32Array.from(sizes))],
    ['lengths', int32(lengths)],
  ]);
  for (const [name, array] of Object.entries(hashes)) tensors.set(name, int64(array));
  return tensors;
}

/** Null for a checkpoint of an earlier version. */
export function readRecords(folder: string): RecordsState | null {
  const path = join(folder, RECORDS_FILE);
  if (!existsSync(path)) return null;
  return scope(() => {
    const file = new SafetensorsFile(path);
    const read = (name: string): ArrayBufferLike => file.tensor(name).toTypedArray().slice().buffer;
    return {
      sizes: [...new Uint32Array(read('sizes'))],
      lengths: new Uint32Array(read('lengths')),
      texts: new BigUint64Array(read('texts')),
      used: new BigUint64Array(read('used')),
      stamps: new BigUint64Array(read('stamps')),
    };
  });
}
