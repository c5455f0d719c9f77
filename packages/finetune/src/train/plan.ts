/**
 * What a run would train, known without weights. From the configuration and config.json alone: where adapters go and how many
 * numbers train. Also made before the weights of a run are loaded, so that a pattern that cannot work costs nothing.
 */
import {
  type AdapterPlace,
  adapterPlaces,
  describePlaces,
  type LoraOptions,
  type MiniCPMV,
  type PlannedAdapters,
  planAdapters,
  selectModules,
} from '@minicpm-finetune/minicpm-v';
import { describeEncoding, describeSlices, describeVideo } from '@minicpm-finetune/minicpm-v/adapter-files';
import { type ModelConfig, moduleName } from '@minicpm-finetune/processor';
import { formatCount, OFFICIAL_LORA_TARGETS, type RunConfig, shown, UserError } from '@minicpm-finetune/run';
import { Linear, type Parameter } from '@minicpm-finetune/torch';
import { encodingOf, readingOf, sliceOf } from '../data/encoder.js';
import { comparesWithReference } from '../engine/preference-loss.js';
import { fullyTuned } from '../engine/trainables.js';

export interface TrainingPlan {
  /** Where adapters go; null: none. */
  readonly places: readonly AdapterPlace[] | null;
  readonly trainableNumbers: number;
  /** Adapters included. */
  readonly totalNumbers: number;
}

/** The settings of new adapters. */
export function loraOptions({ lora, trainables }: RunConfig, { version }: MiniCPMV): LoraOptions {
  const { lora_target_modules: targets } = lora;
  const saved = lora.lora_modules_to_save.filter((name) => name !== 'vpm' || trainables.tune_vision);
  return {
    r: lora.lora_r,
    alpha: lora.lora_alpha,
    dropout: lora.lora_dropout,
    targetModules: targets === OFFICIAL_LORA_TARGETS ? version.loraTargets : targets,
    modulesToSave: saved.map((name) => moduleName(name, version.parts)),
    bias: lora.lora_bias,
    useRslora: lora.use_rslora,
    useDora: lora.use_dora,
    layersToTransform: lora.lora_layers_to_transform,
  };
}

/** The folder of the adapter that goes on: that of the checkpoint, or --lora_weight_path; null: new adapters, or none. */
export function adapterOf({ lora }: RunConfig, resumeFrom: string | null): string | null {
  return lora.use_lora ? (resumeFrom ?? lora.lora_weight_path) : null;
}

/** How a run has its reference: beside the training, or computed once before it; null: it needs none. */
export function referencePlan(config: RunConfig, epochs: number): 'live' | 'once' | null {
  const { preference: loss, precompute_ref: asked } = config.preference;
  if (loss === null || !comparesWithReference(loss)) return null;
  if (asked !== 'auto') return asked === 'true' ? 'once' : 'live';
  return !config.lora.use_lora || epochs > 1 || config.engine.offload_params !== 'none' ? 'once' : 'live';
}

/** Whether the reference is the base without adapters. */
export const referenceIsBase = ({ lora }: RunConfig): boolean => lora.use_lora && lora.lora_weight_path === null;

/**
 * Plans the training of a model without weights.
 *
 * @param from the folder of the adapter that goes on; null: new adapters
 * @throws UserError for patterns, names and layers that select nothing, an adapter that does not fit, and flags that leave nothing to train
 *   or, with --q_lora, to quantize
 */
export function planTraining(config: RunConfig, model: MiniCPMV, from: string | null): TrainingPlan {
  const { use_lora: useLora } = config.lora;
  const planned = useLora ? planAdapters(model, from === null ? loraOptions(config, model) : { folder: from }) : null;
  if (planned !== null && from !== null) requireSameTargets(config, model, planned, from);
  const { tune_vision: tuneVision, tune_llm: tuneLlm } = config.trainables;
  const trainable = planned?.parameters ?? fullyTuned(model, { tuneVision, tuneLlm });
  if (trainable.size === 0) {
    throw new UserError('Expected something to train but received flags that freeze everything.', {
      cure: 'Give --tune_vision true, --tune_llm true or --use_lora true.',
    });
  }
  const own = new Map(model.namedParameters());
  const added = [...trainable].filter(([name]) => !own.has(name)).map(([, parameter]) => parameter);
  const frozen = [...own].filter(([name]) => !trainable.has(name));
  if (config.lora.q_lora && quantizable(model, new Set(frozen.map(([name]) => name))) === 0) {
    throw new UserError('Expected frozen linear weights in the language model for --q_lora but received none.', {
      flag: '--q_lora',
      cure: 'All of them are in --lora_modules_to_save, and trained whole: name fewer modules there, or leave out --q_lora.',
    });
  }
  return {
    places: planned === null ? null : adapterPlaces(model, planned.targets),
    trainableNumbers: numbersIn(trainable.values()),
    totalNumbers: numbersIn([...own.values(), ...added]),
  };
}

/** A given pattern has to mean all the layers of the adapter, and no others. */
function requireSameTargets(
  config: RunConfig,
  model: MiniCPMV,
  { config: own, targets }: PlannedAdapters,
  from: string,
): void {
  const { targetModules, layersToTransform = null } = loraOptions(config, model);
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
function slicesNotice(config: RunConfig, checkpoint: ModelConfig): string | null {
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

/** The same of videos; null: they are read as the checkpoint says, or not at all. */
function videosNotice(config: RunConfig, checkpoint: ModelConfig): string | null {
  const { video } = readingOf(checkpoint, config);
  if (video === null || checkpoint.video === null) return null;
  const [own, asked] = [checkpoint.video, video].map(describeVideo);
  if (own === asked) return null;
  return `videos are read with ${asked}, the checkpoint says ${own}. The result says so to chat, generate, merge, render and serve.`;
}

/** The same of how records are encoded, where the checkpoint comes from another training. */
function encodingNotice(config: RunConfig, checkpoint: ModelConfig): string | null {
  const [own, asked] = [checkpoint.encoding, encodingOf(checkpoint, config.data)].map(describeEncoding);
  if (own === asked || own === describeEncoding({ compat: 'inference', thinking: 'inference' })) return null;
  return `records are encoded with ${asked}, the checkpoint was trained with ${own}.`;
}

/** A sentence for pictures, one for videos and one for records, where a run has them otherwise than its checkpoint says. */
export function readingNotices(config: RunConfig, checkpoint: ModelConfig): string[] {
  return [slicesNotice, videosNotice, encodingNotice]
    .map((notice) => notice(config, checkpoint))
    .filter((line) => line !== null);
}

/** Numbers in frozen linear weights of the language model's layers, which --q_lora keeps in a smaller form. */
function quantizable(model: MiniCPMV, frozen: ReadonlySet<string>): number {
  const layers = [...model.llm.namedModules(model.parts.llm)].filter(
    ([name, module]) => module instanceof Linear && /\.layers\.\d+\./.test(name) && frozen.has(`${name}.weight`),
  );
  return layers.reduce((sum, [, module]) => sum + numbersIn([(module as Linear).weight]), 0);
}

/** What a run would train, a line each, for `--dry_run`. */
export function describePlan(plan: TrainingPlan): string[] {
  const share = Number(((100 * plan.trainableNumbers) / plan.totalNumbers).toPrecision(3));
  return [
    ...(plan.places === null ? [] : [placesLine(plan.places)]),
    `${formatCount(plan.trainableNumbers)} of ${formatCount(plan.totalNumbers)} parameters train (${share} %)`,
  ];
}
