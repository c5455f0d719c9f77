/** When a run saves: checkpoints on the way, and the trained model at its end. The files themselves are checkpoint.ts's. */
import { cpSync, existsSync, mkdirSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { basename, join, relative } from 'node:path';
import {
  type CheckpointEvent,
  checkpointName,
  checkpointStep,
  latestCheckpoint,
  UserError,
} from '@minicpm-finetune/run';
import { removeOldCheckpoints, TRAINER_FILES, type TrainerState, writeCheckpoint } from '../checkpoint/checkpoint.js';
import { checkSpace, moveFiles } from '../checkpoint/durable.js';
import type { Loader } from '../data/loader.js';
import type { Run } from './run.js';

function trainerState(run: Run, step: number, loader: Loader): TrainerState {
  const { config, derived } = run;
  return {
    global_step: step,
    epoch: Number((step / derived.stepsPerEpoch).toFixed(4)),
    max_steps: derived.totalSteps,
    num_train_epochs: Math.ceil(derived.epochs),
    train_batch_size: config.batch.per_device_train_batch_size,
    logging_steps: derived.loggingSteps ?? null,
    eval_steps: derived.evalSteps ?? null,
    save_steps: derived.saveSteps ?? null,
    best_metric: run.bestMetric,
    best_model_checkpoint: run.bestCheckpoint,
    num_input_tokens_seen: run.tokensSeen,
    total_flos: 0,
    is_hyper_param_search: false,
    is_local_process_zero: true,
    is_world_process_zero: true,
    stateful_callbacks: {},
    trial_name: null,
    trial_params: null,
    log_history: run.log.history,
    bad_records: [...loader.bad.indices],
    data_fingerprint: run.data.train.fingerprint,
    skipped_steps: run.skippedSteps,
    loss_scale: run.lossScale?.state ?? null,
  };
}

/**
 * Writes a checkpoint, unless this step has one; a failed write is a loud warning and the run goes on. Returns the folder, or null if it
 * failed.
 */
export function save(run: Run, step: number, loader: Loader, reason: CheckpointEvent['reason']): string | null {
  const { config, log, training } = run;
  const folder = config.output.output_dir;
  if (run.savedStep === step) return join(folder, checkpointName(step));
  const started = performance.now();
  try {
    const { path, bytes } = writeCheckpoint(folder, {
      writeModel: training.save,
      optimizer: config.save.save_only_model ? null : run.optimizer,
      device: training.device,
      state: trainerState(run, step, loader),
      config,
      modelBytes: training.savedBytes,
    });
    run.savedStep = step;
    const removed = removeOld(run, path);
    const seconds = (performance.now() - started) / 1000;
    log.exclude(seconds);
    log.event({ event: 'checkpoint', step, path: relative(folder, path), bytes, seconds, reason, removed });
    return path;
  } catch (error) {
    log.warn(
      'write_failed',
      `CHECKPOINT NOT SAVED at step ${step}: ${(error as Error).message} The run goes on; earlier checkpoints are intact.`,
      step,
    );
    return null;
  }
}

/** Names of the checkpoints beyond the limit, which are gone then; what cannot be removed is a warning. */
function removeOld({ config, log, bestCheckpoint }: Run, newest: string): string[] {
  const folder = config.output.output_dir;
  try {
    const removed = removeOldCheckpoints(folder, config.save.save_total_limit, [bestCheckpoint, newest]);
    return removed.map((old) => relative(folder, old));
  } catch (error) {
    log.warn('write_failed', `OLD CHECKPOINTS NOT REMOVED in ${folder}: ${(error as Error).message} The run goes on.`);
    return [];
  }
}

/** Saves what is the best so far; it stays until something is better. If that fails, the best so far is the one before. */
export function saveBest(run: Run, step: number, loader: Loader, metric: number): void {
  const before = { bestMetric: run.bestMetric, bestCheckpoint: run.bestCheckpoint };
  run.bestMetric = metric;
  run.bestCheckpoint = join(run.config.output.output_dir, checkpointName(step));
  if (save(run, step, loader, 'best') === null) Object.assign(run, before);
}

/** --load_best_model_at_end: copies the best checkpoint's model, if that is another than the model in training. Says which it is. */
function copyBest({ config, log, bestCheckpoint, bestMetric }: Run, step: number, target: string): boolean {
  const { load_best_model_at_end: wanted, metric_for_best_model: metric } = config.eval;
  if (!wanted || (bestCheckpoint !== null && checkpointStep(basename(bestCheckpoint)) === step)) return false;
  if (bestCheckpoint === null || !existsSync(bestCheckpoint)) {
    const what = bestCheckpoint === null ? 'none was evaluated and saved' : `${bestCheckpoint} is not there`;
    log.warn('no_best_model', `THE LAST MODEL IS SAVED, not the best one: ${what}.`, step);
    return false;
  }
  mkdirSync(target, { recursive: true });
  for (const name of readdirSync(bestCheckpoint))
    if (!TRAINER_FILES.has(name)) cpSync(join(bestCheckpoint, name), join(target, name), { recursive: true });
  log.progress.print(`The saved model is the best one, ${basename(bestCheckpoint)}: eval ${metric} ${bestMetric}.`);
  return true;
}

const RESULT_FOLDER = '.result.unfinished';
const WEIGHTS = /^(model|adapter_model).*\.safetensors(\.index\.json)?$/;

/**
 * The trained model in the run folder itself: written aside and moved into place, so that a failure leaves an earlier result whole.
 * Throws a UserError that says which checkpoint has the training up to where.
 */
export function saveResult(run: Run, step: number, loader: Loader): void {
  const { output_dir: folder } = run.config.output;
  const unfinished = join(folder, RESULT_FOLDER);
  rmSync(unfinished, { recursive: true, force: true });
  try {
    checkSpace(folder, run.training.savedBytes, 'the trained model');
    if (!copyBest(run, step, unfinished)) run.training.save(unfinished);
    writeFileSync(
      join(unfinished, 'trainer_state.json'),
      `${JSON.stringify(trainerState(run, step, loader), null, 2)}\n`,
    );
    const fresh = new Set(readdirSync(unfinished));
    for (const name of readdirSync(folder)) if (WEIGHTS.test(name) && !fresh.has(name)) rmSync(join(folder, name));
    moveFiles(unfinished, folder);
  } catch (cause) {
    rmSync(unfinished, { recursive: true, force: true });
    const newest = latestCheckpoint(folder);
    const kept = newest ? `checkpoint-${newest.step} is complete` : 'there is no checkpoint';
    throw new UserError(`Expected to write the trained model but received: ${(cause as Error).message}`, {
      file: folder,
      cure: `The training ended at step ${step}; ${kept}. Free some space, and go on with --resume_from_checkpoint latest.`,
      cause,
    });
  }
}
