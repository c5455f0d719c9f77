/** Everything a run holds while training, and its opening. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { partOf } from '@minicpm-finetune/processor';
import { type Derived, derive, makeSchedule, RUN_FILES, type RunConfig, type Schedule } from '@minicpm-finetune/run';
import { manualSeed, seedOf } from '@minicpm-finetune/torch';
import { restoreOptimizer } from '../checkpoint/optimizer-file.js';
import { initialLossScale, LossScale } from '../engine/loss-scale.js';
import { hostMemory, MemoryPlan, memoryOf } from '../engine/memory-plan.js';
import { withNoise } from '../engine/neftune.js';
import { Optimizer, optimizerSettings, withoutDecay } from '../engine/optimizer.js';
import type { PreferenceStep } from '../engine/preference.js';
import { comparesWithReference, preferenceOptions } from '../engine/preference-loss.js';
import { Profiler } from '../engine/profiler.js';
import { Staging } from '../engine/staging.js';
import type { StepOptions } from '../engine/step.js';
import { tracedGroup } from '../engine/traced-group.js';
import { openVisionCache, type VisionCache } from '../engine/vision-cache.js';
import { resolveModel } from '../hub/hub.js';
import { agree, attempt, firstOfMachine, settle } from '../parallel/agree.js';
import { type Ranks, soloRanks } from '../parallel/ranks.js';
import { Sharding, stageOf } from '../parallel/sharding.js';
import type { RunLog } from '../report/run-log.js';
import { checkMemory, estimateRun, type RunEstimate, roomOf } from './estimate/check.js';
import { openOffload, type RunOffload } from './offload.js';
import { openData, type RunData, refusePictures } from './open-data.js';
import { prepareModel, type TrainingModel } from './open-model.js';
import { refuseTakenResult } from './output-folder.js';
import { referencePlan } from './plan.js';
import { objectiveOf, PreferenceWatch, type RunPreference } from './preference.js';
import { computeReference, isComplete, openLiveReference, openReferenceLogs } from './reference.js';
import { compareBase, type Start } from './resume.js';
import type { RunState } from './state.js';
import { type StopOptions, StopRequests } from './stop.js';

/** Everything a run holds while training: parts that are made once, and the state, which changes. */
export interface Run {
  readonly config: RunConfig;
  /** This process among those of the run. */
  readonly ranks: Ranks;
  readonly log: RunLog;
  readonly data: RunData;
  readonly training: TrainingModel;
  /** How the ranks share the model; null: this process is alone. */
  readonly sharding: Sharding | null;
  /** Where states are that are not on the device. */
  readonly offload: RunOffload;
  /** With --preference. */
  readonly preference: RunPreference | null;
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

/** What a run is opened with. */
export interface OpenOptions extends StopOptions {
  /** Alone unless given. */
  readonly ranks?: Ranks;
}

/**
 * Finds the model, opens the data and makes everything else, for a resumed run as the checkpoint has it, but for the random state, which is
 * restored last (`restoreRandomState`). `closeRun` frees it. Collective: what fails on one rank fails on all.
 *
 * @throws UserError
 */
export async function openRun(config: RunConfig, log: RunLog, start: Start, options: OpenOptions = {}): Promise<Run> {
  const { state, checkpoint, output } = start;
  const { ranks = soloRanks() } = options;
  const { model_name_or_path: named, cache_dir: cacheDir } = config.model;
  const { reporter } = log;
  const flags = { flag: '--model_name_or_path', adapterFlag: '--lora_weight_path' } as const;
  log.starting('preparing');
  const folder = await firstOfMachine(ranks, 'model', () => resolveModel(named, { ...flags, cacheDir, reporter }));
  const check = (): void => {
    refuseTakenResult(config, output, folder);
    if (checkpoint !== null) compareBase(checkpoint, folder, config);
  };
  settle(ranks, 'output folder and model', attempt(ranks.rank === 0 ? check : () => {}));
  const data = await openData({ config, folder, checkpoint, reporter, ranks });
  const pictures = (): void => (ranks.rank === 0 ? refusePictures(config, output, data) : undefined);
  settle(ranks, 'pictures of the data', attempt(pictures));
  const derived = derive(config, data.sampler.unitsPerEpoch, ranks.size);
  const stop = new StopRequests(ranks.rank === 0 ? config.output.output_dir : null, options);
  const resumeFrom = checkpoint?.folder ?? null;
  const estimated =
    config.engine.memory_check === 'off'
      ? null
      : estimateRun({ config, folder, data, state, derived, resumeFrom, worldSize: ranks.size });
  const enough = (): void =>
    estimated === null ? undefined : checkMemory(estimated, log, roomOf(estimated.device, ranks.localSize));
  settle(ranks, 'memory', attempt(enough));
  const plan = referencePlan(config, derived.epochs);
  const logs = plan === 'once' ? await openReferenceLogs({ config, folder, data, ranks, reporter }) : null;
  const make = (from: string | null): Promise<Run> => {
    log.starting('loading');
    return agree(ranks, 'weights', () => {
      manualSeed(config.seeds.seed);
      const training = prepareModel(config, folder, reporter, from);
      const options = preferenceOptions(config);
      const place = { config, folder, resumed: from !== null };
      const live = plan === 'live' ? openLiveReference(place, training, reporter) : null;
      const preference = options && {
        options,
        live,
        logs,
        watch: new PreferenceWatch(log, comparesWithReference(options.loss) ? options.beta : null),
      };
      return makeRun({ config, ranks, log, data, training, preference, derived, estimated, state, output, stop });
    });
  };
  if (logs !== null && !isComplete(logs) && resumeFrom !== null) {
    const first = await make(null);
    log.starting('reference');
    try {
      await computeReference(first, logs);
    } finally {
      closeModel(first);
    }
  }
  const run = await make(resumeFrom);
  if (logs !== null && !isComplete(logs)) {
    log.starting('reference');
    await computeReference(run, logs);
  }
  log.starting('loading');
  if (checkpoint !== null) restoreOptimizer(checkpoint.folder, run.optimizer, ranks);
  log.starting(null);
  return run;
}

function closeModel({ optimizer, sharding, offload, training, staging, preference }: Run): void {
  staging?.dispose();
  optimizer.dispose();
  preference?.live?.dispose();
  sharding?.dispose();
  training.model.dispose();
  offload.close();
}

export async function closeRun(run: Run): Promise<void> {
  const { data } = run;
  closeModel(run);
  data.known.remember();
  data.knownEvaluation?.remember();
  await data.train.close();
  await data.evaluation?.close();
}

/** Makes from what was opened what a run needs beside it. */
function makeRun(
  opened: Pick<
    Run,
    | 'config'
    | 'ranks'
    | 'log'
    | 'data'
    | 'training'
    | 'preference'
    | 'derived'
    | 'estimated'
    | 'state'
    | 'output'
    | 'stop'
  >,
): Run {
  const { config, log, training, derived, state } = opened;
  const { precision } = config;
  const { totalSteps, warmupSteps } = derived;
  const scaled = precision.dtype === 'float16';
  if (scaled) state.lossScale ??= initialLossScale(precision);
  const vision = openVisionCache(config, training.model, {
    epochs: derived.epochs,
    device: training.device,
    evicts: opened.ranks.localRank === 0,
    notice: (message) => log.reporter.notice(message),
  });
  const offload = openOffload(opened, log.reporter);
  const profile = profiler(opened);
  const sharding = shareOut(opened, { vision, offload, profile });
  const { trainable, model } = training;
  const place = { shards: sharding?.shards, offload: offload.optimizer };
  return {
    ...opened,
    offload,
    sharding,
    optimizer: new Optimizer(trainable, withoutDecay(model), optimizerSettings(config), place),
    schedule: makeSchedule(config.schedule, { totalSteps, warmupSteps, learningRate: config.optimizer.learning_rate }),
    lossScale: scaled ? new LossScale(precision, state.lossScale!) : null,
    vision,
    staging: training.device === 'cuda' ? new Staging(training.device) : null,
    memory: memoryPlan(opened),
    profile,
  };
}

/** Rank 0's: the others do the same. */
function profiler({
  config,
  ranks,
  log,
  output: { own },
}: Pick<Run, 'config' | 'ranks' | 'log' | 'output'>): Profiler | null {
  const { profile: steps } = config.logging;
  if (steps === 0 || ranks.rank !== 0) return null;
  const failed = (message: string): void => log.warn('write_failed', message);
  const write = (text: string): void => own.put(RUN_FILES.profile, (path) => writeFileSync(path, text));
  return new Profiler(steps, join(own.folder, RUN_FILES.profile), { write, failed });
}

/** How the ranks share the model. What computes stored features stays whole: it runs when a rank lacks some. */
function shareOut(
  { config, ranks, log, state, training }: Pick<Run, 'config' | 'ranks' | 'log' | 'state' | 'training'>,
  { vision, offload: { params: offload }, profile }: Pick<Run, 'vision' | 'offload' | 'profile'>,
): Sharding | null {
  const setting = config.engine.zero_stage;
  const stage = stageOf(setting, { size: ranks.size, lora: config.lora.use_lora, offloaded: offload !== null });
  if (stage === null) {
    if (setting !== 'auto')
      log.reporter.notice(`zero_stage ${setting} has no effect: one process has all of the model.`);
    return null;
  }
  const { model, trainable } = training;
  const sees = (name: string): boolean => partOf(name) !== 'llm';
  const keepsWhole = vision === null ? {} : { keepsWhole: sees };
  const at = (where: string): void => ranks.at(`step ${state.step + 1}, ${where}`);
  const group = profile === null ? ranks.group : tracedGroup(ranks.group, () => (profile.active ? profile : null));
  return new Sharding(model, { group, stage, trainable, at, offload, ...keepsWhole });
}

/** A rank on a CPU plans with its part of what the machine has available. */
function memoryPlan({
  config: { engine },
  ranks: { localSize },
  log,
  training: { device },
}: Pick<Run, 'config' | 'ranks' | 'log' | 'training'>): MemoryPlan | null {
  const { gradient_checkpointing: recompute, memory_budget: budget } = engine;
  if (recompute !== 'auto' && budget === null) return null;
  const shared = { ...hostMemory, available: () => hostMemory.available() / localSize };
  const memory = device === 'cpu' ? shared : memoryOf(device);
  return new MemoryPlan({ recompute, budget, memory, notice: (message) => log.reporter.notice(message) });
}

/** The current settings of a step of the run. */
export function stepOptions(run: Run): StepOptions & { readonly objective: PreferenceStep | null } {
  const { config, training, sharding, state, lossScale, memory, vision, profile } = run;
  const { model } = training;
  const alpha = config.optimizer.neftune_noise_alpha;
  return {
    maxGradNorm: config.optimizer.max_grad_norm,
    recompute: config.engine.gradient_checkpointing !== false,
    memory,
    sharding,
    seed: seedOf(config.seeds.seed, state.step),
    perMicroBatch: config.data.compat === 'official',
    zeroPicture: config.data.compat === 'official',
    fused: config.engine.fused_backward,
    vision,
    profile: profile?.active ? profile : null,
    objective: objectiveOf(run),
    ...(lossScale === null ? {} : { lossScale: lossScale.scale }),
    ...(alpha === null ? {} : { wrap: (plan, inputs) => withNoise(plan, inputs, model, alpha) }),
  };
}
