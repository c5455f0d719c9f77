/**
 * The state of a run besides its tensors. Everything that a resumed run needs to continue exactly: one value, which can
 * be written as JSON, owned by the run. Everything else a run holds (run.ts) is made again from the configuration.
 */
import { type Derived, epochAt, type RunConfig, type StepEvent } from '@minicpm-finetune/run';
import type { TrainerState } from '../checkpoint/checkpoint.js';
import type { LossScaleState } from '../engine/loss-scale.js';
import type { RewardMean } from '../engine/preference-loss.js';
import { type MetricSums, NO_METRICS } from './metric-sums.js';

/** Losses of optimizer steps, added up; steps whose loss was not finite are left out. */
export interface LossSum {
  sum: number;
  steps: number;
}

export interface RunState {
  /** Optimizer steps done. */
  step: number;
  /** Tokens of all sequences so far. */
  tokensSeen: number;
  /** Steps whose update was left out because something was not finite. */
  skippedSteps: number;
  /** Of all steps of the run. */
  trainLoss: LossSum;
  /** Of the steps since the last one that was logged. */
  unloggedLoss: LossSum;
  /** Metrics of preference tuning over the steps since the last one that was logged. */
  unloggedMetrics: MetricSums;
  /** Rewards of all steps, for the losses that compare with their mean; null: none yet. */
  preferenceRewards: RewardMean | null;
  /** Value of the metric, and folder, of the best checkpoint so far. */
  bestMetric: number | null;
  bestCheckpoint: string | null;
  /** Its content (`checkpointContent`); null: of a checkpoint of an earlier version. */
  bestContent: string | null;
  /** Step of the newest checkpoint. */
  savedStep: number | null;
  /** Indices of the records that were left out as bad. */
  badRecords: number[];
  /** Index of the training record at which the run failed. */
  failedRecord: number | null;
  /** The evaluation of the last step failed: a resumed run makes it first. */
  evaluationDue: boolean;
  /** float16 only. */
  lossScale: LossScaleState | null;
  /** Hugging Face's log_history. */
  logHistory: Record<string, number>[];
}

/** The state before the first step. */
export function freshState(): RunState {
  return {
    step: 0,
    tokensSeen: 0,
    skippedSteps: 0,
    trainLoss: { sum: 0, steps: 0 },
    unloggedLoss: { sum: 0, steps: 0 },
    unloggedMetrics: NO_METRICS,
    preferenceRewards: null,
    bestMetric: null,
    bestCheckpoint: null,
    bestContent: null,
    savedStep: null,
    badRecords: [],
    failedRecord: null,
    evaluationDue: false,
    lossScale: null,
    logHistory: [],
  };
}

/** The state that a checkpoint was saved with. Checkpoints of earlier versions have no sums of losses: theirs begin with the resumed step. */
export function stateOf(saved: TrainerState): RunState {
  return {
    step: saved.global_step,
    tokensSeen: saved.num_input_tokens_seen,
    skippedSteps: saved.skipped_steps,
    trainLoss: saved.train_loss ?? { sum: 0, steps: 0 },
    unloggedLoss: saved.unlogged_loss ?? { sum: 0, steps: 0 },
    unloggedMetrics: saved.preference?.unlogged ?? NO_METRICS,
    preferenceRewards: saved.preference?.rewards ?? null,
    bestMetric: saved.best_metric,
    bestCheckpoint: saved.best_model_checkpoint,
    bestContent: saved.best_model_content ?? null,
    savedStep: saved.global_step,
    badRecords: saved.bad_records,
    failedRecord: null,
    evaluationDue: saved.evaluation_due ?? false,
    lossScale: saved.loss_scale,
    logHistory: saved.log_history,
  };
}

/** What `trainer_state.json` says beside the state. */
export interface StateContext {
  readonly config: RunConfig;
  readonly derived: Derived;
  /** Of the training data. */
  readonly fingerprint: string;
  readonly worldSize: number;
}

/** The state as `trainer_state.json` has it. */
export function trainerState(state: RunState, { config, derived, fingerprint, worldSize }: StateContext): TrainerState {
  return {
    global_step: state.step,
    epoch: epochAt(state.step, derived.stepsPerEpoch),
    max_steps: derived.totalSteps,
    num_train_epochs: Math.ceil(derived.epochs),
    train_batch_size: config.batch.per_device_train_batch_size,
    logging_steps: derived.loggingSteps ?? null,
    eval_steps: derived.evalSteps ?? null,
    save_steps: derived.saveSteps ?? null,
    best_metric: state.bestMetric,
    best_model_checkpoint: state.bestCheckpoint,
    best_model_content: state.bestContent,
    num_input_tokens_seen: state.tokensSeen,
    total_flos: 0,
    is_hyper_param_search: false,
    is_local_process_zero: true,
    is_world_process_zero: true,
    stateful_callbacks: {},
    trial_name: null,
    trial_params: null,
    log_history: state.logHistory,
    bad_records: state.badRecords,
    data_fingerprint: fingerprint,
    skipped_steps: state.skippedSteps,
    loss_scale: state.lossScale,
    ...(worldSize === 1 ? {} : { world_size: worldSize }),
    ...(state.failedRecord === null ? {} : { failed_record: state.failedRecord }),
    ...(state.evaluationDue ? { evaluation_due: true } : {}),
    train_loss: state.trainLoss,
    unlogged_loss: state.unloggedLoss,
    ...(state.preferenceRewards === null
      ? {}
      : { preference: { rewards: state.preferenceRewards, unlogged: state.unloggedMetrics } }),
  };
}

/** Takes a step's loss in. One that is not finite, of a step that was skipped for it, says nothing about the mean. */
export function addLoss(state: RunState, loss: number): void {
  if (!Number.isFinite(loss)) return;
  for (const total of [state.trainLoss, state.unloggedLoss]) {
    total.sum += loss;
    total.steps++;
  }
}

/** Puts a logged step into the history; the steps after it are counted from there. */
export function addToHistory(
  state: RunState,
  {
    epoch,
    learning_rate,
    loss,
    step,
    preference,
  }: Pick<StepEvent, 'epoch' | 'learning_rate' | 'loss' | 'step' | 'preference'>,
  gradNorm: number,
): void {
  state.logHistory.push({ epoch, grad_norm: gradNorm, learning_rate, loss: loss ?? Number.NaN, ...preference, step });
  state.unloggedLoss = { sum: 0, steps: 0 };
  state.unloggedMetrics = NO_METRICS;
}

/** Mean of losses; null of none. */
export function meanLoss({ sum, steps }: LossSum): number | null {
  return steps === 0 ? null : sum / steps;
}
