/** Numbers derived from configuration and data size. Each with its arithmetic, by transformers' rules. */
import type { RunConfig } from './config/config.js';
import { SCHEDULES, warmupSteps } from './schedule.js';

export interface Derived {
  /** Optimizer steps per epoch; the last one may be smaller. */
  stepsPerEpoch: number;
  /** Optimizer steps of the run. */
  totalSteps: number;
  /** Passes over the data that these steps make. */
  epochs: number;
  warmupSteps: number;
  /** Optimizer steps between log lines, evaluations and checkpoints; undefined: not by steps. */
  loggingSteps: number | undefined;
  evalSteps: number | undefined;
  saveSteps: number | undefined;
  /** `steps per epoch = ceil(9000 / (64 × 1)) = 141` and the like. */
  lines: string[];
}

/** Passes over the data after a number of optimizer steps, as logs and checkpoints have it: to four places. */
export function epochAt(step: number, stepsPerEpoch: number): number {
  return Number((step / stepsPerEpoch).toFixed(4));
}

/**
 * @param numSamples records, or with --packing packed sequences, in an epoch, over all devices.
 * @param worldSize number of devices that share them.
 */
export function derive(config: RunConfig, numSamples: number, worldSize = 1): Derived {
  const { per_device_train_batch_size: size, gradient_accumulation_steps: accumulation } = config.batch;
  const { max_steps: maxSteps, num_train_epochs: wantedEpochs } = config.schedule;
  const lines: string[] = [];
  const across = worldSize === 1 ? '' : ` × ${worldSize} devices`;
  const divide = config.batch.dataloader_drop_last && !config.batch.packing ? 'floor' : 'ceil';
  const microBatchesPerEpoch = Math[divide](numSamples / size);
  const stepsPerEpoch = Math.max(1, Math.ceil(microBatchesPerEpoch / (accumulation * worldSize)));
  lines.push(
    divide === 'ceil'
      ? `steps per epoch = ceil(${numSamples}${config.batch.packing ? ' packed sequences' : ''} / (${size} × ${accumulation}${across})) = ${stepsPerEpoch}`
      : `steps per epoch = ceil(floor(${numSamples} / ${size}) / ${worldSize === 1 ? accumulation : `(${accumulation}${across})`}) = ${stepsPerEpoch}`,
  );
  const totalSteps = maxSteps > 0 ? maxSteps : Math.ceil(wantedEpochs * stepsPerEpoch);
  const epochs = totalSteps / stepsPerEpoch;
  lines.push(
    maxSteps > 0
      ? `epochs = ${totalSteps} steps / ${stepsPerEpoch} = ${Number(epochs.toFixed(2))}`
      : `total steps = ceil(${wantedEpochs} × ${stepsPerEpoch}) = ${totalSteps}`,
  );
  const warmup = SCHEDULES[config.schedule.lr_scheduler_type].warmup ? warmupSteps(config.schedule, totalSteps) : 0;
  const share = config.schedule.warmup_steps > 0 ? config.schedule.warmup_steps : config.schedule.warmup_ratio;
  if (warmup > 0 && share < 1) lines.push(`warmup steps = ceil(${totalSteps} × ${share}) = ${warmup}`);
  const interval = (name: string, strategy: string, steps: number | null) => {
    if (strategy !== 'steps' || steps === null) return undefined;
    if (steps >= 1) return steps;
    const every = Math.ceil(totalSteps * steps);
    lines.push(`${name} = ceil(${totalSteps} × ${steps}) = ${every}`);
    return every;
  };
  return {
    stepsPerEpoch,
    totalSteps,
    epochs,
    warmupSteps: warmup,
    loggingSteps: interval('logging_steps', config.logging.logging_strategy, config.logging.logging_steps),
    evalSteps: interval('eval_steps', config.eval.eval_strategy, config.eval.eval_steps),
    saveSteps: interval('save_steps', config.save.save_strategy, config.save.save_steps),
    lines,
  };
}
