/** Measures the memory of two steps on noise. Of the largest shapes, beside the estimate; nothing is saved. */
import { readConfig } from '@minicpm-finetune/processor';
import { formatBytes, type RunConfig } from '@minicpm-finetune/run';
import { blockBytes, deviceMemory, manualSeed, ownsStorage, peakResidentBytes } from '@minicpm-finetune/torch';
import { initialLossScale } from '../../engine/loss-scale.js';
import { startEngine } from '../../engine/machine.js';
import { withNoise } from '../../engine/neftune.js';
import { Optimizer, optimizerSettings, withoutDecay } from '../../engine/optimizer.js';
import { trainStep } from '../../engine/step.js';
import { soloRanks } from '../../parallel/ranks.js';
import { Sharding } from '../../parallel/sharding.js';
import type { Reporter } from '../../report/reporter.js';
import { openOffload } from '../offload.js';
import { prepareModel, type TrainingModel } from '../open-model.js';
import { type Estimate, estimate } from './estimate.js';
import { batchOf } from './rehearsal.js';
import { type BatchShape, largestShape } from './shape.js';

export interface Measured {
  readonly estimate: Estimate;
  /** Bytes of the estimate that are in the device's tensors: on a CPU not the weights that are mapped from files. */
  readonly estimated: number;
  /** The most that the device's tensors took. On a CPU those of 256 KiB and more. */
  readonly measured: number;
  /** The most resident memory of the process. */
  readonly resident: number;
}

/** Bytes of weights that are pages of the checkpoint file: on a CPU those of its own type, unless they are offloaded. */
function mappedBytes({ model, device }: TrainingModel): number {
  if (device !== 'cpu') return 0;
  const mapped = [...model.namedParameters()].filter(
    ([, { compact, data }]) => compact === undefined && !ownsStorage(data),
  );
  return mapped.reduce((sum, [, { data }]) => sum + data.nbytes, 0);
}

function takeSteps(config: RunConfig, training: TrainingModel, shape: BatchShape, reporter: Reporter): void {
  const { model, device, trainable } = training;
  const ranks = soloRanks();
  const offload = openOffload({ config, training, ranks }, reporter);
  const { params } = offload;
  const { group } = ranks;
  const sharding = params === null ? null : new Sharding(model, { group, stage: 3, trainable, offload: params });
  const place = { shards: sharding?.shards, offload: offload.optimizer };
  const optimizer = new Optimizer(trainable, withoutDecay(model), optimizerSettings(config), place);
  const { neftune_noise_alpha: alpha, max_grad_norm: maxGradNorm } = config.optimizer;
  const { gradient_accumulation_steps: accumulation } = config.batch;
  try {
    for (let step = 0; step < 2; step++) {
      const batches = Array.from({ length: Math.min(2, accumulation) }, () => batchOf(model, shape, device));
      trainStep(model, batches, optimizer, 1, {
        maxGradNorm,
        sharding,
        recompute: config.engine.gradient_checkpointing !== false,
        perMicroBatch: config.data.compat === 'official',
        fused: config.engine.fused_backward,
        ...(config.precision.dtype === 'float16' ? { lossScale: initialLossScale(config.precision).scale } : {}),
        ...(alpha === null ? {} : { wrap: (plan, inputs) => withNoise(plan, inputs, model, alpha) }),
      });
    }
  } finally {
    optimizer.dispose();
    sharding?.dispose();
    offload.close();
  }
}

/**
 * Takes two steps on noise and measures.
 *
 * @param folder the checkpoint, with weights
 * @param images pictures in each record
 */
export function measureMemory(config: RunConfig, folder: string, reporter: Reporter, images = 1): Measured {
  startEngine(config.engine);
  manualSeed(config.seeds.seed);
  const read = readConfig(folder);
  const shape = largestShape(config, read, images);
  const training = prepareModel(config, folder, reporter, null);
  try {
    const one = estimate(config, read, shape, { device: training.device, worlds: [1] })[0]!;
    takeSteps(config, training, shape, reporter);
    const context = one.device.find(({ category }) => category === 'context')!.bytes;
    return {
      estimate: one,
      estimated: one.deviceBytes - context - mappedBytes(training),
      measured: training.device === 'cpu' ? blockBytes().peak : deviceMemory(training.device).peak,
      resident: peakResidentBytes(),
    };
  } finally {
    training.model.dispose();
  }
}

export function describeMeasured({ estimate: one, estimated, measured, resident }: Measured): string[] {
  const off = Number((100 * (estimated / measured - 1)).toFixed(1));
  return [
    `measured: tensors took ${formatBytes(measured)} at most; the estimate of these is ${formatBytes(estimated)} (${off} %), in the ${one.moment}`,
    `measured: the process had ${formatBytes(resident)} resident at most`,
  ];
}
