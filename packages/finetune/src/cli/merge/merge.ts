/** `minicpm-finetune merge`: adapters into their base, as a checkpoint of its own. The work is minicpm-v's; this is the command's side of it. */
import { type MergeReport, mergeCheckpoint } from '@minicpm-finetune/minicpm-v';
import type { DType } from '@minicpm-finetune/run';
import { startEngine } from '../../engine/machine.js';

export interface MergeCommandOptions {
  readonly model: string;
  readonly adapters: readonly string[];
  readonly output: string;
  /** null: as stored in the base. */
  readonly dtype: DType | null;
  readonly maxShardBytes: number;
  readonly threads: number | null;
}

/** Merges on the CPU. @throws UserError as `mergeCheckpoint` does. */
export function merge(options: MergeCommandOptions): MergeReport {
  startEngine({ device: 'cpu', threads: options.threads });
  const { model, adapters, output, dtype, maxShardBytes } = options;
  return mergeCheckpoint({ model, adapters, output, maxShardBytes, ...(dtype === null ? {} : { dtype }) });
}
