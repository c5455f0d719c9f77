/**
 * Checkpoints: everything a run needs to resume exactly.
 *
 *     model*.safetensors, config.json, …   or   adapter_model.safetensors, adapter_config.json
 *     optimizer.safetensors                moments, steps, float32 masters (optimizer-file.ts)
 *     rng_state.safetensors                state of every random generator
 *     records.safetensors                  what is known of the training data (records.ts)
 *     trainer_state.json                   Hugging Face's form: step, epoch, log_history, best metric
 *     run.json                             the configuration
 *     manifest.json                        sizes and sha256 of all of these, written last
 *
 * Written under a temporary name, flushed, renamed: a folder named `checkpoint-<step>` is always whole. All ranks write what they hold into
 * the same files (tensor-files.ts), whose bytes do not depend on their number, and hash them (contents.ts); rank 0 writes the small ones. Not here: the weights' own format
 * (packages/minicpm-v).
 */
import { createHash } from 'node:crypto';
import { existsSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import {
  checkpointName,
  listCheckpoints,
  listUnfinishedCheckpoints,
  type OwnFiles,
  RUN_FILES,
  type RunConfig,
  unfinishedCheckpointName,
} from '@minicpm-finetune/run';
import {
  planSafetensors,
  RandomState,
  SafetensorsFile,
  scope,
  setRngState,
  writeSafetensors,
} from '@minicpm-finetune/torch';
import type { LossScaleState } from '../engine/loss-scale.js';
import type { Optimizer } from '../engine/optimizer.js';
import { attempt, fromFirst, settle } from '../parallel/agree.js';
import type { Ranks } from '../parallel/ranks.js';
import type { Sharding } from '../parallel/sharding.js';
import { contentsOf } from './contents.js';
import { type Content, checkSpace, publishFolder, removeFolder, sealFolder, verifyFolder } from './durable.js';
import { type SavedModel, writeModel } from './model-files.js';
import { OPTIMIZER_FILE, optimizerTensors } from './optimizer-file.js';
import { RECORDS_FILE, type RecordsState, recordsTensors } from './records.js';
import { makeFolder } from './shared-folder.js';
import { writeTensorFiles } from './tensor-files.js';

const RNG_FILE = 'rng_state.safetensors';
const STATE_FILE = 'trainer_state.json';
/** The parts of a checkpoint besides the model. */
export const TRAINER_FILES: ReadonlySet<string> = new Set([
  OPTIMIZER_FILE,
  RNG_FILE,
  RECORDS_FILE,
  STATE_FILE,
  RUN_FILES.config,
  RUN_FILES.manifest,
]);
/** Kept free on the disk beside what is written. */
const SPARE_BYTES = 64 << 20;

/** `trainer_state.json` as transformers' Trainer writes it, and what only this trainer needs. */
export interface TrainerState {
  global_step: number;
  epoch: number;
  max_steps: number;
  num_train_epochs: number;
  train_batch_size: number;
  logging_steps: number | null;
  eval_steps: number | null;
  save_steps: number | null;
  best_metric: number | null;
  best_model_checkpoint: string | null;
  num_input_tokens_seen: number;
  total_flos: number;
  is_hyper_param_search: false;
  is_local_process_zero: true;
  is_world_process_zero: true;
  stateful_callbacks: Record<string, never>;
  trial_name: null;
  trial_params: null;
  log_history: Record<string, number>[];
  /** Not in transformers, nor in the checkpoints of earlier versions: `checkpointContent` of the best one. Null in that one itself. */
  best_model_content?: string | null;
  /** Not in transformers: indices of records left out as bad, and what the data were. */
  bad_records: number[];
  data_fingerprint: string;
  skipped_steps: number;
  loss_scale: LossScaleState | null;
  /** Ranks of the run, if there was more than one. */
  world_size?: number;
  /** Index of the record at which the run failed, if it did: it may be repaired. */
  failed_record?: number;
  /** The evaluation of this step is still to be made: it failed. */
  evaluation_due?: boolean;
  /** Losses added up: of all steps, and of those since the last one that was logged. Not in the checkpoints of earlier versions. */
  train_loss?: { sum: number; steps: number };
  unlogged_loss?: { sum: number; steps: number };
  /** Preference tuning: rewards of all steps, and metrics since the last step that was logged. */
  preference?: {
    rewards: { mean: number; count: number };
    unlogged: { sums: Record<string, number>; steps: Record<string, number> };
  };
}

export interface CheckpointParts {
  /** The weights or the adapter. */
  readonly model: SavedModel;
  /** How ranks share its weights; null: each has all. */
  readonly sharding: Sharding | null;
  readonly optimizer: Optimizer | null;
  readonly records: RecordsState;
  /** The device whose generator is saved besides the CPU's. */
  readonly device: string;
  readonly state: TrainerState;
  readonly config: RunConfig;
  /** Bytes the weights take, for the check of free space. */
  readonly modelBytes: number;
}

const json = (value: unknown): string => `${JSON.stringify(value, null, 2)}\n`;

/**
 * Writes `checkpoint-<step>` and returns its folder and size in bytes. A checkpoint of that name that this run wrote is replaced at the
 * end. Collective; the folder is rank 0's.
 *
 * @throws on all ranks what went wrong on one, with its rank, after rank 0 removed what was written
 */
export function writeCheckpoint(own: OwnFiles, parts: CheckpointParts, ranks: Ranks): { path: string; bytes: number } {
  const unfinished = join(own.folder, unfinishedCheckpointName(parts.state.global_step));
  try {
    return scope(() => write(own, parts, { unfinished, ranks }));
  } catch (error) {
    if (ranks.rank === 0) rmSync(unfinished, { recursive: true, force: true });
    throw error;
  }
}

function write(
  own: OwnFiles,
  parts: CheckpointParts,
  { unfinished, ranks }: { unfinished: string; ranks: Ranks },
): { path: string; bytes: number } {
  const name = checkpointName(parts.state.global_step);
  const optimizer = parts.optimizer && optimizerTensors(parts.optimizer, ranks);
  const plan = optimizer && planSafetensors(optimizer);
  const room = attempt(() => {
    if (ranks.rank !== 0) return;
    own.requireFree([name]);
    checkSpace(own.folder, parts.modelBytes + (plan?.bytes ?? 0) + SPARE_BYTES, 'a checkpoint');
  });
  settle(ranks, 'room for a checkpoint', room);
  const folder = makeFolder(unfinished, ranks);
  writeModel(folder, parts.model, parts.sharding);
  if (optimizer && plan) writeTensorFiles(folder, new Map([[OPTIMIZER_FILE, plan]]), optimizer);
  const known = contentsOf(folder);
  return fromFirst(ranks, 'whole checkpoint', () => complete(own, parts, { unfinished, known }));
}

/** Writes the small files and the manifest, and gives the folder its name. */
function complete(
  own: OwnFiles,
  parts: CheckpointParts,
  { unfinished, known }: { unfinished: string; known: ReadonlyMap<string, Content> },
): { path: string; bytes: number } {
  const step = parts.state.global_step;
  const path = join(own.folder, checkpointName(step));
  if (parts.optimizer) {
    using random = new RandomState([parts.device]);
    writeSafetensors(join(unfinished, RNG_FILE), random.tensors);
    writeSafetensors(join(unfinished, RECORDS_FILE), recordsTensors(parts.records));
  }
  writeFileSync(join(unfinished, STATE_FILE), json(parts.state));
  writeFileSync(join(unfinished, RUN_FILES.config), json(parts.config));
  const bytes = sealFolder(unfinished, step, known);
  own.noteFolder(checkpointName(step), unfinished);
  publishFolder(unfinished, path);
  own.seeFolder(checkpointName(step));
  return { path, bytes };
}

/**
 * Removes the oldest checkpoints beyond `limit`, never the newest nor those named in `spare`, nor what this run did not write. Returns what
 * was removed.
 */
export function removeOldCheckpoints(own: OwnFiles, limit: number | null, spare: readonly (string | null)[]): string[] {
  if (limit === null) return [];
  const all = listCheckpoints(own.folder)
    .map(({ path }) => path)
    .filter((path) => own.ownership(basename(path)) === 'own');
  const spared = new Set(spare.map((path) => path && basename(path)));
  const removable = all.filter((path, i) => i < all.length - 1 && !spared.has(basename(path)));
  const doomed = removable.slice(0, Math.max(0, all.length - Math.max(1, limit)));
  for (const path of doomed) removeFolder(path);
  return doomed;
}

/** Removes incomplete folders of a killed process. */
export function removeUnfinished(runFolder: string): void {
  for (const path of listUnfinishedCheckpoints(runFolder)) rmSync(path, { recursive: true, force: true });
}

/** Refuses a checkpoint that is incomplete or damaged. */
export function verifyCheckpoint(folder: string): void {
  verifyFolder(folder, [STATE_FILE, RUN_FILES.config]);
}

/** The content of a checkpoint as a hash: that of its manifest, which has the hashes of its files. Null: there is no checkpoint. */
export function checkpointContent(folder: string): string | null {
  const manifest = join(folder, RUN_FILES.manifest);
  return existsSync(manifest) ? createHash('sha256').update(readFileSync(manifest)).digest('hex') : null;
}

export function readTrainerState(folder: string): TrainerState {
  return JSON.parse(readFileSync(join(folder, STATE_FILE), 'utf8')) as TrainerState;
}

export function readCheckpointConfig(folder: string): RunConfig {
  return JSON.parse(readFileSync(join(folder, RUN_FILES.config), 'utf8')) as RunConfig;
}

/** The last thing before a resumed run takes its first step. */
export function restoreRandomState(folder: string, device: string): void {
  scope(() => {
    const file = new SafetensorsFile(join(folder, RNG_FILE));
    for (const own of new Set(['cpu', device])) if (file.infos.has(own)) setRngState(file.tensor(own), own);
  });
}
