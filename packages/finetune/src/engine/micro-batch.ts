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
import { emptySum, type Head, type LossOptions, type LossResult, lossAndGradient, lossSum } from './loss.js';
import type { MemoryPlan } from './memory-plan.js';
import { type StepProfile, traced } from './profiler.js';
import type { PictureSource } from './step-pictures.js';

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
  /** Features of frozen vision towers, stored or of this step. */
  readonly vision?: PictureSource | null;
  readonly watch?: StepWatch;
  readonly profile?: StepProfile | null;
  /** What is learned instead of the records' own answers, each token by itself: to prefer one of two answers. */
  readonly objective?: Objective | null;
}

/** A loss that counts records instead of tokens. */
export interface Objective {
  /** Called before the first micro-batch of a step. Collective: all ranks have as many of them. */
  prepare(model: MiniCPMV, batches: readonly (Batch | null)[], options: ForwardOptions): void;
  /** Features that its passes have in common; null: there are none. */
  readonly pictures: PictureSource | null;
  /** A batch has had its backward pass. */
  done(batch: Batch): void;
  /** The loss, summed over a batch's records, and its gradient: times `scale`. */
  lossAndGradient(
    hidden: Tensor,
    batch: Batch,
    head: Head,
    options: Pick<LossOptions, 'scale' | 'needsHidden'>,
  ): LossResult;
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

/** The module that maps hidden states to logits, as all models call it. */
export const HEAD = 'lm_head';

/** Names of the head's parameters that train. */
const trainableHead = (model: MiniCPMV): string[] =>
  [...model.headParameters()].flatMap(([name, { requiresGrad }]) => (requiresGrad ? [name] : []));

/** The model's head as the loss sees it. */
export function headOf(model: MiniCPMV): Head {
  const parameters = model.headParameters();
  return {
    logits: (hidden) => model.llm.output(hidden),
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
      const wanted = { scale: part.scale, needsHidden: execution.needsGrad };
      const result = traced(profile, 'loss', 'loss', () =>
        options.objective
          ? options.objective.lossAndGradient(hidden, batch, headOf(model), wanted)
          : lossAndGradient(hidden, batch.labels, headOf(model), wanted),
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
  const { wrap, watch, sharding, profile, objective, zeroPicture = false } = options;
  const vision = options.vision ?? objective?.pictures;
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
function knownOf({ inputs }: Batch, vision: PictureSource | null | undefined): Pick<PlanOptions, 'known'> {
  const pictures = inputs.pictures.flat();
  return vision && pictures.length > 0 ? { known: vision.lookup(pictures) } : {};
}

/** How a batch is run without gradients. */
export type ForwardOptions = Pick<MicroBatchOptions, 'vision' | 'sharding'>;

/**
 * Runs a batch of this rank forward, without gradients, and gives the hidden states (1, L, D) to `use`, while the head is there. The batch's
 * tensors stay. Collective where the model is shared out: a rank without a batch calls it with null, and gets null.
 */
export function withHidden<T>(
  model: MiniCPMV,
  batch: Batch | null,
  { vision, sharding }: ForwardOptions,
  use: (hidden: Tensor, batch: Batch) => T,
): T | null {
  return scope(() => {
    const plain = batch
      ? model.plan(batch.inputs, { train: false, ...knownOf(batch, vision), ...rowsFrom(sharding) })
      : [];
    const plan = sharding ? inUnitOrder(plain, sharding.units) : plain;
    const walks = sharding?.gathers ? sharding : null;
    const passage = passageOf(walks, 'evaluation', { plan, supervised: false, trains: false });
    const hidden = batch && noGrad(() => runPlan(plan, (node) => passage?.enter(node)));
    passage?.head();
    const result = hidden && batch ? use(hidden, batch) : null;
    passage?.headDone();
    passage?.end();
    return result;
  });
}

/** Summed cross entropy and supervised tokens of a batch of this rank, without gradients. Frees the batch's tensors. Collective as `withHidden`. */
export function evaluateBatch(
  model: MiniCPMV,
  batch: Batch | null,
  vision?: PictureSource | null,
  sharding?: Sharding | null,
): { sum: number; count: number } {
  try {
    const sum = withHidden(model, batch, { vision: vision ?? null, sharding: sharding ?? null }, (hidden, { labels }) =>
      lossSum(hidden, labels, headOf(model)),
    );
    return sum ?? { sum: 0, count: 0 };
  } finally {
    if (batch) disposeBatch(batch);
  }
}
