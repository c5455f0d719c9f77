/**
 * The story of a training run, from the configuration to the saved model. Everything that happens is visible here; the parts are in the
 * files it imports.
 */
import { writeFileSync } from 'node:fs';
import { join, relative } from 'node:path';
import { type CheckpointEvent, RUN_FILES, type RunConfig, type StopEvent, UserError } from '@minicpm-finetune/run';
import { about, manualSeed, setThreads, tuneAllocator } from '@minicpm-finetune/torch';
import {
  removeOldCheckpoints,
  restoreOptimizer,
  restoreRandomState,
  type TrainerState,
  writeCheckpoint,
} from './checkpoint.js';
import { type Derived, derive } from './cli/derive.js';
import { collate } from './collate.js';
import type { Loader, MicroBatch } from './data/loader.js';
import { openData, openLoader, optimizerSteps, type RunData } from './data-setup.js';
import { evaluate } from './evaluate.js';
import { LossScale } from './loss-scale.js';
import { prepareModel, type TrainingModel } from './model-setup.js';
import { Optimizer, withoutDecay } from './optimizer.js';
import { compareData, type Resumed, startOf } from './resume.js';
import { RunLog } from './run-log.js';
import { makeSchedule, type Schedule } from './schedule.js';
import { type StepResult, trainStep } from './step.js';
import { StopRequests } from './stop.js';
import { VERSION } from './version.js';

export interface TrainOptions {
  readonly notices?: readonly string[];
  readonly derived?: readonly string[];
}

export interface TrainResult {
  readonly stopped: StopEvent['reason'] | null;
  readonly steps: number;
  readonly trainLoss: number | null;
}

/** Everything a run has while it trains. */
interface Run {
  readonly config: RunConfig;
  readonly log: RunLog;
  readonly data: RunData;
  readonly training: TrainingModel;
  readonly optimizer: Optimizer;
  readonly schedule: Schedule;
  readonly derived: Derived;
  readonly lossScale: LossScale | null;
  readonly stop: StopRequests;
  bestMetric: number | null;
  bestCheckpoint: string | null;
  tokensSeen: number;
  skippedSteps: number;
}

/** Trains as the configuration says. Throws UserErrors before any training time is spent where it can. */
export async function train(config: RunConfig, options: TrainOptions = {}): Promise<TrainResult> {
  if (config.engine.threads !== null) setThreads(config.engine.threads);
  tuneAllocator();
  const resumed = startOf(config);
  const log = new RunLog(config);
  const started = performance.now();
  const seconds = (): number => (performance.now() - started) / 1000;
  try {
    const result = await runTraining(config, log, resumed, options);
    const status = result.stopped === null ? 'finished' : 'stopped';
    log.event({
      event: 'run_end',
      status,
      step: result.steps,
      train_loss: result.trainLoss,
      seconds: seconds(),
      output: '.',
    });
    return result;
  } catch (error) {
    log.event({ event: 'run_end', status: 'failed', step: 0, seconds: seconds(), error: (error as Error).message });
    throw error;
  } finally {
    log.close();
  }
}

async function runTraining(
  config: RunConfig,
  log: RunLog,
  resumed: Resumed | null,
  options: TrainOptions,
): Promise<TrainResult> {
  const notice = (message: string): void => log.progress.print(message);
  const data = await openData(config, notice);
  if (resumed) compareData(resumed, data.train.fingerprint, config);
  const derived = derive(config, data.sampler.recordsPerEpoch);
  manualSeed(config.seeds.seed);
  const training = prepareModel(config, log.progress, resumed?.folder ?? null);
  const run = makeRun(config, log, data, training, derived);
  const start = resumed ? restore(run, resumed) : 0;
  announce(run, start, options);
  const known = resumed?.state.bad_records ?? [];
  const loader = await openLoader(config, data, { start, end: derived.totalSteps, knownBad: known }, notice);
  try {
    if (resumed) restoreRandomState(resumed.folder);
    if (config.eval.eval_on_start && start === 0) await runEvaluation(run, 0);
    const { steps, stopped } = await trainLoop(run, loader, start);
    finish(run, steps, loader, stopped);
    return { stopped, steps, trainLoss: log.trainLoss };
  } finally {
    await loader.close();
    run.stop.close();
    run.optimizer.dispose();
    training.model.dispose();
    await data.train.close();
    await data.evaluation?.close();
  }
}

function makeRun(config: RunConfig, log: RunLog, data: RunData, training: TrainingModel, derived: Derived): Run {
  const { optimizer: o, precision, lora } = config;
  const optimizer = new Optimizer(training.trainable, withoutDecay(training.model), {
    learningRate: o.learning_rate,
    visionLearningRate: o.vision_learning_rate,
    resamplerLearningRate: o.resampler_learning_rate,
    embeddingLearningRate: o.embedding_learning_rate,
    loraPlusRatio: lora.loraplus_lr_ratio,
    weightDecay: o.weight_decay,
    beta1: o.adam_beta1,
    beta2: o.adam_beta2,
    eps: o.adam_epsilon,
    masterWeights: precision.dtype !== 'bfloat16' || precision.bf16_master_weights,
  });
  const { totalSteps, warmupSteps } = derived;
  return {
    config,
    log,
    data,
    training,
    optimizer,
    schedule: makeSchedule(config.schedule, { totalSteps, warmupSteps, learningRate: o.learning_rate }),
    derived,
    lossScale: precision.dtype === 'float16' ? new LossScale(precision) : null,
    stop: new StopRequests(config.output.output_dir, (message) => log.progress.print(message)),
    bestMetric: null,
    bestCheckpoint: null,
    tokensSeen: 0,
    skippedSteps: 0,
  };
}

/** Puts everything back but the model, which was loaded from the checkpoint, and the random state, which comes last. */
function restore(run: Run, { folder, state }: Resumed): number {
  restoreOptimizer(folder, run.optimizer);
  if (run.lossScale && state.loss_scale) run.lossScale.state = state.loss_scale;
  run.bestMetric = state.best_metric;
  run.bestCheckpoint = state.best_model_checkpoint;
  run.tokensSeen = state.num_input_tokens_seen;
  run.skippedSteps = state.skipped_steps;
  run.log.history.push(...state.log_history);
  return state.global_step;
}

function announce(run: Run, start: number, options: TrainOptions): void {
  const { config, log, derived, training, data } = run;
  writeFileSync(join(config.output.output_dir, RUN_FILES.config), `${JSON.stringify(config, null, 2)}\n`);
  log.event({
    event: 'run_start',
    versions: { minicpm_finetune: VERSION, node: process.versions.node, libtorch: about().version },
    config,
    notices: [...(options.notices ?? [])],
    derived: [...new Set([...(options.derived ?? []), ...derived.lines])],
    total_steps: derived.totalSteps,
    train_samples: data.train.length,
    eval_samples: data.evaluation?.length ?? 0,
    trainable_parameters: training.trainableNumbers,
    total_parameters: training.totalNumbers,
    world_size: 1,
    device: 'cpu',
    resumed_at_step: start,
  });
  log.progress.training({ totalSteps: derived.totalSteps, epochs: derived.epochs });
}

async function trainLoop(
  run: Run,
  loader: Loader,
  start: number,
): Promise<{ steps: number; stopped: StopEvent['reason'] | null }> {
  const { config, derived, log } = run;
  let done = start;
  for await (const micros of optimizerSteps(loader)) {
    oneStep(run, micros, loader);
    done = micros[0]!.step + 1;
    const epochEnds = done % derived.stepsPerEpoch === 0;
    const stopped = run.stop.reason;
    const last = done === derived.totalSteps;
    if (isDue(config.eval.eval_strategy, derived.evalSteps, done, epochEnds)) await runEvaluation(run, done, loader);
    const interval = isDue(config.save.save_strategy, derived.saveSteps, done, epochEnds);
    if (stopped !== null) log.event({ event: 'stop', reason: stopped, step: done });
    if (stopped !== null && config.save.save_on_stop && !last)
      save(run, done, loader, stopped === 'stop_file' ? 'stop' : 'signal');
    else if (interval) save(run, done, loader, 'interval');
    else if (run.stop.takeSaveRequest()) save(run, done, loader, 'signal');
    if (stopped !== null) return { steps: done, stopped };
    await new Promise(setImmediate); // lets signals in and finalizers run
  }
  return { steps: done, stopped: null };
}

function isDue(
  strategy: 'no' | 'steps' | 'epoch',
  every: number | undefined,
  step: number,
  epochEnds: boolean,
): boolean {
  return strategy === 'epoch' ? epochEnds : strategy === 'steps' && every !== undefined && step % every === 0;
}

/** One optimizer step and its line in the log. */
function oneStep(run: Run, micros: readonly MicroBatch[], loader: Loader): void {
  const { config, derived, log, optimizer } = run;
  const { step } = micros[0]!;
  const batches = micros
    .filter((micro) => micro.samples.length > 0)
    .map((micro) => collate(micro.samples, config.precision.dtype));
  if (batches.length === 0) return; // every record of this step is bad and was left out
  const tokens = batches.reduce((sum, batch) => sum + batch.tokens, 0);
  const samples = batches.reduce((sum, batch) => sum + batch.samples, 0);
  const lossScale = run.lossScale?.scale ?? null;
  const result = trainStep(run.training.model, batches, optimizer, run.schedule(step), {
    maxGradNorm: config.optimizer.max_grad_norm,
    recompute: config.engine.gradient_checkpointing,
    perMicroBatch: config.data.compat === 'official',
    ...(lossScale === null ? {} : { lossScale }),
  });
  const scaleHelps = run.lossScale?.update(!result.updated) ?? false;
  if (!result.updated) handleNonfinite(run, result, micros, scaleHelps);
  run.tokensSeen += tokens;
  const done = step + 1;
  const due = isDue(config.logging.logging_strategy, derived.loggingSteps, done, done % derived.stepsPerEpoch === 0);
  log.step(
    {
      step: done,
      epoch: done / derived.stepsPerEpoch,
      loss: result.loss,
      gradNorm: result.gradNorm,
      learningRate: optimizer.groups[0]!.lr,
      samples,
      tokens,
      supervisedTokens: result.supervisedTokens,
      lossScale,
      skippedSteps: run.skippedSteps,
      dataWaitSeconds: loader.dataWaitSeconds,
    },
    derived.totalSteps,
    due || done === derived.totalSteps || (done === 1 && config.logging.logging_first_step),
  );
}

/** A loss or gradient that is not finite: float16 lowers its scale; else the run ends or skips, as asked. */
function handleNonfinite(run: Run, result: StepResult, micros: readonly MicroBatch[], scaleHelps: boolean): void {
  run.skippedSteps++;
  const step = micros[0]!.step + 1;
  const records = micros.flatMap((micro) => micro.indices).join(', ');
  const what = `the loss was ${result.loss} and the gradient norm ${result.gradNorm} at step ${step} (records ${records})`;
  if (scaleHelps && Number.isFinite(result.loss)) return;
  if (run.config.precision.on_nonfinite === 'skip') {
    run.log.warn('nonfinite', `The step was skipped: ${what}.`, step);
    return;
  }
  throw new UserError(`Expected a finite loss and gradient but ${what}.`, {
    cure: 'Lower --learning_rate, set --max_grad_norm, or skip such steps with --on_nonfinite skip.',
  });
}

async function runEvaluation(run: Run, step: number, loader?: Loader): Promise<void> {
  const { config, data, log, derived } = run;
  if (data.evaluation === null) return;
  const { loss, samples, seconds } = await evaluate(config, data, data.evaluation, run.training, log.progress, (m) =>
    log.progress.print(m),
  );
  const epoch = Number((step / derived.stepsPerEpoch).toFixed(4));
  log.event({ event: 'eval', step, epoch, loss, metrics: {}, samples, seconds, samples_per_s: samples / seconds });
  log.history.push({ epoch, eval_loss: loss, eval_runtime: seconds, eval_samples_per_second: samples / seconds, step });
  log.exclude(seconds);
  const metric = config.eval.metric_for_best_model ?? (config.eval.load_best_model_at_end ? 'loss' : null);
  if (metric === null || loader === undefined) return;
  const better =
    run.bestMetric === null || (config.eval.greater_is_better ? loss > run.bestMetric : loss < run.bestMetric);
  if (!better) return;
  run.bestMetric = loss;
  run.bestCheckpoint = save(run, step, loader, 'best');
}

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

/** Writes a checkpoint; a failed write is a loud warning and the run goes on. Returns the folder, or null if it failed. */
function save(run: Run, step: number, loader: Loader, reason: CheckpointEvent['reason']): string | null {
  const { config, log, training } = run;
  const folder = config.output.output_dir;
  const started = performance.now();
  try {
    const { path, bytes } = writeCheckpoint(folder, {
      writeModel: training.save,
      optimizer: config.save.save_only_model ? null : run.optimizer,
      state: trainerState(run, step, loader),
      config,
      modelBytes: training.savedBytes,
    });
    const removed = removeOldCheckpoints(folder, config.save.save_total_limit, [run.bestCheckpoint, path]);
    const seconds = (performance.now() - started) / 1000;
    log.exclude(seconds);
    const names = removed.map((old) => relative(folder, old));
    log.event({ event: 'checkpoint', step, path: relative(folder, path), bytes, seconds, reason, removed: names });
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

/** The trained model in the run folder itself, unless the run was stopped before its end. */
function finish(run: Run, step: number, loader: Loader, stopped: StopEvent['reason'] | null): void {
  if (stopped !== null) return;
  const { output_dir: folder } = run.config.output;
  run.training.save(folder);
  writeFileSync(join(folder, 'trainer_state.json'), `${JSON.stringify(trainerState(run, step, loader), null, 2)}\n`);
}
