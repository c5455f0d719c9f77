/**
 * When a run saves, and the trained model at its end. The files themselves are written by checkpoint.ts. All ranks save together; rank 0
 * owns the run folder, and removes and moves what is in it.
 */
import { cpSync, existsSync, mkdirSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { basename, join, relative } from 'node:path';
import {
  type CheckpointEvent,
  checkpointName,
  checkpointStep,
  latestCheckpoint,
  RUN_FILES,
  type RunConfig,
  type StopEvent,
  UNFINISHED_RESULT,
  UserError,
} from '@minicpm-finetune/run';
import { manualSeed, seedOf } from '@minicpm-finetune/torch';
import {
  checkpointContent,
  removeOldCheckpoints,
  TRAINER_FILES,
  type TrainerState,
  verifyCheckpoint,
  writeCheckpoint,
} from '../checkpoint/checkpoint.js';
import { checkSpace, moveFiles } from '../checkpoint/durable.js';
import { writeModel } from '../checkpoint/model-files.js';
import { OPTIMIZER_FILE } from '../checkpoint/optimizer-file.js';
import { makeFolder } from '../checkpoint/shared-folder.js';
import { attempt, fromFirst } from '../parallel/agree.js';
import { shareUsed } from './open-data.js';
import type { Run } from './run.js';
import { type RunState, trainerState } from './state.js';

function savedState({ config, derived, data, state, ranks }: Run): TrainerState {
  return trainerState(state, { config, derived, fingerprint: data.train.fingerprint, worldSize: ranks.size });
}

interface SavedCheckpoint {
  readonly path: string;
  readonly bytes: number;
  /** Earlier checkpoints, which are gone. */
  readonly removed: readonly string[];
}

/**
 * Writes a checkpoint, unless this step has one; a failed write is a loud warning and the run goes on. Returns the folder, or null if it
 * failed. Collective.
 */
export function save(run: Run, reason: CheckpointEvent['reason']): string | null {
  const { config, log, state, ranks } = run;
  const { step } = state;
  const folder = config.output.output_dir;
  if (state.savedStep === step) return join(folder, checkpointName(step));
  log.phase('saving', step);
  const started = performance.now();
  ranks.at(`the checkpoint of step ${step}`);
  shareUsed(run.data, ranks);
  const made = attempt(() => writeAll(run));
  if ('error' in made) {
    const why = (made.error as Error).message;
    const message = `CHECKPOINT NOT SAVED at step ${step}: ${why} The run goes on; earlier checkpoints are intact.`;
    if (ranks.rank === 0) log.warn('write_failed', message, step);
    return null;
  }
  const { path, bytes, removed } = made.value;
  const seconds = (performance.now() - started) / 1000;
  log.exclude(seconds);
  log.event({
    event: 'checkpoint',
    step,
    path: relative(folder, path),
    bytes,
    seconds,
    reason,
    removed: [...removed],
  });
  return path;
}

/** Writes a checkpoint and removes those beyond the limit. */
function writeAll(run: Run): SavedCheckpoint {
  const { config, training, state, ranks } = run;
  const parts = {
    model: training.saved,
    sharding: run.sharding,
    optimizer: config.save.save_only_model ? null : run.optimizer,
    records: run.data.records,
    device: training.device,
    state: savedState(run),
    config,
    modelBytes: training.savedBytes,
  };
  manualSeed(seedOf(config.seeds.seed, state.step)); // else what is left of it would depend on the rank's last part
  const written = writeCheckpoint(run.output.own, parts, ranks);
  state.savedStep = state.step;
  return { ...written, removed: fromFirst(ranks, 'earlier checkpoints', () => removeOld(run, written.path)) };
}

/** Writes the weights or the adapter into a folder of its own, which rank 0 names. Collective. */
export function saveModel({ training, sharding, ranks }: Run, folder: string): void {
  writeModel(makeFolder(folder, ranks), training.saved, sharding);
}

/** Names of the checkpoints beyond the limit, which are gone then; what cannot be removed is a warning. */
function removeOld({ config, log, state, output: { own } }: Run, newest: string | null): string[] {
  const folder = config.output.output_dir;
  try {
    const removed = removeOldCheckpoints(own, config.save.save_total_limit, [state.bestCheckpoint, newest]);
    return removed.map((old) => relative(folder, old));
  } catch (error) {
    log.warn('write_failed', `OLD CHECKPOINTS NOT REMOVED in ${folder}: ${(error as Error).message} The run goes on.`);
    return [];
  }
}

/** Saves what is the best so far; it stays until something is better. If that fails, the best so far is the one before. */
export function saveBest(run: Run, metric: number): void {
  const { state } = run;
  const { bestMetric, bestCheckpoint, bestContent } = state;
  const best = join(run.config.output.output_dir, checkpointName(state.step));
  Object.assign(state, { bestMetric: metric, bestCheckpoint: best, bestContent: null });
  if (save(run, 'best') === null) Object.assign(state, { bestMetric, bestCheckpoint, bestContent });
  else state.bestContent = fromFirst(run.ranks, 'best checkpoint', () => checkpointContent(best));
}

/** --load_best_model_at_end: copies the best checkpoint's model, if that is another than the model in training. Says which it is. */
function copyBest({ config, log, state }: Run, target: string): boolean {
  const { bestCheckpoint, bestMetric, step } = state;
  const { load_best_model_at_end: wanted, metric_for_best_model: metric } = config.eval;
  if (!wanted || (bestCheckpoint !== null && checkpointStep(basename(bestCheckpoint)) === step)) return false;
  const problem =
    bestCheckpoint === null ? 'none was evaluated and saved' : problemOf(bestCheckpoint, state.bestContent);
  if (bestCheckpoint === null || problem !== null) {
    log.warn('no_best_model', `THE LAST MODEL IS SAVED, not the best one: ${problem}.`, step);
    return false;
  }
  mkdirSync(target, { recursive: true });
  for (const name of readdirSync(bestCheckpoint))
    if (!TRAINER_FILES.has(name)) cpSync(join(bestCheckpoint, name), join(target, name), { recursive: true });
  log.reporter.notice(`The saved model is the best one, ${basename(bestCheckpoint)}: eval ${metric} ${bestMetric}.`);
  return true;
}

/** Why a checkpoint is not the one that was saved as the best; null: it is. */
function problemOf(folder: string, content: string | null): string | null {
  if (!existsSync(folder)) return `${folder} is not there`;
  if (content !== null && checkpointContent(folder) !== content) return `${folder} is another checkpoint now`;
  try {
    verifyCheckpoint(folder);
    return null;
  } catch (error) {
    if (error instanceof UserError) return `${folder} is damaged: ${error.message.replace(/\.$/, '')}`;
    throw error;
  }
}

const WEIGHTS = /^(model|adapter_model).*\.safetensors(\.index\.json)?$/;

/**
 * The trained model in the run folder itself: written aside and moved into place, so that a failure leaves an earlier result whole.
 * Collective.
 *
 * @throws UserError that says which checkpoint has the training up to where
 */
export function saveResult(run: Run): void {
  const { ranks, log, state } = run;
  log.phase('saving', state.step);
  const { output_dir: folder } = run.config.output;
  const unfinished = join(folder, UNFINISHED_RESULT);
  try {
    const copied = fromFirst(ranks, 'best model', () => {
      rmSync(unfinished, { recursive: true, force: true });
      checkSpace(folder, run.training.savedBytes, 'the trained model');
      return copyBest(run, unfinished);
    });
    if (!copied) saveModel(run, unfinished);
    fromFirst(ranks, 'trained model', () => moveResult(run, unfinished));
  } catch (cause) {
    if (ranks.rank === 0) rmSync(unfinished, { recursive: true, force: true });
    const newest = latestCheckpoint(folder);
    const kept = newest ? `checkpoint-${newest.step} is complete` : 'there is no checkpoint';
    throw new UserError(`Expected to write the trained model but received: ${(cause as Error).message}`, {
      file: folder,
      cure: `The training ended at step ${run.state.step}; ${kept}. Free some space, and resume with --resume_from_checkpoint latest.`,
      cause,
    });
  }
}

/** The files of the result take the place of an earlier one's. */
function moveResult(run: Run, unfinished: string): void {
  const { own } = run.output;
  const { folder } = own;
  writeFileSync(join(unfinished, RUN_FILES.result), `${JSON.stringify(savedState(run), null, 2)}\n`);
  const fresh = readdirSync(unfinished);
  own.requireFree(fresh);
  for (const name of fresh) own.note(name, join(unfinished, name));
  for (const name of readdirSync(folder)) {
    if (WEIGHTS.test(name) && !fresh.includes(name) && own.ownership(name) === 'own') rmSync(join(folder, name));
  }
  moveFiles(unfinished, folder);
  removeOld(run, null); // a process that was killed may have left one more
}

/** What is where after a run: read from the disk, not from what was meant. */
export function describeEnd(config: RunConfig, state: RunState, stopped: StopEvent['reason'] | null): string {
  const { output_dir: folder } = config.output;
  if (stopped === null) return `The trained ${kindOf(config)} is in ${folder}.`;
  const { step } = state;
  if (step === 0) return 'Stopped before the first step; there is nothing to save. Start again with the same command.';
  const newest = latestCheckpoint(folder);
  const unsaved = config.save.save_on_stop ? '' : ' (--save_on_stop false)';
  if (newest === undefined) {
    return `Stopped after step ${step}; nothing was saved${unsaved}. Start over with the same command and --overwrite_output_dir true.`;
  }
  const name = checkpointName(newest.step);
  const what =
    newest.step === step
      ? `${name} has everything`
      : `the newest checkpoint is ${name}, what came after it was not saved${unsaved}`;
  const resume = existsSync(join(newest.path, OPTIMIZER_FILE))
    ? 'Resume with the same command and --resume_from_checkpoint latest, or use'
    : 'It has no optimizer (--save_only_model), so it cannot be resumed; use';
  return `Stopped after step ${step}; ${what}. ${resume} ${newest.path} as it is.`;
}

/** A finished run that was to be resumed. */
export function describeFinished(config: RunConfig, steps: number): string {
  const { output_dir: folder } = config.output;
  return `The run in ${folder} is finished: all ${steps} steps were taken, and the trained ${kindOf(config)} is there. Nothing is left to do.`;
}

const kindOf = ({ lora }: RunConfig): string => (lora.use_lora ? 'adapter' : 'model');
