/**
 * One optimizer step without memory. On libtorch's `meta` device tensors have shapes alone: nothing is computed, and every byte
 * that the step would take is counted. The model is made from config.json alone, the step is the training's own.
 */
import {
  applyLora,
  type LoraOptions,
  MiniCPMV,
  type Picture,
  planAdapters,
  quantizeLayers,
  setLoraTraining,
  trainableParameters,
} from '@minicpm-finetune/minicpm-v';
import { countTokens, type ModelConfig } from '@minicpm-finetune/processor';
import type { RunConfig } from '@minicpm-finetune/run';
import {
  countMetaBytes,
  keep,
  metaBytes,
  ops,
  type Parameter,
  resetMetaPeak,
  scope,
  type Tensor,
} from '@minicpm-finetune/torch';
import { readingOf } from '../../data/encoder.js';
import { type Batch, pack, type Sequence } from '../../engine/collate.js';
import { startOfTrained } from '../../engine/live-reference.js';
import type { DeviceName } from '../../engine/machine.js';
import { withNoise } from '../../engine/neftune.js';
import { byUnit, Optimizer, optimizerSettings, withoutDecay } from '../../engine/optimizer.js';
import { gradientsOf } from '../../engine/step.js';
import { tuneFully } from '../../engine/trainables.js';
import { inVisitOrder, unitName } from '../../parallel/units.js';
import { loraOptions, referenceIsBase, referencePlan } from '../plan.js';
import { type Moment, Watch } from './moments.js';
import type { BatchShape } from './shape.js';

/** What is loaded, gathered and updated together: a block of the plan. */
export interface Unit {
  readonly name: string;
  /** Numbers that train, and that do not. */
  readonly trained: number;
  readonly frozen: number;
  /** Bytes of weights in a compact form, whose numbers are not among those. */
  readonly compact: number;
  /** Of all of them. */
  readonly bytes: number;
}

/** A token table that trains and is not the head: only rows that occur have gradients and moments. */
interface TableRows {
  readonly unit: string;
  readonly seen: number;
  readonly of: number;
  /** Bytes of the moments, and of a micro-batch's gradient, of these rows. */
  readonly moments: number;
  readonly gradient: number;
}

export interface Rehearsal {
  /** In the order of a forward pass. */
  readonly units: readonly Unit[];
  readonly weights: {
    readonly trained: number;
    readonly frozen: number;
    readonly compact: number;
    readonly compacted: number;
  };
  /** Bytes of the optimizer's tensors. */
  readonly masters: number;
  readonly moments: number;
  /** Bytes of a copy of what trains, as the reference of preference tuning; 0: there is none. */
  readonly reference: number;
  /** Null: all rows have moments, or the table does not train. */
  readonly rows: TableRows | null;
  /** The unit of a token table that is not the head: ranks exchange its rows. Null: it is the head. */
  readonly table: string | null;
  /** Type of the weights in their file. */
  readonly storedDtype: string;
  /** Whether gradients of several micro-batches are summed in float32. */
  readonly summed: boolean;
  readonly trainedNumbers: number;
  readonly totalNumbers: number;
  readonly steps: readonly Moment[];
  /** Bytes of gradients that the update copies in float32 at a time. */
  readonly copied: number;
  /** Bytes of a micro-batch's ids and pictures. */
  readonly batch: number;
}

const numbersOf = ({ shape }: Parameter): number => shape.reduce((product, size) => product * size, 1);
const sum = (numbers: Iterable<number>): number => [...numbers].reduce((all, one) => all + one, 0);

const tableOf = (model: MiniCPMV): string => `${model.llm.tableName}.weight`;

/** The model on the meta device as a training has it, adapters and quantization included. */
function modelOf(config: RunConfig, read: ModelConfig): MiniCPMV {
  const { dtype } = config.precision;
  const batchSize = config.model.vision_batch_size ?? read.vision.batchSize;
  const model = new MiniCPMV({
    ...readingOf(read, config),
    vision: { ...read.vision, batchSize },
  });
  for (const [, parameter] of model.namedParameters())
    parameter.data = scope(() => keep(ops.empty(parameter.shape, { dtype, device: 'meta' })));
  const { use_lora: useLora, lora_weight_path: from, q_lora: quantized, q_lora_type: type } = config.lora;
  if (useLora) {
    const options: LoraOptions =
      from === null ? loraOptions(config, model) : planAdapters(model, { folder: from }).config;
    applyLora(model, options, { seed: 0 });
    setLoraTraining(model, true);
    if (quantized) quantizeLayers(model, type);
  } else tuneFully(model, { tuneVision: config.trainables.tune_vision, tuneLlm: config.trainables.tune_llm });
  return model;
}

/** A micro-batch of a shape, with pictures of noise. Every token is another one, and all are supervised: nothing takes more. */
export function batchOf(model: MiniCPMV, { sequences }: BatchShape, device: string): Batch {
  const { pictureTokens, llm, vision, batchVision } = model.config;
  const pictures = sequences.flatMap(({ pictures: own }) =>
    own.map(({ rows, cols }): Picture => {
      const side = vision.patchSize;
      const shape = batchVision ? [3, side, side * rows * cols] : [3, side * rows, side * cols];
      return { pixels: scope(() => keep(ops.randint(0, 256, shape, { dtype: 'uint8', device }))), rows, cols };
    }),
  );
  let id = 0;
  const texts = sequences.map(({ tokens, pictures: own }): Sequence => {
    const inputIds = Int32Array.from({ length: tokens }, () => id++ % llm.vocabSize);
    let shown = 0;
    const imageBounds = own.map((grid): [number, number] => {
      const start = shown;
      shown += countTokens(pictureTokens, grid);
      return [start, shown];
    });
    const labels = inputIds.map((__, i) => (i < shown || i === tokens - 1 ? -100 : 1));
    return { inputIds, labels, imageBounds };
  });
  return pack(texts, pictures, device);
}

/** The units of a model, as a training shares them out, in the order of a forward pass. */
function unitsOf(model: MiniCPMV): Unit[] {
  const byUnit = new Map<string, Unit>();
  for (const [name, parameter] of model.namedParameters()) {
    const unit = unitName(name);
    const { trained, frozen, compact, bytes } = byUnit.get(unit) ?? { trained: 0, frozen: 0, compact: 0, bytes: 0 };
    const count = parameter.compact === undefined ? numbersOf(parameter) : 0;
    const small = parameter.compact?.nbytes ?? 0;
    byUnit.set(unit, {
      name: unit,
      trained: trained + (parameter.requiresGrad ? count : 0),
      frozen: frozen + (parameter.requiresGrad ? 0 : count),
      compact: compact + small,
      bytes: bytes + (parameter.compact === undefined ? parameter.data.nbytes : small),
    });
  }
  return inVisitOrder(byUnit.keys()).map((name) => byUnit.get(name)!);
}

function weightsOf(model: MiniCPMV): Rehearsal['weights'] {
  let [trained, frozen, compact, compacted] = [0, 0, 0, 0];
  for (const [, parameter] of model.namedParameters()) {
    if (parameter.compact !== undefined) {
      compact += parameter.compact.nbytes;
      compacted += numbersOf(parameter);
    } else if (parameter.requiresGrad) trained += parameter.data.nbytes;
    else frozen += parameter.data.nbytes;
  }
  return { trained, frozen, compact, compacted };
}

/**
 * Takes one optimizer step of a configuration without memory and weights.
 *
 * @param options.device whose tensors are counted
 * @param options.epochs of the run: they decide about the reference of preference tuning
 * @throws UserError for adapters that do not fit the model
 */
export function rehearse(
  config: RunConfig,
  read: ModelConfig,
  shape: BatchShape,
  { device, epochs }: { readonly device: DeviceName; readonly epochs: number },
): Rehearsal {
  countMetaBytes(device);
  return scope(() => {
    const model = modelOf(config, read);
    const reference = referencePlan(config, epochs) === 'live' ? referenceBytes(model, config) : 0;
    try {
      return { ...rehearseModel(model, config, read, shape), reference };
    } finally {
      model.dispose();
    }
  });
}

/** The token table whose gradient is of rows, if there is one. */
function tableRows(
  { adamw }: Optimizer,
  gradients: ReadonlyMap<string, { readonly numel: number }>,
  vocabulary: number,
): TableRows | null {
  for (const [name, { rows, expAvg, expAvgSq }] of adamw.state)
    if (rows !== undefined)
      return {
        ...{ unit: unitName(name), seen: rows.length, of: vocabulary, moments: expAvg.nbytes + expAvgSq.nbytes },
        gradient: 4 * gradients.get(name)!.numel,
      };
  return null;
}

/** Bytes of the copies that a reference beside the training has. */
function referenceBytes(model: MiniCPMV, config: RunConfig): number {
  const copies = [...startOfTrained(trainableParameters(model), referenceIsBase(config)).values()];
  const bytes = sum(copies.map(({ nbytes }) => nbytes));
  for (const copy of copies) copy.dispose();
  return bytes;
}

function rehearseModel(
  model: MiniCPMV,
  config: RunConfig,
  read: ModelConfig,
  shape: BatchShape,
): Omit<Rehearsal, 'reference'> {
  const several = config.batch.gradient_accumulation_steps > 1;
  const all = [...model.namedParameters()];
  const trainable = trainableParameters(model);
  const optimizer = new Optimizer(trainable, withoutDecay(model), optimizerSettings(config));
  const before = metaBytes().inUse;
  const batches = Array.from({ length: several ? 2 : 1 }, () => batchOf(model, shape, 'meta'));
  const batch = (metaBytes().inUse - before) / batches.length;
  const units = unitsOf(model);
  const watch = new Watch(before, several ? 4 : 0);
  const { neftune_noise_alpha: alpha } = config.optimizer;
  const { losses, receiver } = gradientsOf(model, batches, {
    recompute: config.engine.gradient_checkpointing !== false,
    perMicroBatch: false,
    profile: watch,
    watch: { plan: (plan) => plan, loss: () => {}, gradients: (gradients) => watch.gradients(gradients) },
    ...(alpha === null ? {} : { wrap: (plan, inputs) => withNoise(plan, inputs, model, alpha) }),
  });
  try {
    const update = (): void =>
      scope(() => optimizer.step(receiver.gradients, { multiplier: 1, seed: 0, rows: receiver.rows }));
    update(); // makes the moments
    const held = metaBytes().inUse;
    resetMetaPeak();
    update();
    const working = metaBytes().peak - held;
    const states = [...optimizer.adamw.state.values()];
    return {
      units,
      weights: weightsOf(model),
      masters: sum([...optimizer.masters.values()].map(({ nbytes }) => nbytes)),
      moments: sum(states.map(({ expAvg, expAvgSq }) => expAvg.nbytes + expAvgSq.nbytes)),
      rows: tableRows(optimizer, receiver.gradients, model.config.llm.vocabSize),
      table: model.headParameters().has(tableOf(model)) ? null : unitName(tableOf(model)),
      storedDtype: read.dtype,
      summed: several,
      trainedNumbers: sum([...trainable.values()].map(numbersOf)),
      totalNumbers: sum(all.map(([, parameter]) => numbersOf(parameter))),
      copied: Math.max(0, ...Array.from(byUnit(receiver.gradients), (some) => copiedBytes(some, optimizer))),
      steps: [...watch.moments, { phase: 'update', block: '', working, kept: 0, gradients: watch.held, own: 0 }],
      batch,
    };
  } finally {
    for (const loss of losses) loss.dispose();
    receiver.dispose();
    optimizer.dispose();
  }
}

function copiedBytes(gradients: ReadonlyMap<string, Tensor>, { masters }: Optimizer): number {
  const copied = [...gradients].filter(([name, { dtype }]) => masters.has(name) && dtype !== 'float32');
  return sum(copied.map(([, { numel }]) => 4 * numel));
}
