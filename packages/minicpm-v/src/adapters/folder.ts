/**
 * Adapter folders in PEFT's layout, read and written. A folder has `adapter_config.json` (config.ts),
 * `adapter_model.safetensors` and a manifest (manifest.ts). In the file a parameter is called `base_model.model.` and
 * its name in the model; the bias of a layer that carries an adapter gets `base_layer.` in between, because PEFT wraps
 * that layer. Not here: where adapters go and what they compute (lora.ts).
 */
import { mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { basename, join, resolve } from 'node:path';
import { UserError } from '@minicpm-finetune/run';
import {
  type DType,
  keep,
  type Module,
  ops,
  type Parameter,
  SafetensorsError,
  SafetensorsFile,
  scope,
  type TensorSource,
  writeSafetensors,
} from '@minicpm-finetune/torch';
import type { HashProgress } from '../checkpoint/content.js';
import { adapterConfigJson, CONFIG_FILE, type ModelClass, readAdapterConfig } from './config.js';
import {
  type AppliedLora,
  adaptedParameters,
  attachLora,
  freeze,
  loraAdapters,
  markTrainable,
  removeLora,
} from './lora.js';
import {
  type BaseFingerprint,
  baseFingerprint,
  checkBase,
  checkTensors,
  MANIFEST_FILE,
  makeManifest,
  readManifest,
} from './manifest.js';

const WEIGHTS_FILE = 'adapter_model.safetensors';
const PREFIX = 'base_model.model.';

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
  const config = JSON.parse(readFileSync(join(path, 'config.json'), 'utf8')) as {
    architectures?: string[];
    auto_map?: Record<string, string>;
  };
  const className = config.architectures?.[0];
  const file = Object.values(config.auto_map ?? {}).find((name) => name.endsWith(`.${className}`));
  const modelClass =
    className === undefined || file === undefined
      ? null
      : {
          base_model_class: className,
          parent_library: `transformers_modules.${basename(path)}.${file.slice(0, file.lastIndexOf('.'))}`,
        };
  return { folder: path, path, fingerprint: baseFingerprint(path, 2, onProgress), modelClass };
}

/** The adapter's parameters by their names in the file. */
export function adapterFileParameters(model: Module, applied: AppliedLora): Map<string, Parameter> {
  const wrapped = new Set(applied.targets.map((name) => `${name}.bias`));
  const fileName = (name: string): string =>
    PREFIX + (wrapped.has(name) ? name.replace(/bias$/, 'base_layer.bias') : name);
  return new Map([...adaptedParameters(model, applied)].map(([name, parameter]) => [fileName(name), parameter]));
}

/** Writes the adapter into `folder` (made if need be), each file under a temporary name first, the manifest last. */
export function saveAdapter(folder: string, model: Module, applied: AppliedLora, base: BaseModel): void {
  mkdirSync(folder, { recursive: true });
  const parameters = adapterFileParameters(model, applied);
  const tensors = new Map([...parameters].map(([name, parameter]) => [name, parameter.data]));
  writeSafetensors(join(folder, WEIGHTS_FILE), tensors);
  writeJson(join(folder, CONFIG_FILE), adapterConfigJson(applied, base.path, base.modelClass));
  writeJson(join(folder, MANIFEST_FILE), makeManifest(base, tensors));
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
}

/**
 * Puts the adapter in `folder` on a model without adapters. Its saved modules replace the model's own weights.
 *
 * @throws UserError when the folder is no LoRA adapter, belongs to another base, or has missing, unexpected, misshapen or damaged
 *   tensors; the model then has no adapters, and its weights are as before.
 */
export function loadAdapter(folder: string, model: Module, options: LoadAdapterOptions): AppliedLora {
  const { lora } = readAdapterConfig(folder);
  const manifest = readManifest(folder);
  if (manifest !== undefined && options.fingerprint !== undefined) checkBase(folder, manifest, options.fingerprint);
  const source = openAdapterWeights(folder);
  const applied = attachLora(model, lora, false);
  try {
    const parameters = adapterFileParameters(model, applied);
    compareTensors(source, parameters, applied);
    if (manifest !== undefined) checkTensors(source, manifest);
    fill(model, parameters, source, options.dtype);
  } catch (error) {
    removeLora(model);
    throw error;
  }
  if (options.trainable) markTrainable(model, applied);
  else freeze(model);
  return applied;
}

/** The tensors of the adapter in a folder. Throws UserError for a file that is missing or damaged. */
export function openAdapterWeights(folder: string): TensorSource {
  const file = join(folder, WEIGHTS_FILE);
  try {
    return new SafetensorsFile(file);
  } catch (cause) {
    const missing = (cause as NodeJS.ErrnoException).code === 'ENOENT';
    if (!missing && !(cause instanceof SafetensorsError)) throw cause;
    throw new UserError(
      `Expected the weights of the adapter but ${missing ? 'the file is missing' : (cause as Error).message}.`,
      {
        file,
        cure: 'Copy the adapter again; weights in other formats (adapter_model.bin) have to be converted with PEFT.',
        cause,
      },
    );
  }
}

/** Under bias "all" PEFT writes the biases of saved modules three times; these are the two that nothing reads. */
function isDuplicate(name: string, applied: AppliedLora): boolean {
  return applied.config.bias === 'all' && /\.(original_module|modules_to_save\.[^.]+)\.(.*\.)?bias$/.test(name);
}

function compareTensors(source: TensorSource, parameters: ReadonlyMap<string, Parameter>, applied: AppliedLora): void {
  const missing = [...parameters.keys()].filter((name) => !source.infos.has(name));
  const unexpected = [...source.infos.keys()].filter((name) => !parameters.has(name) && !isDuplicate(name, applied));
  const misshapen = [...parameters].flatMap(([name, { shape }]) => {
    const found = source.infos.get(name)?.shape ?? shape;
    const same = found.length === shape.length && shape.every((size, i) => size === found[i]);
    return same ? [] : [`${name}: [${shape.join(', ')}] expected, [${found.join(', ')}] received`];
  });
  const problems = [
    ...describe('missing', missing),
    ...describe('unexpected', unexpected),
    ...describe('of another shape', misshapen),
  ];
  if (problems.length === 0) return;
  throw new UserError(
    `Expected ${parameters.size} tensors for the adapter on this model but received ${source.infos.size}: ${problems.join('; ')}.`,
    {
      file: source.path,
      cure: 'The adapter belongs to another base model, or the file was edited: give the model it was trained on.',
    },
  );
}

const LISTED = 5;

function describe(what: string, names: readonly string[]): string[] {
  if (names.length === 0) return [];
  const rest = names.length > LISTED ? `, and ${names.length - LISTED} more` : '';
  return [`${names.length} ${what} (${names.slice(0, LISTED).join(', ')}${rest})`];
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
    const { data } = linear.weight;
    for (const [, own] of adapter.namedParameters())
      beside.set(own, { dtype: dtype ?? data.dtype, device: data.device });
  }
  for (const [name, parameter] of parameters) {
    const place = beside.get(parameter) ?? { dtype: parameter.data.dtype, device: parameter.data.device };
    parameter.data = scope(() => keep(ops.toDevice(source.tensor(name), place.device, place.dtype)));
  }
}
