/**
 * The layout of a run folder (`--output_dir`).
 *
 *     run.json            the resolved RunConfig, usable as a recipe
 *     events.jsonl        the events of all starts
 *     checkpoint-<step>/  complete checkpoints: written under a temporary name, then renamed
 *     logs/               TensorBoard files (--report_to tensorboard)
 *     eval/step-<n>/      answers to records of the evaluation data (--eval_generate), with eval/images/
 *     profile.json        a trace of the first steps (--profile)
 *     nonfinite/step-<n>/ what made a loss or gradient that is not finite
 *     STOP                made by a user: finish the step, save, end
 *     run_files.jsonl     what of all this the run wrote (own-files.ts)
 *     run.lock            the process that owns the folder, while there is one (lock.ts)
 *     ui.json             what a person noted on the page; the trainer reads none of these three
 *     ui_launch.json      how the page started the run last
 *     console.log         what a run prints that the page started
 *
 * Not here: what is inside a checkpoint, and writing one.
 */
import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { UNFINISHED } from './own-files.js';

export const RUN_FILES = {
  config: 'run.json',
  events: 'events.jsonl',
  stop: 'STOP',
  /** TensorBoard files, unless --logging_dir says otherwise. */
  logs: 'logs',
  answers: 'eval',
  nonfinite: 'nonfinite',
  profile: 'profile.json',
  /** What --on_bad_record skip left out. */
  badRecords: 'bad_records.jsonl',
  /** Beside the trained model, when the run is finished. */
  result: 'trainer_state.json',
  lock: 'run.lock',
  /** In every checkpoint, written last: its files with sizes and checksums. */
  manifest: 'manifest.json',
} as const;

const CHECKPOINT_NAME = /^checkpoint-(\d+)$/;
const UNFINISHED_NAME = /^\.checkpoint-\d+\.(unfinished|removed)$/;
/** The name under which the trained model is written before its files take theirs. */
export const UNFINISHED_RESULT = '.result.unfinished';

/** `checkpoint-<step>`: the folder name Hugging Face's trainer uses, too. */
export function checkpointName(step: number): string {
  return `checkpoint-${step}`;
}

/** The name under which a checkpoint is written before it is renamed to `checkpointName(step)`. */
export function unfinishedCheckpointName(step: number): string {
  return `.checkpoint-${step}.unfinished`;
}

/** The name under which a checkpoint is removed, so that it vanishes at once and not file by file. */
export function removedCheckpointName(step: number): string {
  return `.checkpoint-${step}.removed`;
}

/** The step in a checkpoint's folder name, or undefined if the name is none. */
export function checkpointStep(name: string): number | undefined {
  const digits = CHECKPOINT_NAME.exec(name)?.[1];
  return digits === undefined ? undefined : Number(digits);
}

export interface CheckpointFolder {
  step: number;
  /** The run folder's path joined with the checkpoint's name. */
  path: string;
}

/**
 * Complete checkpoints of a run folder (named and with a manifest), oldest first; none if the folder is missing.
 *
 * @param names what the folder holds, where that is known already
 */
export function listCheckpoints(runFolder: string, names = entries(runFolder)): CheckpointFolder[] {
  const checkpoints: CheckpointFolder[] = [];
  for (const name of names) {
    const step = checkpointStep(name);
    const path = join(runFolder, name);
    if (step !== undefined && existsSync(join(path, RUN_FILES.manifest))) checkpoints.push({ step, path });
  }
  return checkpoints.sort((a, b) => a.step - b.step);
}

/** The newest complete checkpoint, or undefined. */
export function latestCheckpoint(runFolder: string): CheckpointFolder | undefined {
  return listCheckpoints(runFolder).at(-1);
}

/** Paths of what a killed process left of checkpoints it was writing or removing: safe to delete while no run writes here. */
export function listUnfinishedCheckpoints(runFolder: string): string[] {
  return entries(runFolder)
    .filter((name) => UNFINISHED_NAME.test(name))
    .map((name) => join(runFolder, name));
}

/** Whether a name in a run folder is one under which a run writes or removes something: it is the run's, whatever is in it. */
export function isWorkingName(name: string): boolean {
  return UNFINISHED_NAME.test(name) || name === UNFINISHED_RESULT || name === UNFINISHED;
}

function entries(folder: string): string[] {
  return existsSync(folder) ? readdirSync(folder) : [];
}
