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
import { keep, noGrad, ops, scope, seedOf, soloGroup, type Tensor } from '@minicpm-finetune/torch';
import { inUnitOrder, Passage } from '../parallel/passage.js';
import type { Sharding } from '../parallel/sharding.js';
import { type Batch, disposeBatch } from './collate.js';
import { Execution } from './executor.js';
import { FusedUpdate, type GradientReceiver, GradientSum, type Rows } from './gradients.js';
import { emptySum, type Head, lossAndGradient, lossSum } from './loss.js';
import type { MemoryPlan } from './memory-plan.js';
import { clipGradients, normOf, type Optimizer, type StepSettings, squaresOf } from './optimizer.js';
import { type StepProfile, traced } from './profiler.js';
import { ScatteredSum } from './scattered-sum.js';
import type { VisionCache } from './vision-cache.js';

export interface StepOptions {
  readonly maxGradNorm: number;
  /** Of the run and the step (`seedOf`): all random numbers of the step follow from it. */
  readonly seed?: number;
  /** How the model is shared out over ranks; null: this process is alone. */
  readonly sharding?: Sharding | null;
  readonly recompute: boolean;
  readonly perMicroBatch: boolean;
  /** A micro-batch without pictures gets a zero picture that changes nothing but gives the tower gradients of zero, as the official trainer does. */
  readonly zeroPicture?: boolean;
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

/** Names of the head's parameters that train. */
const trainableHead = (model: MiniCPMV): string[] =>
  [...model.headParameters()].flatMap(([name, { requiresGrad }]) => (requiresGrad ? [name] : []));

/** The model's head as the loss sees it. */
export function headOf(model: MiniCPMV): Head {
  const parameters = model.headParameters();
  return {
    logits: (hidden) => model.logits(hidden),
    trainable: new Map(trainableHead(model).map((name) => [name, parameters.get(name)!.data])),
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

/** The group of a step: of this process alone unless the model is shared out. */
const groupOf = ({ sharding }: Pick<StepOptions, 'sharding'>) => sharding?.group ?? ALONE;
const ALONE = soloGroup();

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
): [number, number] {
  const parts = losses.map((loss, k) => loss * shares[k]!);
  const all = groupOf(options).exchange([squares, ...parts], 'loss and norm');
  const loss = inPartOrder(all.map((own) => own.subarray(1))).reduce((sum, value) => sum + value, 0);
  return [loss, all.reduce((sum, own) => sum + own[0]!, 0)];
}

/** Forward and backward over all micro-batches. Nothing waits for the device: the summed cross entropies stay there. Collective. */
export function gradientsOf(
  model: MiniCPMV,
  batches: MicroBatches,
  options: GradientOptions,
): { losses: Tensor[]; shares: number[]; supervisedTokens: number; receiver: GradientSum | ScatteredSum } {
  const { sharding, perMicroBatch, seed = 0 } = options;
  const group = groupOf(options);
  const own = batches.map((batch) => batch?.supervisedTokens ?? 0);
  const counts = inPartOrder(group.exchange(own, 'supervised tokens'));
  const supervisedTokens = counts.reduce((sum, count) => sum + count, 0);
  const parts = counts.filter((count) => count > 0).length;
  const receiver = sharding ? new ScatteredSum(sharding, parts) : new GradientSum(parts);
  const shares = own.map((count) => (count === 0 ? 0 : perMicroBatch ? 1 / (count * parts) : 1 / supervisedTokens));
  const losses: Tensor[] = [];
  try {
    for (const [k, batch] of batches.entries()) {
      const part = {
        scale: shares[k]! * (options.lossScale ?? 1),
        seed: seedOf(seed, k * group.size + group.rank),
        label: `micro-batch ${k}`,
      };
      losses.push(keep(runBatch(model, batch, part, options, receiver)));
      if (batch) disposeBatch(batch);
    }
    if (receiver instanceof ScatteredSum) receiver.finish();
  } catch (error) {
    receiver.dispose(); // the device may have no memory left
    for (const loss of losses) loss.dispose();
    for (const batch of batches) if (batch) disposeBatch(batch);
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

/** A micro-batch's place in the step. */
interface StepPart {
  /** Multiplies the summed loss. */
  readonly scale: number;
  readonly seed: number;
  readonly label: string;
}

/** The way of a micro-batch through the units of a model that is shared out; null: it is not. Collective. */
function passageOf(
  sharding: Sharding | null | undefined,
  label: string,
  work: { plan: Plan; supervised: boolean; trains: boolean },
): Passage | null {
  if (!sharding) return null;
  const { group, units, head } = sharding;
  return new Passage({ group, units, head, visitor: sharding, label }, work);
}

/** Forward and backward over one micro-batch; returns the summed cross entropy, a scalar of the caller's scope. */
function runBatch(
  model: MiniCPMV,
  batch: Batch | null,
  part: StepPart,
  options: GradientOptions,
  receiver: GradientReceiver,
): Tensor {
  const { memory, watch, sharding, profile } = options;
  return scope(() => {
    const plan = batch === null ? [] : planOf(model, batch, options);
    const passage = passageOf(sharding, part.label, {
      plan,
      supervised: (batch?.supervisedTokens ?? 0) > 0,
      trains: true,
    });
    if (batch === null) {
      passage?.head();
      passage?.headDone();
      passage?.end();
      return emptySum('cpu');
    }
    const take = (gradients: ReadonlyMap<string, Tensor>, node: PlanNode | null): void => {
      watch?.gradients(gradients, node?.name ?? HEAD);
      traced(profile, receiver.does, 'optimizer', () => receiver.add(gradients, node));
    };
    receiver.begin(plan, trainableHead(model));
    const execution = execute(plan, batch, { ...options, seed: part.seed }, passage, take);
    try {
      const hidden = execution.forward();
      passage?.head();
      const result = traced(profile, 'loss', 'loss', () =>
        lossAndGradient(hidden, batch.labels, headOf(model), { scale: part.scale, needsHidden: execution.needsGrad }),
      );
      hidden.dispose();
      watch?.loss(result.sum);
      memory?.sample();
      take(result.gradients, null);
      passage?.headDone();
      if (result.gradHidden) execution.backward(result.gradHidden);
      passage?.end();
      receiver.end();
      return result.sum;
    } finally {
      execution.dispose();
    }
  });
}

/** The plan of a micro-batch with all that is put around it. */
function planOf(model: MiniCPMV, batch: Batch, options: GradientOptions): Plan {
  const { wrap, watch, vision, sharding, profile, zeroPicture = false } = options;
  const known = traced(profile, 'vision cache', 'data', () => knownOf(batch, vision));
  const plain = model.plan(batch.inputs, { train: true, zeroPicture, ...known });
  const wrapped = wrap === undefined ? plain : wrap(plain, batch.inputs);
  const ordered = sharding ? inUnitOrder(wrapped, sharding.units) : wrapped;
  return watch === undefined ? ordered : watch.plan(ordered);
}

function execute(
  plan: Plan,
  batch: Batch,
  { recompute, memory, profile, seed = 0 }: GradientOptions,
  passage: Passage | null,
  onGradients: (gradients: ReadonlyMap<string, Tensor>, node: PlanNode) => void,
): Execution {
  if (memory) {
    const patches = batch.inputs.pictures.flat().reduce((sum, { rows, cols }) => sum + rows * cols, 0);
    memory.begin({ tokens: batch.tokens, patches });
  }
  return new Execution(plan, {
    seed,
    recompute: (node, inputs) => memory?.recomputes(node, inputs) ?? recompute,
    onGradients,
    around: (phase, node, run) => {
      if (phase === 'forward') passage?.forward(node);
      if (phase === 'backward') passage?.backward(node);
      return profile ? profile.block(phase, node, run) : run();
    },
    ...(memory ? { onRecomputed: (node, inputs, bytes) => memory.recomputed(node, inputs, bytes) } : {}),
  });
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
): [number, number] {
  const squares = gradients.size === 0 ? [] : [scope(() => keep(squaresOf(gradients)))];
  const values = readScalars([...losses, ...squares]);
  // Where every rank has all gradients, each has the whole sum.
  const share = options.sharding?.stage === 0 ? 1 / options.sharding.group.size : 1;
  return agree(options, values.slice(0, losses.length), shares, (values[losses.length] ?? 0) * share);
}

/** Same, but parameters are updated during the backward pass. If a gradient is not finite, later blocks have already been updated. */
function fusedStep(
  model: MiniCPMV,
  batches: MicroBatches,
  optimizer: Optimizer,
  settings: StepSettings,
  options: StepOptions,
): StepResult {
  assert.ok(batches.length === 1 && batches[0] && !options.sharding, 'one micro-batch, on one rank');
  const [batch] = batches;
  const update = new FusedUpdate(optimizer, settings, options.maxGradNorm);
  const { supervisedTokens } = batch;
  try {
    const share = 1 / supervisedTokens;
    const part = { scale: share, seed: seedOf(settings.seed, 0), label: 'the micro-batch' };
    const sum = keep(runBatch(model, batch, part, options, update));
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

/**
 * Summed cross entropy and supervised tokens of a batch of this rank, without gradients. Frees the batch's tensors. Collective where the
 * model is shared out: a rank without a batch calls it with null.
 */
export function evaluateBatch(
  model: MiniCPMV,
  batch: Batch | null,
  vision?: VisionCache | null,
  sharding?: Sharding | null,
): { sum: number; count: number } {
  return scope(() => {
    const plain = batch ? model.plan(batch.inputs, { train: false, ...knownOf(batch, vision) }) : [];
    const plan = sharding ? inUnitOrder(plain, sharding.units) : plain;
    const walks = sharding?.gathers ? sharding : null;
    const passage = passageOf(walks, 'evaluation', { plan, supervised: false, trains: false });
    const hidden = batch && noGrad(() => runPlan(plan, (node) => passage?.forward(node)));
    passage?.head();
    const result = hidden && batch ? lossSum(hidden, batch.labels, headOf(model)) : { sum: 0, count: 0 };
    passage?.headDone();
    passage?.end();
    if (batch) disposeBatch(batch);
    return result;
  });
}
