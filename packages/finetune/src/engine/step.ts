/**
 * One optimizer step. Forward and backward over the micro-batches, clipping, finite check, update.
 *
 * The loss is the sum over the supervised tokens of all micro-batches divided by their count, so the split into micro-batches changes
 * nothing. `perMicroBatch` divides per micro-batch instead, as the official trainer does.
 */
import { strict as assert } from 'node:assert';
import {
  type MiniCPMV,
  type ModelInputs,
  type Plan,
  type PlanNode,
  type PlanOptions,
  runPlan,
} from '@minicpm-finetune/minicpm-v';
import { keep, noGrad, ops, scope, type Tensor } from '@minicpm-finetune/torch';
import { type Batch, disposeBatch } from './collate.js';
import { Execution } from './executor.js';
import { FusedUpdate, type GradientReceiver, GradientSum, type Rows } from './gradients.js';
import { type Head, lossAndGradient, lossSum } from './loss.js';
import type { MemoryPlan } from './memory-plan.js';
import { clipGradients, globalNorm, type Optimizer } from './optimizer.js';
import { type StepProfile, traced } from './profiler.js';
import type { VisionCache } from './vision-cache.js';

export interface StepOptions {
  readonly maxGradNorm: number;
  readonly recompute: boolean;
  readonly perMicroBatch: boolean;
  /** Multiplies the loss before the backward pass, and divides the gradients after it (float16). */
  readonly lossScale?: number;
  /** Changes the plan of a micro-batch: NEFTune's noise. */
  readonly wrap?: (plan: Plan, inputs: ModelInputs) => Plan;
  /** Decides instead of `recompute`, block by block. */
  readonly memory?: MemoryPlan | null;
  /** Update each block's parameters in the backward pass, clipping the norm per block. One micro-batch only, no loss scale. */
  readonly fused?: boolean;
  /** Stored features of frozen vision towers. */
  readonly vision?: VisionCache | null;
  /** Called once all of the step but its update was asked of the device, before its results are waited for. */
  readonly whileDeviceWorks?: () => void;
  readonly watch?: StepWatch;
  readonly profile?: StepProfile | null;
}

/** Someone who looks at everything that is computed. The values are only lent. */
interface StepWatch {
  /** A micro-batch begins; the plan returned is run. */
  plan(plan: Plan): Plan;
  /** Its summed cross entropy, a scalar. */
  loss(sum: Tensor): void;
  /** Gradients of a module's parameters, newest module first; `HEAD` before all others. */
  gradients(gradients: ReadonlyMap<string, Tensor>, module: string): void;
}

/** The module that maps hidden states to logits. */
export const HEAD = 'llm.lm_head';

export interface StepResult {
  /** Mean over the supervised tokens (perMicroBatch: mean of the micro-batches' means). */
  readonly loss: number;
  /** Before clipping. */
  readonly gradNorm: number;
  readonly supervisedTokens: number;
  /** Whether the parameters were updated: not when the loss or the norm is not finite. */
  readonly updated: boolean;
}

/** The model's head as the loss sees it. */
export function headOf(model: MiniCPMV): Head {
  const trainable = [...model.headParameters()].filter(([, parameter]) => parameter.requiresGrad);
  return {
    logits: (hidden) => model.logits(hidden),
    trainable: new Map(trainable.map(([name, parameter]) => [name, parameter.data])),
  };
}

export interface Gradients {
  /** Sum of the cross entropy, and the loss as reported. */
  readonly loss: number;
  readonly supervisedTokens: number;
  /** By parameter name; they are the caller's. */
  readonly gradients: ReadonlyMap<string, Tensor>;
  /** Parameters of whose rows only some have a gradient. */
  readonly rows: Rows;
  dispose(): void;
}

/** Loss and gradients over the micro-batches, without an update. Frees each micro-batch's tensors when it is done with it. */
export function lossAndGradients(
  model: MiniCPMV,
  batches: readonly (Batch | null)[],
  options: Omit<StepOptions, 'maxGradNorm'>,
): Gradients {
  const { losses, shares, supervisedTokens, receiver } = gradientsOf(model, present(batches), options);
  const { gradients, rows } = receiver;
  options.whileDeviceWorks?.();
  const loss = readScalars(losses).reduce((sum, value, i) => sum + shares[i]! * value, 0);
  return { loss, supervisedTokens, gradients, rows, dispose: () => receiver.dispose() };
}

/** Without the micro-batches that have no records. */
function present(batches: readonly (Batch | null)[]): Batch[] {
  return batches.filter((batch) => batch !== null);
}

/** Forward and backward over all micro-batches. Nothing waits for the device: the summed cross entropies stay there. */
export function gradientsOf(
  model: MiniCPMV,
  batches: readonly Batch[],
  options: Omit<StepOptions, 'maxGradNorm'>,
): { losses: Tensor[]; shares: number[]; supervisedTokens: number; receiver: GradientSum } {
  const supervisedTokens = batches.reduce((count, batch) => count + batch.supervisedTokens, 0);
  const receiver = new GradientSum(batches.length);
  const shares = batches.map((batch) =>
    options.perMicroBatch ? 1 / (batch.supervisedTokens * batches.length) : 1 / supervisedTokens,
  );
  const losses: Tensor[] = [];
  try {
    for (const [i, batch] of batches.entries()) {
      losses.push(keep(runBatch(model, batch, shares[i]! * (options.lossScale ?? 1), options, receiver)));
      disposeBatch(batch);
    }
  } catch (error) {
    receiver.dispose(); // the device may have no memory left
    for (const loss of losses) loss.dispose();
    for (const batch of batches) disposeBatch(batch);
    throw error;
  }
  return { losses, shares, supervisedTokens, receiver };
}

/** The values of scalars, in one wait for the device. Frees them. */
function readScalars(losses: readonly Tensor[]): number[] {
  try {
    return losses.length === 0 ? [] : scope(() => ops.stack(losses).toNumbers());
  } finally {
    for (const loss of losses) loss.dispose();
  }
}

/** Forward and backward over one micro-batch; returns the summed cross entropy, a scalar of the caller's scope. */
function runBatch(
  model: MiniCPMV,
  batch: Batch,
  scale: number,
  { recompute, memory, wrap, watch, vision, profile }: Omit<StepOptions, 'maxGradNorm'>,
  receiver: GradientReceiver,
): Tensor {
  return scope(() => {
    const known = traced(profile, 'vision cache', 'data', () => knownOf(batch, vision));
    const plain = model.plan(batch.inputs, { train: true, ...known });
    const plan = wrap === undefined ? plain : wrap(plain, batch.inputs);
    const take = (gradients: ReadonlyMap<string, Tensor>, node: PlanNode | null): void => {
      watch?.gradients(gradients, node?.name ?? HEAD);
      traced(profile, receiver.does, 'optimizer', () => receiver.add(gradients, node));
    };
    const watched = watch === undefined ? plan : watch.plan(plan);
    receiver.begin(watched);
    if (memory) {
      const patches = batch.inputs.pictures.flat().reduce((sum, { rows, cols }) => sum + rows * cols, 0);
      memory.begin({ tokens: batch.tokens, patches });
    }
    const execution = new Execution(watched, {
      device: batch.inputs.inputIds.device,
      recompute: (node, inputs) => memory?.recomputes(node, inputs) ?? recompute,
      onGradients: take,
      ...(profile ? { around: (phase, of, run) => profile.block(phase, of, run) } : {}),
      ...(memory ? { onRecomputed: (node, inputs, bytes) => memory.recomputed(node, inputs, bytes) } : {}),
    });
    try {
      const hidden = execution.forward();
      const result = traced(profile, 'loss', 'loss', () =>
        lossAndGradient(hidden, batch.labels, headOf(model), { scale, needsHidden: execution.needsGrad }),
      );
      hidden.dispose();
      watch?.loss(result.sum);
      memory?.sample();
      take(result.gradients, null);
      if (result.gradHidden) execution.backward(result.gradHidden);
      return result.sum;
    } finally {
      execution.dispose();
    }
  });
}

/** One optimizer step. `multiplier` is the schedule's factor on the learning rates. */
export function trainStep(
  model: MiniCPMV,
  batches: readonly (Batch | null)[],
  optimizer: Optimizer,
  multiplier: number,
  options: StepOptions,
): StepResult {
  if (options.fused) return fusedStep(model, present(batches), optimizer, multiplier, options);
  const { loss, supervisedTokens, gradients, rows, dispose } = lossAndGradients(model, batches, options);
  try {
    const scale = options.lossScale ?? 1;
    if (scale !== 1) noGrad(() => ops.foreachMul_([...gradients.values()], 1 / scale));
    const gradNorm = traced(options.profile, 'gradient norm', 'optimizer', () => globalNorm(gradients));
    const updated = Number.isFinite(loss) && Number.isFinite(gradNorm);
    if (updated) {
      traced(options.profile, 'update', 'optimizer', () => {
        clipGradients(gradients, gradNorm, options.maxGradNorm);
        optimizer.step(gradients, multiplier, rows);
      });
    }
    return { loss, gradNorm, supervisedTokens, updated };
  } finally {
    dispose();
  }
}

/** Same, but parameters are updated during the backward pass. If a gradient is not finite, later blocks have already been updated. */
function fusedStep(
  model: MiniCPMV,
  batches: readonly Batch[],
  optimizer: Optimizer,
  multiplier: number,
  options: StepOptions,
): StepResult {
  assert.equal(batches.length, 1, 'one micro-batch');
  const batch = batches[0]!;
  const update = new FusedUpdate(optimizer, multiplier, options.maxGradNorm);
  const { supervisedTokens } = batch;
  try {
    const share = 1 / supervisedTokens;
    const sum = keep(runBatch(model, batch, share, options, update));
    update.finish();
    options.whileDeviceWorks?.();
    const [total, squares] = readScalars([sum, update.squares]);
    const [loss, gradNorm] = [share * total!, Math.sqrt(squares!)];
    return { loss, gradNorm, supervisedTokens, updated: Number.isFinite(loss) && Number.isFinite(gradNorm) };
  } finally {
    update.dispose();
    disposeBatch(batch);
  }
}

/** The stored features of the batch's pictures; missing ones are computed and stored. */
function knownOf({ inputs }: Batch, vision: VisionCache | null | undefined): Pick<PlanOptions, 'known'> {
  const pictures = inputs.pictures.flat();
  return vision && pictures.length > 0 ? { known: vision.lookup(pictures) } : {};
}

/** Summed cross entropy and supervised tokens of a batch, without gradients. Frees the batch's tensors. */
export function evaluateBatch(
  model: MiniCPMV,
  batch: Batch | null,
  vision?: VisionCache | null,
): { sum: number; count: number } {
  if (batch === null) return { sum: 0, count: 0 };
  return scope(() => {
    const hidden = noGrad(() => runPlan(model.plan(batch.inputs, { train: false, ...knownOf(batch, vision) })));
    const result = lossSum(hidden, batch.labels, headOf(model));
    disposeBatch(batch);
    return result;
  });
}
