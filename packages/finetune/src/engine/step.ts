/**
 * One optimizer step. Forward and backward over the micro-batches, clipping, finite check, update.
 *
 * The loss is the sum over the supervised tokens of all micro-batches divided by their count, so the split into micro-batches changes
 * nothing. `perMicroBatch` divides per micro-batch instead, as the official trainer does. An objective (preference.ts) counts records instead.
 */
import { strict as assert } from 'node:assert';
import type { MiniCPMV } from '@minicpm-finetune/minicpm-v';
import { type Group, keep, noGrad, ops, scope, seedOf, soloGroup, type Tensor } from '@minicpm-finetune/torch';
import { clipGradients, normOf, squaresOf } from './clip.js';
import { type Batch, disposeBatch } from './collate.js';
import { FusedUpdate, type GradientReceiver, GradientSum, type Rows } from './gradients.js';
import { type MicroBatchOptions, runBatch } from './micro-batch.js';
import type { Optimizer, StepSettings } from './optimizer.js';
import { traced } from './profiler.js';
import { ScatteredSum, ScatteredUpdate } from './scattered-sum.js';

export interface StepOptions extends MicroBatchOptions {
  readonly maxGradNorm: number;
  readonly perMicroBatch: boolean;
  /** Of the run and the step (`seedOf`): all random numbers of the step follow from it. */
  readonly seed?: number;
  /** Multiplies the loss before the backward pass, and divides the gradients after it (float16). */
  readonly lossScale?: number;
  /** Update each block's parameters in the backward pass, clipping the norm per block. One micro-batch only, no loss scale. */
  readonly fused?: boolean;
  /** Called once all of the step but its update was asked of the device, before its results are waited for. */
  readonly whileDeviceWorks?: () => void;
}

export interface StepResult {
  /** Mean over the supervised tokens (perMicroBatch: mean of the micro-batches' means). */
  readonly loss: number;
  /** Before clipping. */
  readonly gradNorm: number;
  readonly supervisedTokens: number;
  /** Whether the parameters were updated: not when the loss or the norm is not finite. */
  readonly updated: boolean;
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

/** A micro-batch of each rank, in turn: part k · size + r is the k-th of rank r. Null: of no record. */
export type MicroBatches = readonly (Batch | null)[];

type GradientOptions = Omit<StepOptions, 'maxGradNorm'>;

/** Loss and gradients over the micro-batches, without an update. Frees each micro-batch's tensors when it is done with it. Collective. */
export function lossAndGradients(model: MiniCPMV, batches: MicroBatches, options: GradientOptions): Gradients {
  const { losses, shares, supervisedTokens, receiver } = gradientsOf(model, batches, options);
  const { gradients, rows } = receiver;
  options.whileDeviceWorks?.();
  const [loss] = agree(options, readScalars(losses), shares, 0);
  return { loss, supervisedTokens, gradients, rows, dispose: () => receiver.dispose() };
}

/** Forward and backward over all micro-batches. Nothing waits for the device: the summed cross entropies stay there. Collective. */
export function gradientsOf(
  model: MiniCPMV,
  batches: MicroBatches,
  options: GradientOptions,
): Computed<GradientSum | ScatteredSum> {
  const { sharding } = options;
  const computed = compute(model, batches, options, (parts) =>
    sharding ? new ScatteredSum(sharding, parts) : new GradientSum(parts),
  );
  try {
    if (computed.receiver instanceof ScatteredSum) computed.receiver.finish();
    return computed;
  } catch (error) {
    computed.receiver.dispose();
    for (const loss of computed.losses) loss.dispose();
    throw error;
  }
}

interface Computed<Receiver> {
  /** The summed cross entropy of each micro-batch of this rank, on the device. */
  readonly losses: Tensor[];
  /** What each counts in the loss. */
  readonly shares: number[];
  /** Of all ranks. */
  readonly supervisedTokens: number;
  readonly receiver: Receiver;
}

/** @param receiverOf gets the micro-batches that have something to learn, over all ranks */
function compute<Receiver extends GradientReceiver>(
  model: MiniCPMV,
  batches: MicroBatches,
  options: GradientOptions,
  receiverOf: (parts: number) => Receiver,
): Computed<Receiver> {
  const { perMicroBatch, seed = 0, lossScale = 1, objective } = options;
  const group = groupOf(options);
  const tokens = batches.map((batch) => batch?.supervisedTokens ?? 0);
  const counts = inPartOrder(group.exchange(tokens, 'supervised tokens'));
  const supervisedTokens = counts.reduce((sum, count) => sum + count, 0);
  const parts = counts.filter((count) => count > 0).length;
  const own = objective ? batches.map((batch) => batch?.samples ?? 0) : tokens;
  const whole = objective ? total(group.exchange(own, 'compared records')) : supervisedTokens;
  const receiver = receiverOf(parts);
  const shares = own.map((count) => (count === 0 ? 0 : perMicroBatch ? 1 / (count * parts) : 1 / whole));
  const losses: Tensor[] = [];
  try {
    objective?.prepare(model, batches, options);
    for (const [k, batch] of batches.entries()) {
      const place = k * group.size + group.rank;
      const part = { scale: shares[k]! * lossScale, seed: seedOf(seed, place), label: `micro-batch ${k}` };
      losses.push(keep(runBatch(model, batch, part, options, receiver)));
      if (batch) {
        objective?.done(batch);
        disposeBatch(batch);
      }
    }
  } catch (error) {
    receiver.dispose(); // the device may have no memory left
    for (const loss of losses) loss.dispose();
    for (const batch of batches) {
      if (batch === null) continue;
      objective?.done(batch);
      disposeBatch(batch);
    }
    throw error;
  }
  return { losses, shares, supervisedTokens, receiver };
}

/** The group of a step: of this process alone unless the model is shared out. */
const groupOf = ({ sharding }: Pick<StepOptions, 'sharding'>): Group => sharding?.group ?? ALONE;
const ALONE = soloGroup();

const total = (byRank: readonly Float64Array[]): number =>
  byRank.reduce((sum, own) => sum + own.reduce((all, one) => all + one, 0), 0);

/** The numbers of all ranks' micro-batches, in the order of the parts. */
function inPartOrder(byRank: readonly Float64Array[]): number[] {
  return Array.from(byRank[0]!).flatMap((_, k) => byRank.map((own) => own[k]!));
}

/** The step's loss, over all parts in their order, and the sum of squares over ranks. Collective. */
function agree(
  options: GradientOptions,
  losses: readonly number[],
  shares: readonly number[],
  squares: number,
): [loss: number, squares: number] {
  const parts = losses.map((loss, k) => loss * shares[k]!);
  const all = groupOf(options).exchange([squares, ...parts], 'loss and norm');
  const loss = inPartOrder(all.map((own) => own.subarray(1))).reduce((sum, value) => sum + value, 0);
  // Under stage 0 every rank has all gradients, and the whole sum.
  const total = options.sharding?.stage === 0 ? squares : all.reduce((sum, own) => sum + own[0]!, 0);
  return [loss, total];
}

/** The values of scalars, in one wait for the device. Frees them. */
function readScalars(losses: readonly Tensor[]): number[] {
  try {
    return losses.length === 0 ? [] : scope(() => ops.stack(losses).toNumbers());
  } finally {
    for (const loss of losses) loss.dispose();
  }
}

/** One optimizer step. The same on every rank of a model that is shared out, micro-batches apart. Collective. */
export function trainStep(
  model: MiniCPMV,
  batches: MicroBatches,
  optimizer: Optimizer,
  multiplier: number,
  options: StepOptions,
): StepResult {
  const settings = { multiplier, seed: options.seed ?? 0 };
  if (options.fused) return fusedStep(model, batches, optimizer, settings, options);
  const { losses, shares, supervisedTokens, receiver } = gradientsOf(model, batches, options);
  const { gradients, rows } = receiver;
  try {
    options.whileDeviceWorks?.();
    const scale = options.lossScale ?? 1;
    if (scale !== 1) noGrad(() => ops.foreachMul_([...gradients.values()], 1 / scale));
    const [loss, squares] = traced(options.profile, 'gradient norm', 'optimizer', () =>
      results(options, losses, shares, gradients),
    );
    const gradNorm = normOf(squares);
    const updated = Number.isFinite(loss) && Number.isFinite(gradNorm);
    if (updated) {
      traced(options.profile, 'update', 'optimizer', () => {
        clipGradients(gradients, gradNorm, options.maxGradNorm);
        optimizer.step(gradients, { ...settings, rows });
        if (receiver instanceof ScatteredSum) options.sharding?.spread(receiver.touched);
      });
    }
    return { loss, gradNorm, supervisedTokens, updated };
  } finally {
    receiver.dispose();
  }
}

/** Loss and squared norm of a step, over all ranks. Waits for the device, once. */
function results(
  options: StepOptions,
  losses: readonly Tensor[],
  shares: readonly number[],
  gradients: ReadonlyMap<string, Tensor>,
): [loss: number, squares: number] {
  const squares = gradients.size === 0 ? [] : [scope(() => keep(squaresOf(gradients)))];
  const values = readScalars([...losses, ...squares]);
  return agree(options, values.slice(0, losses.length), shares, values[losses.length] ?? 0);
}

/** Same, but parameters are updated during the backward pass. If a gradient is not finite, later blocks have already been updated. */
function fusedStep(
  model: MiniCPMV,
  batches: MicroBatches,
  optimizer: Optimizer,
  settings: StepSettings,
  options: StepOptions,
): StepResult {
  assert.equal(batches.length, 1, 'one micro-batch');
  const { sharding, maxGradNorm } = options;
  const { losses, shares, supervisedTokens, receiver } = compute(model, batches, options, (parts) =>
    sharding
      ? new ScatteredUpdate(sharding, parts, { optimizer, settings, maxGradNorm })
      : new FusedUpdate(optimizer, settings, maxGradNorm),
  );
  try {
    options.whileDeviceWorks?.();
    const [sum, squares] = readScalars([...losses, keep(ops.clone(receiver.squares))]);
    const [loss] = agree(options, [sum!], shares, 0);
    const gradNorm = normOf(squares!);
    return { loss, gradNorm, supervisedTokens, updated: Number.isFinite(loss) && Number.isFinite(gradNorm) };
  } finally {
    receiver.dispose();
  }
}
