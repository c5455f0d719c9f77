/**
 * The configuration of adapters, in PEFT's terms. Also what its names and patterns match. Names only: no tensors, and no
 * import of torch, so that a command line can be checked before libtorch is loaded.
 *
 * Not here: which modules of a model they select (lora-targets.ts), the file (config.ts). Reference: PEFT 0.21.
 */
import { shown, UserError } from '@minicpm-finetune/run';

export const TARGETS_FLAG = '--lora_target_modules';

/** All linear layers, as PEFT takes the word. */
export const ALL_LINEAR = 'all-linear';
const OUTPUT_HEAD = /(^|\.)lm_head$/;

/** The configuration of adapters. */
export interface LoraConfig {
  /** Rank. */
  readonly r: number;
  /** The adapter's output is scaled by alpha / r (rsLoRA: alpha / sqrt(r)). */
  readonly alpha: number;
  /** Share of the adapter's inputs that training drops, 0 to below 1. */
  readonly dropout: number;
  /** A regular expression for whole module names, a list of names or name endings, or `all-linear`. */
  readonly targetModules: string | readonly string[];
  /** Modules that are left out although they are targets, written in the same way. */
  readonly excludeModules: string | readonly string[] | null;
  /** Modules trained and saved whole, by name or name ending. */
  readonly modulesToSave: readonly string[];
  /** Which biases train: none, all of the model, or those of the layers with an adapter. */
  readonly bias: 'none' | 'all' | 'lora_only';
  readonly useRslora: boolean;
  readonly useDora: boolean;
  /** Only layers of these indices get adapters; null: all. */
  readonly layersToTransform: readonly number[] | null;
  /** Names before the number of a layer; empty: any. */
  readonly layersPattern: readonly string[];
  /** Other ranks, by regular expression for the end of the module name. */
  readonly rankPattern: Readonly<Record<string, number>>;
  /** Other alphas, likewise. */
  readonly alphaPattern: Readonly<Record<string, number>>;
}

/** What PEFT's LoraConfig takes for what is not given. */
const LORA_DEFAULTS = {
  dropout: 0,
  excludeModules: null,
  modulesToSave: [],
  bias: 'none',
  useRslora: false,
  useDora: false,
  layersToTransform: null,
  layersPattern: [],
  rankPattern: {},
  alphaPattern: {},
} satisfies Partial<LoraConfig>;

/** New adapters: rank, alpha and targets have to be chosen, the rest has PEFT's defaults. */
export type LoraOptions = Omit<LoraConfig, keyof typeof LORA_DEFAULTS> & Partial<LoraConfig>;

export function loraConfig(options: LoraOptions): LoraConfig {
  return { ...LORA_DEFAULTS, ...options };
}

/** Whether a name is `wanted`, or ends in it. */
export const endsWithName = (name: string, wanted: string): boolean => name === wanted || name.endsWith(`.${wanted}`);

/**
 * The test for names of linear layers that target_modules makes.
 *
 * @throws UserError for a regular expression that is none
 */
export function targetMatcher(targets: LoraConfig['targetModules']): (name: string) => boolean {
  if (typeof targets !== 'string') return (name) => targets.some((target) => endsWithName(name, target));
  if (targets.toLowerCase() === ALL_LINEAR) return (name) => !OUTPUT_HEAD.test(name);
  const pattern = wholeName(targets, 'target_modules', TARGETS_FLAG);
  return (name) => pattern.test(name);
}

/** The test that exclude_modules makes. @throws UserError for a regular expression that is none */
export function exclusionMatcher(exclude: LoraConfig['excludeModules']): (name: string) => boolean {
  if (exclude === null || exclude.length === 0) return () => false;
  if (typeof exclude !== 'string') return (name) => exclude.some((one) => endsWithName(name, one));
  const pattern = wholeName(exclude, 'exclude_modules');
  return (name) => pattern.test(name);
}

function wholeName(text: string, key: string, flag?: string): RegExp {
  return compiled(`^(?:${text})$`, text, key, flag);
}

function compiled(expression: string, text: string, key: string, flag?: string): RegExp {
  try {
    return new RegExp(expression);
  } catch (cause) {
    throw new UserError(`Expected a regular expression for ${key} but received ${shown(text)}.`, {
      ...(flag === undefined ? {} : { flag }),
      cure: `${(cause as Error).message}. Write it as JavaScript does, or give a list of names.`,
      cause,
    });
  }
}

/** Whether the name's layer is one of layers_to_transform. A list that has the whole name means it whatever the layer. */
export function inLayers(name: string, config: LoraConfig): boolean {
  const { layersToTransform: layers, targetModules, layersPattern } = config;
  if (layers === null || layers.length === 0) return true;
  if (typeof targetModules !== 'string' && targetModules.includes(name)) return true;
  const index = layerIndex(name, layersPattern);
  return index !== undefined && layers.includes(index);
}

/** The number of the layer in a module's name; undefined: it lies in no layer. `patterns`: only behind these names. */
export function layerIndex(name: string, patterns: readonly string[] = []): number | undefined {
  if (patterns.length === 0) return numberOf(/^.*?\.[^.]*\.(\d+)\./.exec(name)?.[1]);
  const matches = patterns.map((pattern) =>
    compiled(`^.*\\.(?:${pattern})\\.(\\d+)\\.`, pattern, 'layers_pattern').exec(name),
  );
  return numberOf(matches.find((match) => match !== null)?.at(-1));
}

const numberOf = (digits: string | undefined): number | undefined =>
  digits === undefined ? undefined : Number(digits);

/** Whether a key of rank_pattern or alpha_pattern matches the end of a name. @throws UserError for a regular expression that is none */
export function matchesEnd(pattern: string, name: string): boolean {
  return compiled(`^(?:.*\\.)?(?:${pattern})$`, pattern, 'rank_pattern and alpha_pattern').test(name);
}

/** The value of the first pattern that matches the end of the name, as PEFT's rank_pattern works. */
export function byPattern(patterns: Readonly<Record<string, number>>, name: string): number | undefined {
  return Object.entries(patterns).find(([pattern]) => matchesEnd(pattern, name))?.[1];
}

/** `alpha / r` or `alpha / sqrt(r)`: what the output of an adapter is multiplied by. */
export function loraScale({ r, alpha, useRslora }: Pick<LoraConfig, 'r' | 'alpha' | 'useRslora'>): number {
  return alpha / (useRslora ? Math.sqrt(r) : r);
}
