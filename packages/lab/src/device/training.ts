/**
 * Checks of training on a device. Losses beside the CPU's, recompute and resume, memory over many steps, tracing of
 * non-finite values.
 */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { createModel, moveTo, trainableParameters } from '@minicpm-finetune/minicpm-v';
import { fixedTokens } from '@minicpm-finetune/processor';
import {
  blockBytes,
  deviceMemory,
  deviceWaits,
  liveTensors,
  manualSeed,
  ops,
  RandomState,
  scope,
} from '@minicpm-finetune/torch';
import {
  type Batch,
  collate,
  disposeBatch,
  Optimizer,
  trainStep,
  tuneFully,
  withoutDecay,
} from 'minicpm-finetune/internal';
import type { Outcome } from './board.js';
import { command, type Losses, type Place, TINY, trainIn } from './place.js';

export const LORA = { use_lora: true, lora_r: 8, lora_modules_to_save: 'resampler', tune_vision: false };
/**
 * Relative difference of losses that is allowed after some steps in float32, of two devices or of two ways on one: every step sums in another
 * order. Some 20 operators in a row sum up to 128 numbers, whose errors of both signs come to the root of that many roundings; the steps' add up.
 */
export const allowedAfter = (steps: number): number => steps * 20 * Math.sqrt(128) * 2 ** -24;
/** In bfloat16 beside float32: the roundings of some 25 operators in a row, should all have one sign. */
export const BFLOAT16 = 25 * 2 ** -9;
/** Micro-batches of a step in the check of waits and memory. */
const MICRO_BATCHES = 3;
const MOST_WAITS = 3;

/** Training on the device and on the CPU, from the same start, without dropout. `fused`: updates in the backward pass, clipped by block. */
export async function besideCpu(
  place: Place,
  device: string,
  steps: number,
  how: 'full' | 'fused' | 'lora' | 'q_lora',
): Promise<Outcome> {
  const flags = {
    full: { tune_vision: true },
    fused: { tune_vision: true, fused_backward: true, gradient_accumulation_steps: 1, max_grad_norm: 0.3 },
    lora: { ...LORA, lora_dropout: 0 },
    q_lora: { ...LORA, q_lora: true, lora_dropout: 0 },
  }[how];
  const there = await trainIn(place, `${how}-${device}`, device, steps, flags);
  const here = await trainIn(place, `${how}-beside`, 'cpu', steps, flags);
  return compare(there, here, device === 'cpu' ? 0 : allowedAfter(steps), steps);
}

/** bfloat16 on the device beside float32 there: both learn alike. */
export async function bfloat16(place: Place, device: string, steps: number): Promise<Outcome> {
  const there = await trainIn(place, `bf16-${device}`, device, steps, { tune_vision: true, bf16: true });
  const here = await trainIn(place, `float32-${device}`, device, steps, { tune_vision: true });
  return compare(there, here, BFLOAT16, steps);
}

/** With dropout: blocks that are recomputed draw the same numbers again. */
export async function recomputed(place: Place, device: string, steps: number): Promise<Outcome> {
  const flags = { ...LORA, lora_dropout: 0.1 };
  const kept = await trainIn(place, `kept-${device}`, device, steps, flags);
  const again = await trainIn(place, `recomputed-${device}`, device, steps, { ...flags, gradient_checkpointing: true });
  return compare(again, kept, device === 'cpu' ? 0 : allowedAfter(steps), steps);
}

/** A run that stops half way and is resumed, beside one that does not. */
export async function resumed(place: Place, device: string, steps: number): Promise<Outcome> {
  const flags = { ...LORA, lora_dropout: 0.1 };
  const whole = await trainIn(place, `whole-${device}`, device, steps, flags);
  const half = { ...flags, save_strategy: 'steps', save_steps: steps / 2 };
  await trainIn(place, `resumed-${device}`, device, steps, half);
  const folder = join(place.folder, `resumed-${device}`);
  const checkpoint = join(folder, `checkpoint-${steps / 2}`);
  if (!existsSync(checkpoint)) throw new Error(`Expected ${checkpoint} but the folder has ${readdirSync(folder)}`);
  const after = await trainIn(place, `resumed-${device}`, device, steps, {
    ...half,
    resume_from_checkpoint: checkpoint,
  });
  return compare(after, whole, device === 'cpu' ? 0 : allowedAfter(steps), steps);
}

/** The device's generator: the same numbers again from a saved state, others without it. */
export function randomNumbers(device: string): Outcome {
  const draw = (): number[] =>
    scope(() => {
      const ones = ops.ones([64, 64], { device });
      return [ops.dropout(ones, 0.3), ops.uniform_(ops.empty([16], { device }))].flatMap((drawn) => drawn.toNumbers());
    });
  manualSeed(7, device);
  using state = new RandomState([device]);
  const [first, other] = [draw(), draw()];
  state.restore();
  const again = draw();
  const same = (a: readonly number[], b: readonly number[]): boolean => a.every((value, i) => value === b[i]);
  const bytes = state.tensors.get(device)!.nbytes;
  return {
    ok: same(first, again) && !same(first, other),
    found: `a state of ${bytes} bytes brings back ${first.length} numbers: ${same(first, again)}; they differ from the next ones: ${!same(first, other)}`,
  };
}

/** Largest difference of losses and gradient norms, relative. */
function compare(a: Losses, b: Losses, allowed: number, steps: number): Outcome {
  const largest = (x: readonly number[], y: readonly number[]): number =>
    x.reduce((most, value, i) => {
      const difference = Math.abs(value - y[i]!) / Math.max(Math.abs(y[i]!), 1e-6);
      return Number.isFinite(difference) ? Math.max(most, difference) : Number.POSITIVE_INFINITY;
    }, 0);
  const [loss, norm] = [largest(a.losses, b.losses), largest(a.gradNorms, b.gradNorms)];
  const complete = a.losses.length === steps && b.losses.length === steps;
  const last = `${a.losses.at(-1)?.toFixed(6)} and ${b.losses.at(-1)?.toFixed(6)}`;
  return {
    ok: complete && loss <= allowed,
    found: `loss differs by ${loss.toExponential(1)} (allowed ${allowed.toExponential(1)}), norm by ${norm.toExponential(1)}; last losses ${last}`,
    figures: { loss, norm, allowed, steps: [a.losses.length, b.losses.length], losses: a.losses, beside: b.losses },
  };
}

/** A learning rate without sense: the run ends by itself, names the module, and leaves the step behind. */
export async function nonfinite(place: Place, device: string): Promise<Outcome> {
  const output = join(place.folder, `nonfinite-${device}`);
  const done = await command('train', {
    ...{ model_name_or_path: place.model, data_path: place.data, output_dir: output, device, model_max_length: 256 },
    ...{ per_device_train_batch_size: 2, max_steps: 20, learning_rate: 1e30, max_grad_norm: 0, weight_decay: 0 },
    ...{ lr_scheduler_type: 'constant', save_strategy: 'no', cache_vision: 'off', progress: 'quiet' },
  });
  const folder = join(output, 'nonfinite');
  const reports = existsSync(folder) ? readdirSync(folder) : [];
  const report =
    reports[0] === undefined ? null : JSON.parse(readFileSync(join(folder, reports[0], 'report.json'), 'utf8'));
  const module = (report as { first?: { module?: string } } | null)?.first?.module;
  const found = module
    ? `ended with code ${done.code}, traced to ${module}`
    : `code ${done.code}: ${done.stderr.slice(-300)}`;
  return { ok: done.code === 2 && module !== undefined, found };
}

/** Batches of different sizes: pictures of one and two shapes, and text alone. */
function batchesOf(round: number, device: string): Batch[] {
  const step = round % 5; // the same again, so that no new rows of the embedding table get moments
  const { llm, vision } = TINY;
  const Q = fixedTokens(TINY.pictureTokens);
  const sample = (length: number, sizes: readonly (readonly [number, number])[], seed: number) => {
    const random = (i: number, below: number): number => (Math.imul(i + 7919 * seed, 2654435761) >>> 8) % below;
    const inputIds = Int32Array.from({ length }, (_, i) => random(i, llm.vocabSize));
    const labels = inputIds.map((_, i) => (i >= length >> 1 && i < length - 1 ? inputIds[i + 1]! : -100));
    const imageBounds = sizes.map((_, i): [number, number] => [1 + i * (Q + 1), 1 + i * (Q + 1) + Q]);
    const pictures = sizes.map(([rows, cols]) => {
      const shape: [number, number, number] = [3, vision.patchSize, vision.patchSize * rows * cols];
      const pixels = Uint8Array.from({ length: shape[0] * shape[1] * shape[2] }, (_, i) => random(i, 256));
      return { pixels, shape, rows, cols };
    });
    return { inputIds, labels, imageBounds, pictures };
  };
  const size = 24 + 8 * step;
  return [
    collate([sample(size, [[4, 4], [3, 5]], step), sample(size >> 1, [], step + 1)], device), // biome-ignore format: sizes
    collate([sample(size + 5, [[4, 4]], step + 2)], device),
    collate([sample(size, [], step + 3), sample(size, [[2, 3]], step + 4)], device),
  ];
}

/** Many steps in this process: what tensors take is the same after them as after a few, and a step waits for the device a few times only. `fused`: updates in the backward pass. */
export async function flat(device: string, steps: number, fused = false): Promise<Outcome> {
  const model = createModel(TINY, { seed: 0, dtype: 'bfloat16' });
  tuneFully(model, { tuneVision: true, tuneLlm: true });
  if (device !== 'cpu') moveTo(model, device);
  const optimizer = new Optimizer(trainableParameters(model), withoutDecay(model), {
    ...{ learningRate: 1e-4, visionLearningRate: null, resamplerLearningRate: null, embeddingLearningRate: null },
    ...{ loraPlusRatio: null, weightDecay: 0.1, beta1: 0.9, beta2: 0.95, eps: 1e-8, masterWeights: true },
  });
  const taken = (): number => (device === 'cpu' ? blockBytes().inUse : deviceMemory(device).allocated);
  const early = Math.min(20, Math.ceil(steps / 4));
  let [before, tensors, waits, reserved] = [0, 0, 0, 0];
  try {
    for (let step = 0; step < steps; step++) {
      const [first, ...others] = batchesOf(step, device);
      if (fused) for (const other of others) disposeBatch(other);
      const waited = deviceWaits();
      const options = { maxGradNorm: 1, recompute: step % 2 === 0, perMicroBatch: false, fused };
      trainStep(model, fused ? [first!] : [first!, ...others], optimizer, 1, options);
      waits = Math.max(waits, deviceWaits() - waited);
      await new Promise(setImmediate);
      if (step !== early - 1) continue;
      [before, tensors] = [taken(), liveTensors().tensors];
      reserved = device === 'cpu' ? 0 : deviceMemory(device).reserved;
    }
    const more = { bytes: taken() - before, tensors: liveTensors().tensors - tensors };
    const held = device === 'cpu' ? 0 : deviceMemory(device).reserved - reserved;
    return {
      ok: Math.abs(more.bytes) <= 1 << 16 && more.tensors === 0 && waits <= MOST_WAITS,
      found: `steps ${early} to ${steps}: ${more.bytes} bytes and ${more.tensors} tensors more, ${held} bytes more held; at most ${waits} waits a step of ${fused ? 1 : MICRO_BATCHES} micro-batches`,
      figures: { ...more, held, waits, steps },
    };
  } finally {
    optimizer.dispose();
    model.dispose();
  }
}
