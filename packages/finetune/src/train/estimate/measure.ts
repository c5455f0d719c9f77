/** Measures the memory of two steps on noise. Of the largest shapes, beside the estimate; nothing is saved. */
import { readConfig } from '@minicpm-finetune/processor';
import { formatBytes, type RunConfig } from '@minicpm-finetune/run';
import { blockBytes, deviceMemory, manualSeed, peakResidentBytes } from '@minicpm-finetune/torch';
import { initialLossScale } from '../../engine/loss-scale.js';
import { startEngine } from '../../engine/machine.js';
import { withNoise } from '../../engine/neftune.js';
import { Optimizer, optimizerSettings, withoutDecay } from '../../engine/optimizer.js';
import { trainStep } from '../../engine/step.js';
import type { Reporter } from '../../report/reporter.js';
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

/** Bytes of weights that are mapped from the checkpoint: those of its own type, on a CPU. */
function mappedBytes({ model, device }: TrainingModel, stored: string): number {
  if (device !== 'cpu') return 0;
  const mapped = [...model.namedParameters()].filter(
    ([name, { compact, data }]) => compact === undefined && data.dtype === stored && !name.includes('.lora_'),
  );
  return mapped.reduce((sum, [, { data }]) => sum + data.nbytes, 0);
}

function takeSteps(config: RunConfig, { model, device, trainable }: TrainingModel, shape: BatchShape): void {
  const optimizer = new Optimizer(trainable, withoutDecay(model), optimizerSettings(config));
  const { neftune_noise_alpha: alpha, max_grad_norm: maxGradNorm } = config.optimizer;
  const { gradient_accumulation_steps: accumulation } = config.batch;
  try {
    for (let step = 0; step < 2; step++) {
      const batches = Array.from({ length: Math.min(2, accumulation) }, () => batchOf(model, shape, device));
      trainStep(model, batches, optimizer, 1, {
        maxGradNorm,
        recompute: config.engine.gradient_checkpointing !== false,
        perMicroBatch: config.data.compat === 'official',
        fused: config.engine.fused_backward,
        ...(config.precision.dtype === 'float16' ? { lossScale: initialLossScale(config.precision).scale } : {}),
        ...(alpha === null ? {} : { wrap: (plan, inputs) => withNoise(plan, inputs, model, alpha) }),
      });
    }
  } finally {
    optimizer.dispose();
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
    takeSteps(config, training, shape);
    const context = one.device.find(({ category }) => category === 'context')!.bytes;
    return {
      estimate: one,
      estimated: one.deviceBytes - context - mappedBytes(training, read.dtype),
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
