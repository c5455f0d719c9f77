/** One optimizer step of a run. It is computed, noted in the state, and gets its line in the log. */
import { epochAt } from '@minicpm-finetune/run';
import { blockBytes, deviceMemory } from '@minicpm-finetune/torch';
import type { Loader } from '../data/loader.js';
import { type StepResult, trainStep } from '../engine/step.js';
import { addMetrics, meanMetrics } from './metric-sums.js';
import { handleNonfinite } from './nonfinite.js';
import { markUsed } from './open-data.js';
import type { ReadyStep } from './ready-steps.js';
import { type Run, stepOptions } from './run.js';
import { addLoss, addToHistory, meanLoss } from './state.js';

/** Whether something that happens every so often happens after this step. */
export function isDue(
  strategy: 'no' | 'steps' | 'epoch',
  every: number | undefined,
  step: number,
  epochEnds: boolean,
): boolean {
  return strategy === 'epoch' ? epochEnds : strategy === 'steps' && every !== undefined && step % every === 0;
}

/** From the first step on, the run has something to lose. */
function noteBegin({ log, output: { own }, state, ranks }: Run): void {
  if (ranks.rank !== 0) return;
  try {
    own.begin();
  } catch (error) {
    const message = `THE FIRST STEP IS NOT RECORDED in ${own.path}: ${(error as Error).message}. The run goes on.`;
    log.warn('write_failed', message, state.step);
  }
}

/** One optimizer step and its line in the log. Collective. */
export async function oneStep(run: Run, ready: ReadyStep, loader: Loader): Promise<void> {
  const { optimizer, state, staging, training } = run;
  const { step, micros, batches } = ready;
  if (ready.samples === 0) {
    state.step = step + 1; // every record of this step is bad and was left out
    return;
  }
  run.ranks.at(`step ${step + 1}`);
  const profile = run.profile?.active ? run.profile : null;
  const lossScale = run.lossScale?.scale ?? null;
  const options = stepOptions(run);
  const { objective } = options;
  const compute = (): StepResult =>
    trainStep(training.model, batches, optimizer, run.schedule(step), {
      ...options,
      ...(staging && { whileDeviceWorks: () => staging.stage(loader.encodedNext) }),
    });
  const result = profile ? profile.step(step + 1, compute) : compute();
  run.memory?.endStep();
  const scaleHelps = run.lossScale?.update(!result.updated) ?? false;
  if (!result.updated) await handleNonfinite(run, result, micros, { scaleHelps });
  state.step = step + 1;
  markUsed(run.data, micros);
  noteBegin(run);
  state.tokensSeen += ready.tokens;
  addLoss(state, result.loss);
  if (objective !== null) {
    state.preferenceRewards = objective.rewards;
    state.unloggedMetrics = addMetrics(state.unloggedMetrics, objective.metrics());
  }
  logStep(run, ready, result, lossScale);
}

/** Most bytes of tensors on a device so far; on the CPU of those of 256 KiB and more. */
const peakOf = (device: string): number | null =>
  device === 'cpu' ? blockBytes().peak : device === 'cuda' ? deviceMemory(device).peak : null;

function logStep(run: Run, ready: ReadyStep, result: StepResult, lossScale: number | null): void {
  const { config, derived, log, optimizer, state, training } = run;
  const { samples, tokens, dataWaitSeconds, largestOther, otherVision } = ready;
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
      preference: run.preference && meanMetrics(state.unloggedMetrics),
      gradNorm: result.gradNorm,
      learningRate: optimizer.groups[0]!.baseLr * run.schedule(ready.step),
      samples,
      tokens,
      supervisedTokens: result.supervisedTokens,
      lossScale,
      skippedSteps: state.skippedSteps,
      dataWaitSeconds,
      largestOther,
      devicePeak: peakOf(training.device),
      vision: run.vision && {
        pictures: run.vision.pictures + otherVision.pictures,
        hits: run.vision.hits + otherVision.hits,
      },
    },
    derived.totalSteps,
    due,
  );
  if (logged === null) return;
  addToHistory(state, logged, result.gradNorm);
  run.preference?.watch.see(logged);
}
