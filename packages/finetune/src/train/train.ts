/**
 * The story of a training run. From the configuration to the saved model. Everything that happens is visible here; the
 * parts are in the files it imports.
 */
import { writeFileSync } from 'node:fs';
import { RUN_FILES, type RunConfig, type RunEvent, type StopEvent, UserError } from '@minicpm-finetune/run';
import { about, allowTf32, yieldToEventLoop } from '@minicpm-finetune/torch';
import { restoreRandomState } from '../checkpoint/checkpoint.js';
import { bringCheckpoint } from '../checkpoint/receive.js';
import { requireResolved } from '../config/resolve.js';
import type { DecodeAhead } from '../data/decode-ahead.js';
import type { Loader } from '../data/loader.js';
import { type DeviceName, explainMemory, startEngine } from '../engine/machine.js';
import { agree, attempt, fromFirst, settle } from '../parallel/agree.js';
import { type Ranks, soloRanks } from '../parallel/ranks.js';
import { Outbox } from '../report/outbox.js';
import type { Reporter } from '../report/reporter.js';
import { RunLog } from '../report/run-log.js';
import { VERSION } from '../version.js';
import { confer } from './confer.js';
import { explainRunMemory } from './memory-failure.js';
import { isDue, oneStep } from './one-step.js';
import { openAhead, openLoader } from './open-data.js';
import { adoptOlder, claimOutput, clearEarlier, isResumed, type OutputFolder, unownedOutput } from './output-folder.js';
import { placesLine } from './plan.js';
import { readySteps } from './ready-steps.js';
import { finishedRun, type Start, startOf } from './resume.js';
import { closeRun, openRun, type Run } from './run.js';
import { evaluate } from './save-first.js';
import { describeEnd, describeFinished, save, saveResult } from './saving.js';
import { meanLoss } from './state.js';
import { agreeOnRequests, type StopOptions } from './stop.js';
import { processOfRun, RunWatch } from './watch-run.js';

export interface TrainOptions extends StopOptions {
  /** This process among those of the run, which all call `train` with one configuration; alone unless given. */
  readonly ranks?: Ranks;
  /** Gets every event of the run after it was written to events.jsonl (by rank 0). What it throws ends the run. */
  readonly onEvent?: ((event: RunEvent) => void) | undefined;
  /** Shows what goes on, on rank 0. Nothing is shown without one. */
  readonly reporter?: Reporter | undefined;
  /** What was said when the configuration was resolved: it is kept in the run's first event. */
  readonly notices?: readonly string[];
  readonly derived?: readonly string[];
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

/** The same, with the ranks that all else is done with. */
type Options = TrainOptions & { readonly ranks: Ranks };

/**
 * Trains as the configuration says: loads model and data, takes the steps, and saves in `config.output.output_dir`. When `signal` is aborted,
 * the step under way is finished and a checkpoint saved (unless `save_on_stop` is false), and the result says `stopped`. Prints nothing and
 * installs no signal handlers. Of several ranks, rank 0 owns the run folder and shows what goes on; an error, a stop or a save asked of one
 * is that of all.
 *
 * @throws UserError for a configuration that `resolveConfig` did not make; before any training time is spent where it can; for a run that cannot
 *   be continued
 */
export async function train(config: RunConfig, options: TrainOptions = {}): Promise<TrainResult> {
  requireResolved(config);
  const ranks = options.ranks ?? soloRanks();
  const device = settle(
    ranks,
    'device',
    attempt(() => deviceOf(config, ranks)),
  );
  allowTf32(config.engine.tf32);
  const claim = (): OutputFolder | null => (ranks.rank === 0 ? claimOutput(config) : null);
  const output = settle(ranks, 'output folder', attempt(claim)) ?? unownedOutput(config);
  try {
    const finished = fromFirst(ranks, 'finished run', () => finishedRun(config, output, ranks.size));
    if (finished === null) return await trainIn(output, config, device, { ...options, ranks });
    if (ranks.rank === 0) options.reporter?.notice(describeFinished(config, finished.steps));
    return finished;
  } finally {
    output.release();
  }
}

/** The device of a run. @throws UserError */
function deviceOf(config: RunConfig, { size }: Ranks): DeviceName {
  const device = startEngine(config.engine);
  if (size > 1 && device === 'mps')
    throw new UserError(`Expected one process on mps but received ${size}: several compute on CPUs and NVIDIA GPUs.`, {
      flag: '--device',
      cure: 'Give --device cpu, or start one process with --gradient_accumulation_steps times as large.',
    });
  return device;
}

/** Trains in a folder that is claimed. */
async function trainIn(
  output: OutputFolder,
  config: RunConfig,
  device: DeviceName,
  options: Options,
): Promise<TrainResult> {
  const { ranks, reporter, onEvent } = options;
  const found = fromFirst(ranks, 'start', () => startOf(config, ranks.size));
  using here = found.checkpoint && bringCheckpoint(found.checkpoint.folder, config.output.output_dir, ranks);
  const checkpoint = found.checkpoint && here && { ...found.checkpoint, folder: here.folder };
  const start = { ...found, checkpoint, output };
  const { state } = start;
  const outbox = ranks.rank === 0 ? null : new Outbox();
  const log = new RunLog(config, { startStep: state.step, reporter, onEvent, worldSize: ranks.size, outbox });
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

async function runTraining(config: RunConfig, log: RunLog, start: Start, options: Options): Promise<TrainResult> {
  const run = await openRun(config, log, start, options);
  const { derived, training, state, ranks } = run;
  settle(
    ranks,
    'run folder',
    attempt(() => (ranks.rank === 0 ? openFolder(run) : undefined)),
  );
  announce(run, options);
  const steps = { start: state.step, end: derived.totalSteps, knownBad: state.badRecords };
  const closeAll = async ({ loader, ahead }: Reading): Promise<void> => {
    for (const one of [loader, ...ahead]) await one.close();
  };
  const reading = await agree(ranks, 'data threads', () => openReading(run, steps), closeAll);
  try {
    const restore = (): void => {
      if (start.checkpoint !== null) restoreRandomState(start.checkpoint.folder, training.device);
    };
    settle(ranks, 'random state', attempt(restore));
    if ((config.eval.eval_on_start && state.step === 0) || state.evaluationDue) await evaluate(run);
    const stopped = await trainLoop(run, reading);
    if (stopped === null) saveResult(run);
    return { stopped, steps: state.step, trainLoss: meanLoss(state.trainLoss), vision: lastWords(run, reading) };
  } catch (error) {
    throw training.device === 'cpu' ? error : explainRunMemory(error, run);
  } finally {
    if (run.profile?.active) run.profile.write();
    await closeAll(reading);
    await closeRun(run);
  }
}

/** What reads the training data. */
interface Reading {
  readonly loader: Loader;
  /** Of rank 0. */
  readonly ahead: readonly DecodeAhead[];
}

async function openReading(
  { config, data, log: { reporter }, ranks }: Run,
  steps: { readonly start: number; readonly end: number; readonly knownBad: number[] },
): Promise<Reading> {
  const loader = await openLoader(config, data, steps, reporter, ranks);
  try {
    return { loader, ahead: ranks.rank === 0 ? openAhead(config, data, loader, steps, reporter) : [] };
  } catch (error) {
    await loader.close();
    throw error;
  }
}

/** What the ranks have left to say to rank 0. Returns the use of the vision cache over all of them; null: no cache. */
function lastWords(run: Run, { loader }: Reading): TrainResult['vision'] {
  const { pictures = 0, hits = 0 } = run.vision ?? {};
  const own = { value: null };
  const { numbers } = confer(run, { label: 'end of the training', bad: loader.bad }, own, [pictures, hits]);
  const sum = (i: number): number => numbers.reduce((total, one) => total + one[i]!, 0);
  return run.vision && { pictures: sum(0), hits: sum(1) };
}

/** Rank 0 makes the files of the run; an earlier run's go now. */
function openFolder({ config, log, output }: Run): void {
  const { own } = output;
  const left = clearEarlier(config, output);
  if (left.length > 0) log.reporter.notice(`left in place, because someone changed it: ${left.join(', ')}`);
  if (isResumed(config) && !own.exists) adoptOlder(config, own);
  own.open();
  own.put(RUN_FILES.config, (path) => writeFileSync(path, `${JSON.stringify(config, null, 2)}\n`));
  log.open(own);
}

function announce(run: Run, options: TrainOptions): void {
  const { config, log, derived, training, data, state, ranks } = run;
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
    world_size: ranks.size,
    device: training.device,
    resumed_at_step: state.step,
    startup_seconds: log.startupSeconds,
    ...processOfRun(),
  });
  if (config.output.run_name !== null) log.reporter.notice(`This is ${config.output.run_name}.`);
  log.reporter.training?.({ totalSteps: derived.totalSteps, epochs: derived.epochs });
}

/** Takes the steps that are left. Returns why it stopped before the last one, or null. */
async function trainLoop(run: Run, { loader, ahead }: Reading): Promise<StopEvent['reason'] | null> {
  const { config, derived, log, state, ranks } = run;
  const before = agreeOnRequests(ranks, { reason: run.stop.aborted, save: false }).reason;
  if (before !== null) {
    log.event({ event: 'stop', reason: before, step: state.step });
    return before;
  }
  using watch = new RunWatch(run);
  log.phase('training', state.step);
  for await (const ready of readySteps(run, loader, ahead)) {
    await oneStep(run, ready, loader);
    watch.stepDone();
    const { step } = state;
    const epochEnds = step % derived.stepsPerEpoch === 0;
    const last = step === derived.totalSteps;
    if (isDue(config.eval.eval_strategy, derived.evalSteps, step, epochEnds) || (last && config.eval.do_eval))
      await evaluate(run);
    const reason = last ? null : run.stop.reason; // after the last step there is nothing to stop
    const { reason: stopped, save: asked } = agreeOnRequests(ranks, { reason, save: run.stop.takeSaveRequest() });
    if (stopped !== null) log.event({ event: 'stop', reason: stopped, step });
    if (isDue(config.save.save_strategy, derived.saveSteps, step, epochEnds)) save(run, 'interval');
    else if (stopped !== null && config.save.save_on_stop) save(run, stopped === 'stop_file' ? 'stop' : 'signal');
    else if (asked) save(run, 'signal');
    if (stopped !== null) return stopped;
    if (!last) log.phase('training', step);
    await yieldToEventLoop();
  }
  return null;
}
