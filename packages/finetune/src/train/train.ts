/**
 * The story of a training run. From the configuration to the saved model. Everything that happens is visible here; the
 * parts are in the files it imports.
 */
import { writeFileSync } from 'node:fs';
import { epochAt, RUN_FILES, type RunConfig, type RunEvent, type StopEvent } from '@minicpm-finetune/run';
import { about, allowTf32, RandomState, yieldToEventLoop } from '@minicpm-finetune/torch';
import { restoreRandomState } from '../checkpoint/checkpoint.js';
import { requireResolved } from '../config/resolve.js';
import type { DecodeAhead } from '../data/decode-ahead.js';
import type { Loader, MicroBatch } from '../data/loader.js';
import { collateAll } from '../engine/collate.js';
import { type DeviceName, explainMemory, startEngine } from '../engine/machine.js';
import { traced } from '../engine/profiler.js';
import { type StepResult, trainStep } from '../engine/step.js';
import type { Reporter } from '../report/reporter.js';
import { RunLog } from '../report/run-log.js';
import { VERSION } from '../version.js';
import { explainRunMemory } from './memory-failure.js';
import { handleNonfinite } from './nonfinite.js';
import { markUsed, openAhead, openLoader, optimizerSteps } from './open-data.js';
import { adoptOlder, claimOutput, clearEarlier, isResumed, type OutputFolder } from './output-folder.js';
import { placesLine } from './plan.js';
import { finishedRun, type Start, startOf } from './resume.js';
import { closeRun, openRun, type Run, stepOptions } from './run.js';
import { evaluate, savedBeforeErrors } from './save-first.js';
import { describeEnd, describeFinished, save, saveResult } from './saving.js';
import { addLoss, addToHistory, meanLoss } from './state.js';
import type { StopOptions } from './stop.js';

export interface TrainOptions extends StopOptions {
  /** Gets every event of the run after it was written to events.jsonl. What it throws ends the run. */
  readonly onEvent?: ((event: RunEvent) => void) | undefined;
  /** Shows what goes on. Nothing is shown without one. */
  readonly reporter?: Reporter | undefined;
  /** What was said when the configuration was resolved: it is kept in the run's first event. */
  readonly notices?: readonly string[];
  readonly derived?: readonly string[];
  /** Files beside those of the configuration that must stay whatever is overwritten: a recipe, a DeepSpeed file. */
  readonly inputs?: readonly string[];
}

export interface TrainResult {
  /** Why the run ended before its last step; null: it is finished. */
  readonly stopped: StopEvent['reason'] | null;
  /** Optimizer steps done, those before it was resumed included. */
  readonly steps: number;
  /** Mean over all steps of the run; null: none had a finite loss. */
  readonly trainLoss: number | null;
  /** Pictures looked up in the vision cache, and found; null: no cache. */
  readonly vision: { readonly pictures: number; readonly hits: number } | null;
}

const UNTESTED =
  'This training runs on mps, which is untested. Compare its first losses with those of --device cpu, and report what is wrong.';

const LESS_MEMORY =
  'Recompute with --gradient_checkpointing true, take a smaller --per_device_train_batch_size with more --gradient_accumulation_steps, ' +
  'a smaller --model_max_length or --max_slice_nums, --use_lora true, or --q_lora true with it.';

/**
 * Trains as the configuration says: loads model and data, takes the steps, and saves in `config.output.output_dir`. When `signal` is aborted,
 * the step under way is finished and a checkpoint saved (unless `save_on_stop` is false), and the result says `stopped`. Prints nothing and
 * installs no signal handlers.
 *
 * @throws UserError for a configuration that `resolveConfig` did not make; before any training time is spent where it can; for a run that cannot
 *   be continued
 */
export async function train(config: RunConfig, options: TrainOptions = {}): Promise<TrainResult> {
  requireResolved(config);
  const device = startEngine(config.engine);
  allowTf32(config.engine.tf32);
  const output = claimOutput(config, options.inputs);
  try {
    const finished = finishedRun(config, output);
    if (finished === null) return await trainIn(output, config, device, options);
    options.reporter?.notice(describeFinished(config, finished.steps));
    return finished;
  } finally {
    output.release();
  }
}

/** Trains in a folder that is claimed. */
async function trainIn(
  output: OutputFolder,
  config: RunConfig,
  device: DeviceName,
  options: TrainOptions,
): Promise<TrainResult> {
  const start = startOf(config, output);
  const { state } = start;
  const { reporter, onEvent } = options;
  const log = new RunLog(config, { startStep: state.step, reporter, onEvent });
  if (device === 'mps') log.warn('untested_device', UNTESTED);
  const started = performance.now();
  const seconds = (): number => (performance.now() - started) / 1000;
  try {
    const result = await runTraining(config, log, start, options);
    const status = result.stopped === null ? 'finished' : 'stopped';
    log.event({
      event: 'run_end',
      status,
      step: result.steps,
      train_loss: result.trainLoss,
      seconds: seconds(),
      ...(result.vision ? { vision_cache: result.vision } : {}),
      output: '.',
    });
    log.reporter.notice(describeEnd(config, state, result.stopped));
    return result;
  } catch (cause) {
    const error = explainMemory(cause, device, LESS_MEMORY);
    const { message } = error as Error;
    if (log.isOpen)
      log.event({ event: 'run_end', status: 'failed', step: state.step, seconds: seconds(), error: message });
    throw error;
  } finally {
    log.close();
  }
}

async function runTraining(config: RunConfig, log: RunLog, start: Start, options: TrainOptions): Promise<TrainResult> {
  const run = await openRun(config, log, start, options);
  const { data, derived, training, state } = run;
  announce(run, options);
  const steps = { start: state.step, end: derived.totalSteps, knownBad: state.badRecords };
  const loader = await openLoader(config, data, steps, log.reporter);
  const ahead = await openAhead(config, data, loader, steps, log.reporter);
  try {
    if (start.checkpoint !== null) restoreRandomState(start.checkpoint.folder, training.device);
    if ((config.eval.eval_on_start && state.step === 0) || state.evaluationDue) await evaluate(run);
    const stopped = await trainLoop(run, loader, ahead);
    if (stopped === null) saveResult(run);
    const vision = run.vision && { pictures: run.vision.pictures, hits: run.vision.hits };
    return { stopped, steps: state.step, trainLoss: meanLoss(state.trainLoss), vision };
  } catch (error) {
    throw training.device === 'cpu' ? error : explainRunMemory(error, run);
  } finally {
    if (run.profile?.active) run.profile.write();
    for (const one of [loader, ...ahead]) await one.close();
    await closeRun(run);
  }
}

function announce(run: Run, options: TrainOptions): void {
  const { config, log, derived, training, data, state, output } = run;
  const { own } = output;
  const left = clearEarlier(config, output);
  if (left.length > 0) log.reporter.notice(`left in place, because someone changed it: ${left.join(', ')}`);
  if (isResumed(config) && !own.exists) adoptOlder(config, own);
  own.open();
  own.put(RUN_FILES.config, (path) => writeFileSync(path, `${JSON.stringify(config, null, 2)}\n`));
  log.open(own);
  const places = training.places === null ? [] : [placesLine(training.places)];
  log.event({
    event: 'run_start',
    versions: { minicpm_finetune: VERSION, node: process.versions.node, libtorch: about().version },
    config,
    notices: [...(options.notices ?? []), ...training.notices],
    derived: [...new Set([...(options.derived ?? []), ...derived.lines, ...places])],
    total_steps: derived.totalSteps,
    train_samples: data.train.length,
    eval_samples: data.evaluation?.length ?? 0,
    trainable_parameters: training.trainableNumbers,
    total_parameters: training.totalNumbers,
    ...(training.places === null ? {} : { adapters: training.places }),
    world_size: 1,
    device: training.device,
    resumed_at_step: state.step,
  });
  if (config.output.run_name !== null) log.reporter.notice(`This is ${config.output.run_name}.`);
  log.reporter.training?.({ totalSteps: derived.totalSteps, epochs: derived.epochs });
}

/** Takes the steps that are left. Returns why it stopped before the last one, or null. */
async function trainLoop(run: Run, loader: Loader, ahead: readonly DecodeAhead[]): Promise<StopEvent['reason'] | null> {
  const { config, derived, log, state } = run;
  if (run.stop.aborted !== null) {
    log.event({ event: 'stop', reason: run.stop.aborted, step: state.step });
    return run.stop.aborted;
  }
  for await (const micros of savedBeforeErrors(run, optimizerSteps(loader), ahead)) {
    await oneStep(run, micros, loader);
    const { step } = state;
    const epochEnds = step % derived.stepsPerEpoch === 0;
    const last = step === derived.totalSteps;
    if (isDue(config.eval.eval_strategy, derived.evalSteps, step, epochEnds) || (last && config.eval.do_eval))
      await evaluate(run);
    const stopped = last ? null : run.stop.reason; // after the last step there is nothing to stop
    if (stopped !== null) log.event({ event: 'stop', reason: stopped, step });
    const asked = run.stop.takeSaveRequest();
    if (isDue(config.save.save_strategy, derived.saveSteps, step, epochEnds)) save(run, 'interval');
    else if (stopped !== null && config.save.save_on_stop) save(run, stopped === 'stop_file' ? 'stop' : 'signal');
    else if (asked) save(run, 'signal');
    if (stopped !== null) return stopped;
    await yieldToEventLoop();
  }
  return null;
}

function isDue(
  strategy: 'no' | 'steps' | 'epoch',
  every: number | undefined,
  step: number,
  epochEnds: boolean,
): boolean {
  return strategy === 'epoch' ? epochEnds : strategy === 'steps' && every !== undefined && step % every === 0;
}

/** From the first step on, the run has something to lose. */
function noteBegin({ log, output: { own }, state }: Run): void {
  try {
    own.begin();
  } catch (error) {
    const message = `THE FIRST STEP IS NOT RECORDED in ${own.path}: ${(error as Error).message}. The run goes on.`;
    log.warn('write_failed', message, state.step);
  }
}

/** One optimizer step and its line in the log. */
async function oneStep(run: Run, micros: readonly MicroBatch[], loader: Loader): Promise<void> {
  const { config, derived, log, optimizer, state } = run;
  const { step } = micros[0]!;
  const profile = run.profile?.active ? run.profile : null;
  profile?.wait(loader.dataWaitSeconds);
  const { staging } = run;
  const taken = performance.now();
  const batches = traced(profile, 'collate', 'data', () => collateAll(micros, run.training.device, staging));
  loader.dataWaitSeconds += (performance.now() - taken) / 1000;
  if (batches.length === 0) {
    state.step = step + 1; // every record of this step is bad and was left out
    return;
  }
  const tokens = batches.reduce((sum, batch) => sum + batch.tokens, 0);
  const samples = batches.reduce((sum, batch) => sum + batch.samples, 0);
  const lossScale = run.lossScale?.scale ?? null;
  using random = new RandomState([run.training.device]);
  const compute = (): StepResult =>
    trainStep(run.training.model, batches, optimizer, run.schedule(step), {
      ...stepOptions(run),
      ...(staging && { whileDeviceWorks: () => staging.stage(loader.encodedNext) }),
    });
  const result = profile ? profile.step(step + 1, compute) : compute();
  run.memory?.endStep();
  const scaleHelps = run.lossScale?.update(!result.updated) ?? false;
  if (!result.updated) await handleNonfinite(run, result, micros, { scaleHelps, random });
  state.step = step + 1;
  markUsed(run.data, micros);
  noteBegin(run);
  state.tokensSeen += tokens;
  addLoss(state, result.loss);
  const done = state.step;
  const due =
    isDue(config.logging.logging_strategy, derived.loggingSteps, done, done % derived.stepsPerEpoch === 0) ||
    done === derived.totalSteps ||
    (done === 1 && config.logging.logging_first_step);
  const logged = log.step(
    {
      step: done,
      epoch: epochAt(done, derived.stepsPerEpoch),
      meanLoss: meanLoss(state.unloggedLoss),
      gradNorm: result.gradNorm,
      learningRate: optimizer.groups[0]!.baseLr * run.schedule(step),
      samples,
      tokens,
      supervisedTokens: result.supervisedTokens,
      lossScale,
      skippedSteps: state.skippedSteps,
      dataWaitSeconds: loader.dataWaitSeconds + (staging?.idleSeconds ?? 0),
      vision: run.vision && { pictures: run.vision.pictures, hits: run.vision.hits },
    },
    derived.totalSteps,
    due,
  );
  if (logged !== null) addToHistory(state, logged, result.gradNorm);
}
