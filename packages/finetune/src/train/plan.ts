/**
 * What a run would train, known without weights. From the configuration and config.json alone: where adapters go, how many
 * numbers train, and the least memory. Also made before the weights of a run are loaded, so that a pattern that cannot work costs nothing.
 */
import { totalmem } from 'node:os';
import {
  type AdapterPlace,
  adapterPlaces,
  describePlaces,
  type LoraOptions,
  MiniCPMV,
  type PlannedAdapters,
  planAdapters,
  selectModules,
} from '@minicpm-finetune/minicpm-v';
import { describeSlices } from '@minicpm-finetune/minicpm-v/adapter-files';
import { type ModelConfig, readConfig } from '@minicpm-finetune/processor';
import { formatBytes, formatCount, type RunConfig, shown, UserError } from '@minicpm-finetune/run';
import { Linear, type Parameter } from '@minicpm-finetune/torch';
import { sliceOf } from '../data/encoder.js';
import { optimizerSettings } from '../engine/optimizer.js';
import { fullyTuned } from '../engine/trainables.js';

export interface TrainingPlan {
  /** Where adapters go; null: none. */
  readonly places: readonly AdapterPlace[] | null;
  readonly trainableNumbers: number;
  /** Adapters included. */
  readonly totalNumbers: number;
  /** Bytes, without activations. */
  readonly memory: { readonly weights: number; readonly gradients: number; readonly optimizer: number };
}

/** The settings of new adapters. */
export function loraOptions({ lora, trainables }: RunConfig): LoraOptions {
  return {
    r: lora.lora_r,
    alpha: lora.lora_alpha,
    dropout: lora.lora_dropout,
    targetModules: lora.lora_target_modules,
    modulesToSave: lora.lora_modules_to_save.filter((name) => name !== 'vpm' || trainables.tune_vision),
    bias: lora.lora_bias,
    useRslora: lora.use_rslora,
    useDora: lora.use_dora,
    layersToTransform: lora.lora_layers_to_transform,
  };
}

/**
 * Plans the training of a model without weights.
 *
 * @param from the folder of the adapter that goes on; null: new adapters
 * @throws UserError for patterns, names and layers that select nothing, and an adapter that does not fit
 */
export function planTraining(config: RunConfig, model: MiniCPMV, from: string | null): TrainingPlan {
  const { use_lora: useLora } = config.lora;
  const planned = useLora ? planAdapters(model, from === null ? loraOptions(config) : { folder: from }) : null;
  if (planned !== null && from !== null) requireSameTargets(config, model, planned, from);
  const { tune_vision: tuneVision, tune_llm: tuneLlm } = config.trainables;
  const trainable = planned?.parameters ?? fullyTuned(model, { tuneVision, tuneLlm });
  const own = new Map(model.namedParameters());
  const added = [...trainable].filter(([name]) => !own.has(name)).map(([, parameter]) => parameter);
  const frozen = [...own].filter(([name]) => !trainable.has(name));
  const compact = config.lora.q_lora ? quantizable(model, new Set(frozen.map(([name]) => name))) : 0;
  const totalNumbers = numbersIn([...own.values(), ...added]);
  const trainableNumbers = numbersIn(trainable.values());
  return {
    places: planned === null ? null : adapterPlaces(model, planned.targets),
    trainableNumbers,
    totalNumbers,
    memory: leastMemory(config, { totalNumbers, trainableNumbers, compact }),
  };
}

/** A given pattern has to mean all the layers of the adapter, and no others. */
function requireSameTargets(
  config: RunConfig,
  model: MiniCPMV,
  { config: own, targets }: PlannedAdapters,
  from: string,
): void {
  const { targetModules, layersToTransform = null } = loraOptions(config);
  const selected = (strict: boolean): readonly string[] =>
    selectModules(model, { ...own, targetModules, layersToTransform }, strict).targets;
  const inFolder = [...targets].sort().join();
  const same = (names: readonly string[]): boolean => [...names].sort().join() === inFolder;
  if (same(selected(false)) || same(selected(true))) return;
  const others = selected(true).filter((name) => !targets.includes(name));
  throw new UserError(
    `Expected the ${targets.length} layers of the adapter ${from} for --lora_target_modules but received ` +
      `${shown(targetModules)}, which selects ${selected(true).length}${others[0] === undefined ? '' : `, among them ${others[0]}`}.`,
    {
      flag: '--lora_target_modules',
      cure: 'Leave it out: an adapter keeps its layers. For other layers start a new adapter, without --lora_weight_path.',
    },
  );
}

/** Numbers in frozen linear weights of the language model's layers, which --q_lora keeps in a smaller form. */
function quantizable(model: MiniCPMV, frozen: ReadonlySet<string>): number {
  const layers = [...model.llm.namedModules('llm')].filter(
    ([name, module]) => module instanceof Linear && /\.layers\.\d+\./.test(name) && frozen.has(`${name}.weight`),
  );
  return layers.reduce((sum, [, module]) => sum + numbersIn([(module as Linear).weight]), 0);
}

const BYTES = { float32: 4, bfloat16: 2, float16: 2 } as const;
/** Bytes of a weight that --q_lora keeps. */
const COMPACT_BYTES = { nf4: 4.127 / 8, int8: 1 } as const;

function leastMemory(
  config: RunConfig,
  counts: { readonly totalNumbers: number; readonly trainableNumbers: number; readonly compact: number },
): TrainingPlan['memory'] {
  const bytes = BYTES[config.precision.dtype];
  const { masterWeights, stochasticRounding } = optimizerSettings(config);
  const { gradient_accumulation_steps: accumulation } = config.batch;
  const moments = 2 * (stochasticRounding === true ? bytes : 4);
  const masters = masterWeights && bytes < 4 ? 4 : 0;
  const gradient = config.engine.fused_backward ? 0 : accumulation > 1 ? 4 : bytes;
  return {
    weights: (counts.totalNumbers - counts.compact) * bytes + counts.compact * COMPACT_BYTES[config.lora.q_lora_type],
    gradients: counts.trainableNumbers * gradient,
    optimizer: counts.trainableNumbers * (moments + masters),
  };
}

function numbersIn(parameters: Iterable<Parameter>): number {
  let total = 0;
  for (const { shape } of parameters) total += shape.reduce((product, size) => product * size, 1);
  return total;
}

/** The line that says where adapters went. */
export function placesLine(places: readonly AdapterPlace[]): string {
  return `adapters: ${describePlaces(places)}`;
}

/** A sentence where a run cuts pictures otherwise than its checkpoint says; null: it does not, or there are no slices at all. */
export function slicesNotice(config: RunConfig, checkpoint: ModelConfig): string | null {
  const { max_slice_nums: most, scale_resolution: scale } = config.model;
  if (!checkpoint.sliceMode) {
    return most === null && scale === null
      ? null
      : '--max_slice_nums and --scale_resolution: without effect: slice_mode is false in config.json, so pictures are never cut.';
  }
  const [own, asked] = [checkpoint.slice, sliceOf(checkpoint, config.model)].map(describeSlices);
  if (own === asked) return null;
  return `pictures are cut into ${asked}, the checkpoint says ${own}. The result says so to chat, generate, merge, render and Python.`;
}

/**
 * What a run would do with the model in `folder`, a line each, for `--dry_run`.
 *
 * @throws UserError as `planTraining` does
 */
export function describePlan(config: RunConfig, folder: string): string[] {
  const read = readConfig(folder);
  const plan = planTraining(config, new MiniCPMV(read), config.lora.lora_weight_path);
  const { weights, gradients, optimizer } = plan.memory;
  const memory = weights + gradients + optimizer;
  const share = Number(((100 * plan.trainableNumbers) / plan.totalNumbers).toPrecision(3));
  const slices = slicesNotice(config, read);
  const lines = [
    ...(slices === null ? [] : [`notice: ${slices}`]),
    ...(plan.places === null ? [] : [placesLine(plan.places)]),
    `${formatCount(plan.trainableNumbers)} of ${formatCount(plan.totalNumbers)} parameters train (${share} %)`,
    `memory: at least ${formatBytes(memory)} = weights ${formatBytes(weights)} + gradients ${formatBytes(gradients)} + ` +
      `optimizer ${formatBytes(optimizer)}; activations and pictures come on top`,
  ];
  const machine = totalmem();
  if (memory > machine && !['cuda', 'mps'].includes(config.engine.device))
    lines.push(`notice: this machine has ${formatBytes(machine)} of memory, which is less.`);
  return lines;
}
