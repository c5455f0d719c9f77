/**
 * One micro-batch, forward and backward, or forward alone. The plan with all that is put around it, the loss, and the way
 * through the units of a model that is shared out over ranks. Not here: what is made of gradients (gradients.ts,
 * scattered-sum.ts), the step (step.ts).
 */
import {
  type MiniCPMV,
  type ModelInputs,
  type Plan,
  type PlanNode,
  type PlanOptions,
  runPlan,
} from '@minicpm-finetune/minicpm-v';
import { noGrad, scope, type Tensor } from '@minicpm-finetune/torch';
import { inUnitOrder, Passage } from '../parallel/passage.js';
import type { Sharding } from '../parallel/sharding.js';
import { type Batch, disposeBatch } from './collate.js';
import { Execution } from './executor.js';
import type { GradientReceiver } from './gradients.js';
import { emptySum, type Head, lossAndGradient, lossSum } from './loss.js';
import type { MemoryPlan } from './memory-plan.js';
import { type StepProfile, traced } from './profiler.js';
import type { VisionCache } from './vision-cache.js';

export interface MicroBatchOptions {
  /** How the model is shared out over ranks; null: this process is alone. */
  readonly sharding?: Sharding | null;
  readonly recompute: boolean;
  /** A micro-batch without pictures gets a zero picture that changes nothing but gives the tower gradients of zero, as the official trainer does. */
  readonly zeroPicture?: boolean;
  /** Changes the plan of a micro-batch: NEFTune's noise. */
  readonly wrap?: (plan: Plan, inputs: ModelInputs) => Plan;
  /** Decides instead of `recompute`, block by block. */
  readonly memory?: MemoryPlan | null;
  /** Stored features of frozen vision towers. */
  readonly vision?: VisionCache | null;
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

/** Names of the head's parameters that train. */
const trainableHead = (model: MiniCPMV): string[] =>
  [...model.headParameters()].flatMap(([name, { requiresGrad }]) => (requiresGrad ? [name] : []));

/** The model's head as the loss sees it. */
export function headOf(model: MiniCPMV): Head {
  const parameters = model.headParameters();
  return {
    logits: (hidden) => model.logits(hidden),
    vocabSize: model.config.llm.vocabSize,
    trainable: new Map(trainableHead(model).map((name) => [name, parameters.get(name)!.data])),
  };
}

/** A micro-batch's place in the step. */
export interface StepPart {
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
export function runBatch(
  model: MiniCPMV,
  batch: Batch | null,
  part: StepPart,
  options: MicroBatchOptions,
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
      return emptySum([...model.namedParameters()][0]![1].data.device);
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
function planOf(model: MiniCPMV, batch: Batch, options: MicroBatchOptions): Plan {
  const { wrap, watch, vision, sharding, profile, zeroPicture = false } = options;
  const known = traced(profile, 'vision cache', 'data', () => knownOf(batch, vision));
  const plain = model.plan(batch.inputs, { train: true, zeroPicture, ...known, ...rowsFrom(sharding) });
  const wrapped = wrap === undefined ? plain : wrap(plain, batch.inputs);
  const ordered = sharding ? inUnitOrder(wrapped, sharding.units) : wrapped;
  return watch === undefined ? ordered : watch.plan(ordered);
}

/** Where the rows of a token table come from that no rank has whole. */
function rowsFrom(sharding: Sharding | null | undefined): Pick<PlanOptions, 'rowsOf'> {
  return sharding?.sharesTable ? { rowsOf: () => sharding.fetchedRows } : {};
}

function execute(
  plan: Plan,
  batch: Batch,
  { recompute, memory, profile, seed }: MicroBatchOptions & { readonly seed: number },
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
      if (phase !== 'recompute') passage?.enter(node);
      return profile ? profile.block(phase, node, run) : run();
    },
    ...(memory ? { onRecomputed: (node, inputs, bytes) => memory.recomputed(node, inputs, bytes) } : {}),
  });
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
    const plain = batch
      ? model.plan(batch.inputs, { train: false, ...knownOf(batch, vision), ...rowsFrom(sharding) })
      : [];
    const plan = sharding ? inUnitOrder(plain, sharding.units) : plain;
    const walks = sharding?.gathers ? sharding : null;
    const passage = passageOf(walks, 'evaluation', { plan, supervised: false, trains: false });
    const hidden = batch && noGrad(() => runPlan(plan, (node) => passage?.enter(node)));
    passage?.head();
    const result = hidden && batch ? lossSum(hidden, batch.labels, headOf(model)) : { sum: 0, count: 0 };
    passage?.headDone();
    passage?.end();
    if (batch) disposeBatch(batch);
    return result;
  });
}
