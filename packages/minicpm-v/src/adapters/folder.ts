/**
 * Adapter folders in PEFT's layout, read and written. A folder has `adapter_config.json` (config.ts),
 * `adapter_model.safetensors` and a manifest (manifest.ts). In the file a parameter is called `base_model.model.` and
 * its name in the model; the bias of a layer that carries an adapter gets `base_layer.` in between, because PEFT wraps
 * that layer. Not here: where adapters go and what they compute (lora.ts).
 */
import { mkdirSync, renameSync, writeFileSync } from 'node:fs';
import { basename, join, resolve } from 'node:path';
import { settingsOfVideo } from '@minicpm-finetune/processor';
import { readJson } from '@minicpm-finetune/run';
import {
  type DType,
  keep,
  type Module,
  ops,
  type Parameter,
  scope,
  type TensorSource,
  writeSafetensors,
} from '@minicpm-finetune/torch';
import type { HashProgress } from '../checkpoint/content.js';
import { MiniCPMV } from '../model/minicpm-v.js';
import { baseFingerprint, checkTensors, describeTensors } from './checksums.js';
import { type AdapterConfig, adapterConfigJson, CONFIG_FILE, type ModelClass, readAdapterConfig } from './config.js';
import { changedWhole, checkFinite, idleParts } from './effect.js';
import {
  type AdapterOrigin,
  checkBase,
  checkFamily,
  familyByTensors,
  type ModelOrigin,
  modelOrigin,
  quantizedBase,
} from './family.js';
import {
  type AppliedLora,
  adaptedParameters,
  attachLora,
  freeze,
  loraAdapters,
  markTrainable,
  removeLora,
} from './lora.js';
import { ALL_LINEAR, type LoraOptions, loraConfig, matchesEnd } from './lora-config.js';
import { selectModules } from './lora-targets.js';
import { type AdapterManifest, type BaseFingerprint, MANIFEST_FILE, readManifest } from './manifest.js';
import { PREFIX, readNames } from './names.js';
import { checkSideFiles, WEIGHTS_FILE } from './side-files.js';
import { compareTensors, openAdapterWeights } from './weights-file.js';

/** The checkpoint that an adapter belongs to. */
export interface BaseModel {
  /** Absolute path of the folder. */
  readonly folder: string;
  /** The same, or its name on the hub: where others find it. */
  readonly path: string;
  /** See `baseFingerprint`. */
  readonly fingerprint: string;
  readonly modelClass: ModelClass | null;
}

/** The base of an adapter, read from the checkpoint's folder. All weights are read, unless their hash is remembered. */
export function describeBase(folder: string, onProgress?: HashProgress): BaseModel {
  const path = resolve(folder);
  return { folder: path, path, fingerprint: baseFingerprint(path, 2, onProgress), modelClass: modelClassOf(path) };
}

/** The class that Python makes of a checkpoint: of the code beside it, or of transformers itself; null: the configuration does not say. */
function modelClassOf(folder: string): ModelClass | null {
  const config = readJson(join(folder, 'config.json'), 'config.json') as {
    architectures?: string[];
    auto_map?: Record<string, unknown>;
    model_type?: string;
    text_config?: unknown;
  };
  const [className] = config.architectures ?? [];
  if (className === undefined) return null;
  const names = Object.values(config.auto_map ?? {}).filter((name) => typeof name === 'string');
  const file = names.find((name) => name.endsWith(`.${className}`));
  const library = (parent: string): ModelClass => ({ base_model_class: className, parent_library: parent });
  if (file !== undefined)
    return library(`transformers_modules.${basename(folder)}.${file.slice(0, file.lastIndexOf('.'))}`);
  const type = config.model_type;
  return type === undefined || config.text_config === undefined
    ? null
    : library(`transformers.models.${type}.modeling_${type}`);
}

/** The adapter's parameters by their names in the file. */
export function adapterFileParameters(model: Module, applied: AppliedLora): Map<string, Parameter> {
  const wrapped = new Set(applied.targets.map((name) => `${name}.bias`));
  const fileName = (name: string): string =>
    PREFIX + (wrapped.has(name) ? name.replace(/bias$/, 'base_layer.bias') : name);
  return new Map([...adaptedParameters(model, applied)].map(([name, parameter]) => [fileName(name), parameter]));
}

/**
 * Writes the adapter into `folder` (made if need be), each file under a temporary name first, the manifest last. The manifest has
 * how the model's configuration encodes records, reads pictures and videos: that of the training.
 */
export function saveAdapter(folder: string, model: Module, applied: AppliedLora, base: BaseModel): void {
  mkdirSync(folder, { recursive: true });
  const parameters = adapterFileParameters(model, applied);
  writeSafetensors(
    join(folder, WEIGHTS_FILE),
    new Map([...parameters].map(([name, parameter]) => [name, parameter.data])),
  );
  writeAdapterFiles(folder, model, applied, base);
}

/** Writes what an adapter's folder has beside its tensors, which are there. */
export function writeAdapterFiles(folder: string, model: Module, applied: AppliedLora, base: BaseModel): void {
  const { config } = applied;
  writeJson(
    join(folder, CONFIG_FILE),
    adapterConfigJson(config, targetsForPeft(model, applied), base.path, base.modelClass),
  );
  const origin = originOf(model);
  const manifest: AdapterManifest = {
    format: 2,
    base_model: {
      path: base.path,
      fingerprint: base.fingerprint,
      ...(origin === null ? {} : { model: origin.title, sizes: origin.sizes }),
    },
    ...(model instanceof MiniCPMV ? readingOf(model) : {}),
    ...describeTensors(adapterFileParameters(model, applied).keys(), openAdapterWeights(folder)),
  };
  writeJson(join(folder, MANIFEST_FILE), manifest);
}

const originOf = (model: Module): ModelOrigin | null => (model instanceof MiniCPMV ? modelOrigin(model.config) : null);

function readingOf({
  config: { slice, video, encoding },
}: MiniCPMV): Pick<AdapterManifest, 'slices' | 'videos' | 'encoding'> {
  return {
    slices: { max_slice_nums: slice.maxSliceNums, scale_resolution: slice.scaleResolution },
    ...(video === null ? {} : { videos: settingsOfVideo(video) }),
    encoding: { compat: encoding.compat, thinking: encoding.thinking },
  };
}

/** The names of the modules with an adapter, if PEFT would read the configuration otherwise; null: it selects the same. */
function targetsForPeft(model: Module, { config, targets }: AppliedLora): readonly string[] | null {
  const { targetModules, layersToTransform } = config;
  if (typeof targetModules === 'string' && (layersToTransform !== null || targetModules.toLowerCase() === ALL_LINEAR))
    return targets;
  return selectModules(model, config, false).targets.join() === targets.join() ? null : targets;
}

function writeJson(path: string, value: unknown): void {
  const temporary = `${path}.${process.pid}.tmp`;
  writeFileSync(temporary, `${JSON.stringify(value, null, 2)}\n`);
  renameSync(temporary, path);
}

export interface LoadAdapterOptions {
  /** Gives the base's fingerprint; given, an adapter whose manifest names another one is refused. */
  readonly fingerprint?: BaseFingerprint;
  /** Whether the adapter continues to train. False: everything is frozen. */
  readonly trainable: boolean;
  /** Type of the low-rank parts; absent: that of the weight each one adapts. */
  readonly dtype?: DType;
  /** Dropout of the training that goes on; absent: the adapter's own. */
  readonly dropout?: number;
}

/** An adapter that was read. */
export interface LoadedAdapter extends AppliedLora {
  /** A sentence for each thing about it that a user should know. */
  readonly notices: readonly string[];
  /** Whether anything in it changes the model. */
  readonly changes: boolean;
  /** How the pictures of its training were cut; null: nobody wrote it down. */
  readonly slices: NonNullable<AdapterManifest['slices']> | null;
  /** The same of its videos. */
  readonly videos: NonNullable<AdapterManifest['videos']> | null;
  /** How its records were encoded, likewise. */
  readonly encoding: NonNullable<AdapterManifest['encoding']> | null;
}

/**
 * Puts the adapter in `folder` on a model without adapters. Its saved modules replace the model's own weights.
 *
 * @throws UserError when the folder is no LoRA adapter, asks for what is not supported, has weights in other files, belongs to another
 *   model or base, or has missing, unexpected, misshapen, damaged or not finite tensors; the model then has no adapters, and its weights
 *   are as before.
 */
export function loadAdapter(folder: string, model: Module, options: LoadAdapterOptions): LoadedAdapter {
  const own = originOf(model);
  const origin = inspectAdapter(folder, own);
  const { config, manifest } = origin;
  if (options.fingerprint !== undefined) checkBase(origin, options.fingerprint, own);
  const file = openAdapterWeights(folder);
  const lora = options.dropout === undefined ? config.lora : { ...config.lora, dropout: options.dropout };
  const applied = attachOrExplain(model, lora, file, own);
  try {
    const parameters = adapterFileParameters(model, applied);
    const { source, example, renamed } = readNames(file, new Set(parameters.keys()));
    compareTensors(source, parameters, applied, own);
    if (manifest !== undefined) checkTensors(source, manifest);
    checkFinite(source, parameters.keys());
    const whole = changedWhole(parameters, source);
    fill(model, parameters, source, options.dtype);
    const idle = idleParts(model, applied, whole);
    const notices = [
      ...origin.notices,
      ...(example === null ? [] : [`${renamed} names were read without additions: ${example[0]} as ${example[1]}.`]),
      ...idlePatterns(applied),
      ...(idle.notice === null ? [] : [idle.notice]),
    ];
    if (options.trainable) markTrainable(model, applied);
    else freeze(model);
    return {
      ...applied,
      notices: notices.map((line) => `adapter ${folder}: ${line}`),
      changes: !idle.all,
      slices: manifest?.slices ?? null,
      videos: manifest?.videos ?? null,
      encoding: manifest?.encoding ?? null,
    };
  } catch (error) {
    removeLora(model);
    throw error;
  }
}

/** What the files of an adapter say but for its tensors, and sentences about it. */
interface InspectedAdapter extends AdapterOrigin {
  readonly config: AdapterConfig;
  readonly notices: readonly string[];
}

/** Reads and checks what can be known of an adapter without its tensors. Throws UserErrors as `loadAdapter` does. */
export function inspectAdapter(folder: string, model: ModelOrigin | null): InspectedAdapter {
  const config = readAdapterConfig(folder);
  const manifest = readManifest(folder);
  const aside = checkSideFiles(folder);
  const origin = { folder, config, manifest };
  if (model !== null) checkFamily(origin, model);
  const quantized = quantizedBase(origin);
  return { ...origin, notices: [...config.notices, ...aside, ...(quantized === undefined ? [] : [quantized])] };
}

/** Adapters as they would be on a model: where they go, and their parameters by full name, without data. */
export interface PlannedAdapters extends AppliedLora {
  readonly parameters: ReadonlyMap<string, Parameter>;
}

/**
 * Where new adapters, or those of a folder, would go. The model needs no weights and stays as it is.
 *
 * @throws UserError as `applyLora` and `loadAdapter` do, but for what only tensors show
 */
export function planAdapters(model: Module, lora: LoraOptions | { readonly folder: string }): PlannedAdapters {
  const own = originOf(model);
  const applied =
    'folder' in lora
      ? attachOrExplain(model, inspectAdapter(lora.folder, own).config.lora, openAdapterWeights(lora.folder), own)
      : attachLora(model, loraConfig(lora), true);
  try {
    return { ...applied, parameters: adaptedParameters(model, applied) };
  } finally {
    removeLora(model);
  }
}

/** Attaches the adapter; where its names match nothing because it belongs to another model, that is the error. */
function attachOrExplain(
  model: Module,
  config: AppliedLora['config'],
  file: TensorSource,
  own: ModelOrigin | null,
): AppliedLora {
  try {
    return attachLora(model, config, false);
  } catch (error) {
    removeLora(model);
    const other = own === null ? undefined : familyByTensors(file.infos, own, file.path);
    throw other ?? error;
  }
}

/** Keys of rank_pattern and alpha_pattern that match no layer with an adapter. */
function idlePatterns({ config, targets }: AppliedLora): string[] {
  const idle = (key: string, patterns: Readonly<Record<string, number>>): string[] =>
    Object.entries(patterns)
      .filter(([pattern]) => !targets.some((name) => matchesEnd(pattern, name)))
      .map(
        ([pattern, value]) => `${key} ${pattern}: ${value}: without effect: no layer with an adapter has such a name.`,
      );
  return [...idle('rank_pattern', config.rankPattern), ...idle('alpha_pattern', config.alphaPattern)];
}

/** Gives every parameter its tensor: on the device of the weight it adapts, low-rank parts in `dtype` or that weight's type. */
function fill(
  model: Module,
  parameters: ReadonlyMap<string, Parameter>,
  source: TensorSource,
  dtype: DType | undefined,
): void {
  const beside = new Map<Parameter, { dtype: DType; device: string }>();
  for (const [, linear, adapter] of loraAdapters(model)) {
    const place = scope(() => {
      const { data } = linear.weight; // of a quantized one made here
      return { dtype: dtype ?? data.dtype, device: data.device };
    });
    for (const [, own] of adapter.namedParameters()) beside.set(own, place);
  }
  for (const [name, parameter] of parameters) {
    const place = beside.get(parameter) ?? { dtype: parameter.data.dtype, device: parameter.data.device };
    parameter.data = scope(() => keep(ops.toDevice(source.tensor(name), place.device, place.dtype)));
  }
}
