/** Everything a run holds while training, and its opening. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { type Derived, derive, makeSchedule, RUN_FILES, type RunConfig, type Schedule } from '@minicpm-finetune/run';
import { manualSeed } from '@minicpm-finetune/torch';
import { restoreOptimizer } from '../checkpoint/checkpoint.js';
import { initialLossScale, LossScale } from '../engine/loss-scale.js';
import type { DeviceName } from '../engine/machine.js';
import { hostMemory, MemoryPlan, memoryOf } from '../engine/memory-plan.js';
import { withNoise } from '../engine/neftune.js';
import { Optimizer, optimizerSettings, withoutDecay } from '../engine/optimizer.js';
import { Profiler } from '../engine/profiler.js';
import { Staging } from '../engine/staging.js';
import type { StepOptions } from '../engine/step.js';
import { openVisionCache, type VisionCache } from '../engine/vision-cache.js';
import { resolveModel } from '../hub/hub.js';
import type { RunLog } from '../report/run-log.js';
import { checkMemory, estimateRun, type RunEstimate } from './estimate/check.js';
import { openData, type RunData } from './open-data.js';
import { prepareModel, type TrainingModel } from './open-model.js';
import { refuseTakenResult } from './output-folder.js';
import { compareBase, type Start } from './resume.js';
import type { RunState } from './state.js';
import { type StopOptions, StopRequests } from './stop.js';

/** Everything a run holds while training: parts that are made once, and the state, which changes. */
export interface Run {
  readonly config: RunConfig;
  readonly log: RunLog;
  readonly data: RunData;
  readonly training: TrainingModel;
  readonly optimizer: Optimizer;
  readonly schedule: Schedule;
  readonly derived: Derived;
  /** What it takes, as was said before it started; null: with --memory_check off, or nothing to learn from. */
  readonly estimated: RunEstimate | null;
  readonly lossScale: LossScale | null;
  readonly stop: StopRequests;
  readonly vision: VisionCache | null;
  /** Where the next step's pictures are copied while a step runs: on a GPU. */
  readonly staging: Staging | null;
  /** With --gradient_checkpointing auto or --memory_budget. */
  readonly memory: MemoryPlan | null;
  /** With --profile. */
  readonly profile: Profiler | null;
  readonly state: RunState;
  readonly output: Start['output'];
}

/**
 * Finds the model, opens the data and makes everything else, for a resumed run as the checkpoint has it, but for the random state, which is
 * restored last (`restoreRandomState`). `closeRun` frees it.
 *
 * @throws UserError
 */
export async function openRun(config: RunConfig, log: RunLog, start: Start, stop: StopOptions = {}): Promise<Run> {
  const { state, checkpoint, output } = start;
  const { model_name_or_path: named, cache_dir: cacheDir } = config.model;
  const { reporter } = log;
  const folder = await resolveModel(named, {
    flag: '--model_name_or_path',
    adapterFlag: '--lora_weight_path',
    cacheDir,
    reporter,
  });
  refuseTakenResult(config, output, folder);
  if (checkpoint !== null) compareBase(checkpoint, folder, config);
  const data = await openData(config, folder, checkpoint, reporter);
  const derived = derive(config, data.sampler.unitsPerEpoch);
  const resumeFrom = checkpoint?.folder ?? null;
  const estimated =
    config.engine.memory_check === 'off' ? null : estimateRun({ config, folder, data, state, derived, resumeFrom });
  if (estimated !== null) checkMemory(estimated, log);
  manualSeed(config.seeds.seed);
  const training = prepareModel(config, folder, reporter, resumeFrom);
  const requests = new StopRequests(config.output.output_dir, stop);
  const run = makeRun({ config, log, data, training, derived, estimated, state, output, stop: requests });
  if (checkpoint !== null) restoreOptimizer(checkpoint.folder, run.optimizer);
  return run;
}

export async function closeRun({ optimizer, training, data, staging }: Run): Promise<void> {
  staging?.dispose();
  optimizer.dispose();
  training.model.dispose();
  data.known.remember();
  data.knownEvaluation?.remember();
  await data.train.close();
  await data.evaluation?.close();
}

/** Makes from what was opened what a run needs beside it. */
function makeRun(
  opened: Pick<Run, 'config' | 'log' | 'data' | 'training' | 'derived' | 'estimated' | 'state' | 'output' | 'stop'>,
): Run {
  const { config, log, training, derived, state } = opened;
  const { precision } = config;
  const { totalSteps, warmupSteps } = derived;
  const scaled = precision.dtype === 'float16';
  if (scaled) state.lossScale ??= initialLossScale(precision);
  return {
    ...opened,
    optimizer: new Optimizer(training.trainable, withoutDecay(training.model), optimizerSettings(config)),
    schedule: makeSchedule(config.schedule, { totalSteps, warmupSteps, learningRate: config.optimizer.learning_rate }),
    lossScale: scaled ? new LossScale(precision, state.lossScale!) : null,
    vision: openVisionCache(config, training.model, derived.epochs, (message) => log.reporter.notice(message)),
    staging: training.device === 'cuda' ? new Staging(training.device) : null,
    memory: memoryPlan(config, log, training.device),
    profile: profiler(opened),
  };
}

function profiler({ config, log, output: { own } }: Pick<Run, 'config' | 'log' | 'output'>): Profiler | null {
  const { profile: steps } = config.logging;
  if (steps === 0) return null;
  const failed = (message: string): void => log.warn('write_failed', message);
  const write = (text: string): void => own.put(RUN_FILES.profile, (path) => writeFileSync(path, text));
  return new Profiler(steps, join(own.folder, RUN_FILES.profile), { write, failed });
}

function memoryPlan({ engine }: RunConfig, log: RunLog, device: DeviceName): MemoryPlan | null {
  const { gradient_checkpointing: recompute, memory_budget: budget } = engine;
  if (recompute !== 'auto' && budget === null) return null;
  const memory = device === 'cpu' ? hostMemory : memoryOf(device);
  return new MemoryPlan({ recompute, budget, memory, notice: (message) => log.reporter.notice(message) });
}

/** The current settings of a step of the run. */
export function stepOptions({ config, training: { model }, lossScale, memory, vision, profile }: Run): StepOptions {
  const alpha = config.optimizer.neftune_noise_alpha;
  return {
    maxGradNorm: config.optimizer.max_grad_norm,
    recompute: config.engine.gradient_checkpointing !== false,
    memory,
    perMicroBatch: config.data.compat === 'official',
    fused: config.engine.fused_backward,
    vision,
    profile: profile?.active ? profile : null,
    ...(lossScale === null ? {} : { lossScale: lossScale.scale }),
    ...(alpha === null ? {} : { wrap: (plan, inputs) => withNoise(plan, inputs, model, alpha) }),
  };
}
