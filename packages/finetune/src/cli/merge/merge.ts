/** Adapters into their base, as a checkpoint of its own. The work is minicpm-v's; this is the engine around it. */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { type HashProgress, type MergeReport, mergeCheckpoint } from '@minicpm-finetune/minicpm-v';
import { checkVocabulary, readConfig, Tokenizer } from '@minicpm-finetune/processor';
import type { FloatDType } from '@minicpm-finetune/run';
import { startEngine } from '../../engine/machine.js';

export interface MergeOptions {
  /** Folder of the base checkpoint. */
  readonly model: string;
  /** Adapter folders; each is applied on top of the previous result. */
  readonly adapters: readonly string[];
  /** Folder to make; new or empty. */
  readonly output: string;
  /** Type to save in; as stored in the base unless given. */
  readonly dtype?: FloatDType | null;
  /** Largest file of weights, in bytes. Default 5 GB. */
  readonly maxShardBytes?: number;
  /** Threads of libtorch; one per physical core unless given. */
  readonly threads?: number | null;
  /** Tells how far the base's weights are hashed, where their hash is not remembered. */
  readonly onHash?: HashProgress;
}

/** Merges on the CPU. @throws UserError as `mergeCheckpoint` does. */
export function mergeAdapters({ dtype, threads = null, ...options }: MergeOptions): MergeReport {
  const { model } = options;
  if (existsSync(join(model, 'tokenizer.json')))
    checkVocabulary(Tokenizer.load(model), readConfig(model).llm.vocabSize);
  startEngine({ device: 'cpu', threads });
  return mergeCheckpoint({ ...options, ...(dtype ? { dtype } : {}) });
}
