/** Measures the memory of two steps on noise. Of the largest shapes, beside the estimate; nothing is saved. */
import { readConfig } from '@minicpm-finetune/processor';
import { formatBytes, type RunConfig, UserError } from '@minicpm-finetune/run';
import {
  deviceMemory,
  dryGroup,
  manualSeed,
  ownsStorage,
  peakResidentBytes,
  resetTensorPeak,
  tensorBytes,
} from '@minicpm-finetune/torch';
import { startEngine } from '../../engine/machine.js';
import { withNoise } from '../../engine/neftune.js';
import { Optimizer, optimizerSettings, withoutDecay } from '../../engine/optimizer.js';
import { trainStep } from '../../engine/step.js';
import { Sharding, stageOf } from '../../parallel/sharding.js';
import type { Reporter } from '../../report/reporter.js';
import { openOffload, type RunOffload } from '../offload.js';
import { prepareModel, type TrainingModel } from '../open-model.js';
import { referencePlan } from '../plan.js';
import { openLiveReference } from '../reference.js';
import { type Estimate, estimate } from './estimate.js';
import { batchOf } from './rehearsal.js';
import { type BatchShape, largestShape } from './shape.js';

export interface Measured {
  readonly rank: number;
  readonly estimate: Estimate;
  /** Bytes of the estimate that are in the device's tensors: on a CPU not the weights that are mapped from files. */
  readonly estimated: number;
  /** The most that the device's tensors took. */
  readonly measured: number;
  /** The most resident memory of the process. */
  readonly resident: number;
}

/** The process whose steps are taken. */
export interface MeasureOptions {
  /** Pictures in each record. */
  readonly images?: number;
  /** One of several, whose peers are not there. */
  readonly rank?: number;
  readonly size?: number;
}

/** Bytes of weights that are pages of the checkpoint file: on a CPU, those of its own type. */
function mappedBytes({ model, device }: TrainingModel): number {
  if (device !== 'cpu') return 0;
  let bytes = 0;
  for (const [, parameter] of model.namedParameters())
    if (parameter.compact === undefined && !ownsStorage(parameter.data)) bytes += parameter.data.nbytes;
  return bytes;
}

/** What a run has beside its model. */
interface Parts {
  readonly sharding: Sharding | null;
  readonly offload: RunOffload;
}

function takeSteps(config: RunConfig, training: TrainingModel, shape: BatchShape, parts: Parts): void {
  const { model, device, trainable } = training;
  const { sharding, offload } = parts;
  const place = { shards: sharding?.shards, offload: offload.optimizer };
  const optimizer = new Optimizer(trainable, withoutDecay(model), optimizerSettings(config), place);
  const { neftune_noise_alpha: alpha, max_grad_norm: maxGradNorm } = config.optimizer;
  const { gradient_accumulation_steps: accumulation } = config.batch;
  try {
    for (let step = 0; step < 2; step++) {
      const batches = Array.from({ length: Math.min(2, accumulation) }, () => batchOf(model, shape, device));
      const { updated } = trainStep(model, batches, optimizer, 1, {
        ...{ maxGradNorm, sharding, fused: config.engine.fused_backward },
        recompute: config.engine.gradient_checkpointing !== false,
        perMicroBatch: config.data.compat === 'official',
        ...(alpha === null ? {} : { wrap: (plan, inputs) => withNoise(plan, inputs, model, alpha) }),
      });
      if (!updated) throw new UserError(NOT_FINITE, { cure: 'Look at the weights of the checkpoint, and at --dtype.' });
    }
  } finally {
    optimizer.dispose();
  }
}

/** Without an update there are no moments. float16 is measured without a loss scale: noise would overflow with it. */
const NOT_FINITE =
  'Expected finite gradients of noise but received others: without an update the memory of one is not known.';

/**
 * Takes two steps on noise and measures.
 *
 * @param folder the checkpoint, with weights
 * @throws UserError for a checkpoint whose gradients are not finite
 */
export function measureMemory(
  config: RunConfig,
  folder: string,
  reporter: Reporter,
  { images = 1, rank = 0, size = 1 }: MeasureOptions = {},
): Measured {
  startEngine(config.engine);
  resetTensorPeak();
  manualSeed(config.seeds.seed);
  const read = readConfig(folder);
  const shape = largestShape(config, read, images);
  const training = prepareModel(config, folder, reporter, null);
  const { model, trainable, device } = training;
  const group = dryGroup(rank, size);
  const offload = openOffload({ config, training, ranks: { rank, size, localSize: 1 } }, reporter);
  const { params } = offload;
  const shares = { size, lora: config.lora.use_lora, offloaded: params !== null };
  const stage = stageOf(config.engine.zero_stage, shares);
  const reference = referencePlan(config, config.schedule.num_train_epochs);
  const live = reference === 'live' ? openLiveReference({ config, folder, resumed: false }, training, reporter) : null;
  const sharding = stage === null ? null : new Sharding(model, { group, stage, trainable, offload: params });
  try {
    const one = estimate(config, read, shape, { device, worlds: [size] })[0]!;
    takeSteps(config, training, shape, { sharding, offload });
    const context = one.device.find(({ category }) => category === 'context')!.bytes;
    return {
      rank,
      estimate: one,
      estimated: one.deviceBytes - context - mappedBytes(training),
      measured: device === 'cpu' ? tensorBytes().peak : deviceMemory(device).peak,
      resident: peakResidentBytes(),
    };
  } finally {
    live?.dispose();
    sharding?.dispose();
    model.dispose();
    offload.close();
  }
}

export function describeMeasured({ rank, estimate: one, estimated, measured, resident }: Measured): string[] {
  const off = Number((100 * (estimated / measured - 1)).toFixed(1));
  const { world } = one;
  return [
    ...(world === 1
      ? []
      : [`measured: this is rank ${rank} of ${world} without the others, whose gradients count as zeros`]),
    `measured: tensors took ${formatBytes(measured)} at most; the estimate of these is ${formatBytes(estimated)} (${off} %), in the ${one.moment}`,
    `measured: the process had ${formatBytes(resident)} resident at most`,
  ];
}
