/**
 * Which model an adapter belongs to. Its manifest says so, or the name of its base, or the shapes of its tensors; an adapter
 * of another model is refused by naming both. No import of torch.
 */
import { join } from 'node:path';
import { type ModelConfig, partOf, VERSIONS } from '@minicpm-finetune/processor';
import { UserError } from '@minicpm-finetune/run';
import { type AdapterConfig, CONFIG_FILE } from './config.js';
import { type AdapterManifest, type BaseFingerprint, MANIFEST_FILE } from './manifest.js';

/** The published name in a folder's name or a hub id. The first that fits counts. */
const NAMES: readonly (readonly [pattern: RegExp, title: string])[] = [
  [/minicpm[-_]?v[-_]?4[._-]?5(?!\d)/i, 'MiniCPM-V-4_5'],
  [/minicpm[-_]?v[-_]?4[._-]?([67])(?!\d)/i, 'MiniCPM-V-4.$1'],
  [/minicpm[-_]?o[-_]?4[._-]?5/i, 'MiniCPM-o-4_5'],
  [/minicpm[-_]?v[-_]?4(?![\d])/i, 'MiniCPM-V-4'],
  [/minicpm[-_]?o[-_]?2[._-]?6/i, 'MiniCPM-o-2_6'],
  [/minicpm[-_]?v[-_]?2[._-]?6/i, 'MiniCPM-V-2_6'],
  [/minicpm[-_]?(?:llama3[-_]?)?v[-_]?2[._-]?5/i, 'MiniCPM-Llama3-V-2_5'],
  [/minicpm[-_]?v[-_]?2(?![\d]|[._-][056])/i, 'MiniCPM-V-2'],
  [/(qwen[\d.]*[-_]?vl|llava|internvl|idefics|paligemma|pixtral|minigpt|cogvlm|glm[-_]?4v|deepseek[-_]?vl)/i, '$1'],
];

/** Widths of the published language models: the inputs of their attention. */
const WIDTHS: Readonly<Record<number, string>> = {
  1024: 'MiniCPM-V-4.6 or MiniCPM-V-4.7',
  2304: 'MiniCPM-V-2',
  2560: 'MiniCPM-V-4',
  3584: 'MiniCPM-V-2_6 or MiniCPM-o-2_6',
  4096: 'MiniCPM-Llama3-V-2_5, MiniCPM-V-4_5 or MiniCPM-o-4_5',
};

const QUANTIZED = /(?:^|[-_./])(int4|int8|4bit|8bit|awq|gptq|gguf|bnb|nf4|fp8)(?=$|[-_./])/i;

/** Names of modules that other models have, and that a model has itself. */
const OTHERS = {
  foreign: /(language_model|visual|vision_tower|mm_projector|multi_modal_projector)\./,
  own: /(^|\.)(llm|vpm|resampler)\./,
};
const OTHERS_THAN_NATIVE = {
  foreign: /(^|\.)(llm|vpm|resampler|visual|mm_projector|multi_modal_projector)\./,
  own: /(^|\.)(language_model|vision_tower|merger)\./,
};

/** What is known of an adapter without its tensors. */
export interface AdapterOrigin {
  readonly folder: string;
  readonly config: Pick<AdapterConfig, 'base' | 'madeFor'>;
  readonly manifest: AdapterManifest | undefined;
}

/** The model as names and sizes, for comparison. */
export interface ModelOrigin {
  readonly title: string;
  /** Whether the model's own names are those of modules that transformers has for many models. */
  readonly isNative: boolean;
  readonly sizes: Readonly<Record<string, number>>;
}

/** The model that a configuration describes. */
export function modelOrigin({ version, llm, vision, pictureTokens }: ModelConfig): ModelOrigin {
  return {
    title: VERSIONS[version].title,
    isNative: VERSIONS[version].config === 'nested',
    sizes: {
      hidden_size: llm.hiddenSize,
      num_hidden_layers: llm.numLayers,
      intermediate_size: llm.intermediateSize,
      vocab_size: llm.vocabSize,
      vision_hidden_size: vision.hiddenSize,
      vision_num_hidden_layers: vision.numLayers,
      ...('queryNum' in pictureTokens && { query_num: pictureTokens.queryNum }),
    },
  };
}

/** The name of the model, by the manifest or the base's name; undefined: neither says. */
function titleOf({ config, manifest }: AdapterOrigin): string | undefined {
  return (
    manifest?.base_model.model ?? titleInPath(manifest?.base_model.path) ?? titleInPath(config.base) ?? classOf(config)
  );
}

/** The last part of a path that names a model. */
function titleInPath(path: string | null | undefined): string | undefined {
  for (const part of (path ?? '').split(/[\\/]/).reverse()) {
    for (const [pattern, title] of NAMES) {
      const match = pattern.exec(part);
      if (match !== null) return title.replace('$1', match[1] ?? '');
    }
  }
  return undefined;
}

const classOf = ({ madeFor }: Pick<AdapterConfig, 'madeFor'>): string | undefined =>
  titleInPath(madeFor.join('/')) ?? (madeFor.includes('MiniCPMO') ? 'MiniCPM-o-2_6' : undefined);

/**
 * Refuses an adapter that its manifest, or the name of its base, says to be of another model than `model`.
 *
 * @throws UserError naming both models
 */
export function checkFamily(origin: AdapterOrigin, model: ModelOrigin): void {
  const { config, manifest, folder } = origin;
  const title = titleOf(origin);
  if (title === undefined || title === model.title) return;
  const base = manifest?.base_model.path ?? config.base;
  const file = manifest === undefined ? CONFIG_FILE : MANIFEST_FILE;
  throw otherFamily(title, model, join(folder, file), [
    base === null ? `Its ${file} says so.` : `Its base is ${base}.`,
    manifest?.base_model.model === undefined && manifest === undefined
      ? 'If that name is wrong, correct base_model_name_or_path in the file.'
      : '',
  ]);
}

function otherFamily(title: string, model: ModelOrigin, file: string, hints: readonly string[]): UserError {
  return new UserError(`Expected an adapter of ${model.title} for this model but received one of ${title}.`, {
    file,
    cure: ['Give the model that it was trained on.', ...hints].filter((hint) => hint !== '').join(' '),
  });
}

/**
 * The error for an adapter whose tensors show another model: by the width of its language model, or by names of modules that no MiniCPM-V
 * has. Undefined: they do not.
 */
export function familyByTensors(
  infos: ReadonlyMap<string, { readonly shape: readonly number[] }>,
  model: ModelOrigin,
  file: string,
): UserError | undefined {
  const names = [...infos.keys()];
  const others = model.isNative ? OTHERS_THAN_NATIVE : OTHERS;
  const foreign = names.find((name) => others.foreign.test(name));
  if (foreign !== undefined && !names.some((name) => others.own.test(name))) {
    return otherFamily('another kind of model', model, file, [`Its tensors have names such as ${foreign}.`]);
  }
  const width = [...infos].find(
    ([name]) =>
      /(^|\.)layers\.\d+\..*[qkv]_proj\.lora_A\./.test(name) &&
      partOf(name.replace(/^base_model\.model\./, '')) !== 'vision',
  )?.[1].shape[1];
  const own = model.sizes.hidden_size;
  if (width === undefined || own === undefined || width === own) return undefined;
  const title = WIDTHS[width];
  if (title === undefined || title.split(/, | or /).includes(model.title)) return undefined;
  return otherFamily(title, model, file, [`Its language model is ${width} wide; this model's is ${own}.`]);
}

/**
 * Refuses another base than the adapter's own, of the same model: by the sizes that differ, or by its weights.
 *
 * @param fingerprintOf gives that of the base, see `baseFingerprint`
 * @throws UserError
 */
export function checkBase(
  { folder, manifest }: AdapterOrigin,
  fingerprintOf: BaseFingerprint,
  model: ModelOrigin | null,
): void {
  if (manifest === undefined) return;
  const fingerprint = fingerprintOf(manifest.format);
  if (manifest.base_model.fingerprint === fingerprint) return;
  const { path, sizes = {}, fingerprint: own } = manifest.base_model;
  const differences = Object.entries(sizes)
    .filter(([name, size]) => model?.sizes[name] !== undefined && model.sizes[name] !== size)
    .map(([name, size]) => `${name} ${size} there and ${model!.sizes[name]} here`);
  const received =
    differences.length > 0
      ? `one of other sizes: ${differences.join(', ')}`
      : `one with other weights (fingerprint ${short(own)} there and ${short(fingerprint)} here)`;
  throw new UserError(`Expected the base that the adapter was trained on, ${path}, but received ${received}.`, {
    file: join(folder, MANIFEST_FILE),
    cure:
      differences.length > 0
        ? 'Give the model that it was trained on.'
        : `The sizes are the same, but the weights were trained further, or are of another revision: give ${path}. To use the adapter on this model all the same, remove the file.`,
  });
}

const short = (fingerprint: string): string => fingerprint.slice(0, fingerprint.indexOf(':') + 1 + 12);

/** A sentence about a base that was quantized; undefined: nothing says so. */
export function quantizedBase({ config }: Pick<AdapterOrigin, 'config'>): string | undefined {
  const kind = QUANTIZED.exec(config.base ?? '')?.[1];
  if (kind === undefined) return undefined;
  return `it was trained on quantized weights (${config.base}): on unquantized ones its answers differ a little from those in training.`;
}
