/**
 * Which modules a LoRA configuration targets, by PEFT's rules. Every pattern has to match something.
 *
 * Not here: the adapters themselves (lora.ts). Reference: `check_target_module_exists` of PEFT 0.21.
 */
import { nearestName, shown, UserError } from '@minicpm-finetune/run';
import { Embedding, Linear, type Module } from '@minicpm-finetune/torch';

const TARGETS_FLAG = '--lora_target_modules';
const SAVE_FLAG = '--lora_modules_to_save';
const LAYERS_FLAG = '--lora_layers_to_transform';

/** All linear layers but the output head, as PEFT takes the word. */
export const ALL_LINEAR = 'all-linear';
const OUTPUT_HEAD = /(^|\.)lm_head$/;
/** Linear layers whose adapters PEFT creates but never applies (they are inside of PyTorch's MultiheadAttention): no new ones go there. */
const UNREACHED = /(^|\.)resampler\.attn\.out_proj$/;

/** The configuration of adapters, in PEFT's terms. */
export interface LoraConfig {
  /** Rank. */
  readonly r: number;
  /** The adapter's output is scaled by alpha / r (rsLoRA: alpha / sqrt(r)). */
  readonly alpha: number;
  /** Share of the adapter's inputs that training drops, 0 to below 1. */
  readonly dropout: number;
  /** A regular expression for whole module names, a list of names or name endings, or `all-linear`. */
  readonly targetModules: string | readonly string[];
  /** Modules trained and saved whole, by name or name ending. */
  readonly modulesToSave: readonly string[];
  /** Which biases train: none, all of the model, or those of the layers with an adapter. */
  readonly bias: 'none' | 'all' | 'lora_only';
  readonly useRslora: boolean;
  readonly useDora: boolean;
  /** Only layers of these indices get adapters; null: all. */
  readonly layersToTransform: readonly number[] | null;
  /** Other ranks, by regular expression for the end of the module name. */
  readonly rankPattern: Readonly<Record<string, number>>;
  /** Other alphas, likewise. */
  readonly alphaPattern: Readonly<Record<string, number>>;
}

/** What PEFT's LoraConfig takes for what is not given. */
const LORA_DEFAULTS = {
  dropout: 0,
  modulesToSave: [],
  bias: 'none',
  useRslora: false,
  useDora: false,
  layersToTransform: null,
  rankPattern: {},
  alphaPattern: {},
} satisfies Partial<LoraConfig>;

/** New adapters: rank, alpha and targets have to be chosen, the rest has PEFT's defaults. */
export type LoraOptions = Omit<LoraConfig, keyof typeof LORA_DEFAULTS> & Partial<LoraConfig>;

export function loraConfig(options: LoraOptions): LoraConfig {
  return { ...LORA_DEFAULTS, ...options };
}

/** The selection of a configuration: module names, in the model's order. */
export interface LoraSelection {
  /** Linear layers that get an adapter. */
  readonly targets: readonly string[];
  /** Modules trained and saved whole. */
  readonly saved: readonly string[];
}

/**
 * The modules that `config` selects.
 *
 * @param strict for new adapters: every name of a list, and every layer index, has to select something. Otherwise, for adapters that exist,
 *   only the whole has to.
 * @throws UserError when nothing matches, with names that would.
 */
export function selectModules(model: Module, config: LoraConfig, strict: boolean): LoraSelection {
  const modules = new Map([...model.namedModules()].filter(([name]) => name !== ''));
  const saved = selectSaved(modules, config.modulesToSave);
  const inside = (name: string): boolean => saved.some((path) => name === path || name.startsWith(`${path}.`));
  const linears = [...modules].filter(([, module]) => module instanceof Linear).map(([name]) => name);
  const free = linears.filter((name) => !inside(name) && !(strict && UNREACHED.test(name)));
  const named = free.filter(targetMatcher(config.targetModules));
  const targets = named.filter((name) => inLayers(name, config));
  if (targets.length === 0) throw nothingMatches(modules, free, named, inside, config);
  if (strict) checkEveryName(modules, targets, free, config);
  return { targets, saved };
}

/** Modules whose name is, or ends in `.` and, one of `names`; none inside another. */
function selectSaved(modules: ReadonlyMap<string, Module>, names: readonly string[]): string[] {
  const found: string[] = [];
  for (const name of names) {
    const matches = [...modules.keys()].filter((path) => path === name || path.endsWith(`.${name}`));
    if (matches.length === 0) {
      const near = nearestName(name, lastParts(modules.keys()));
      throw new UserError(`Expected modules_to_save to name modules of the model but received ${shown(name)}.`, {
        flag: SAVE_FLAG,
        cure: near === undefined ? `Names are such as ${examples(modules.keys())}.` : `Did you mean ${near}?`,
      });
    }
    found.push(...matches);
  }
  const unique = [...modules.keys()].filter((path) => found.includes(path));
  return unique.filter((path) => !unique.some((other) => path.startsWith(`${other}.`)));
}

function targetMatcher(targets: string | readonly string[]): (name: string) => boolean {
  if (typeof targets !== 'string') {
    return (name) => targets.some((target) => name === target || name.endsWith(`.${target}`));
  }
  if (targets.toLowerCase() === ALL_LINEAR) return (name) => !OUTPUT_HEAD.test(name);
  let pattern: RegExp;
  try {
    pattern = new RegExp(`^(?:${targets})$`);
  } catch (cause) {
    throw new UserError(`Expected a regular expression for target_modules but received ${shown(targets)}.`, {
      flag: TARGETS_FLAG,
      cure: `${(cause as Error).message}. Write it as JavaScript does, or give a list of names.`,
      cause,
    });
  }
  return (name) => pattern.test(name);
}

/** Whether the first number in the name is one of `layersToTransform`. A list that has the whole name means it whatever the layer. */
function inLayers(name: string, config: LoraConfig): boolean {
  const { layersToTransform: layers, targetModules } = config;
  if (layers === null) return true;
  if (typeof targetModules !== 'string' && targetModules.includes(name)) return true;
  const index = layerIndex(name);
  return index !== undefined && layers.includes(index);
}

function layerIndex(name: string): number | undefined {
  const digits = /^.*?\.[^.]*\.(\d+)\./.exec(name)?.[1];
  return digits === undefined ? undefined : Number(digits);
}

function nothingMatches(
  modules: ReadonlyMap<string, Module>,
  free: readonly string[],
  named: readonly string[],
  inside: (name: string) => boolean,
  config: LoraConfig,
): UserError {
  const { targetModules, layersToTransform } = config;
  if (named.length > 0) {
    return new UserError(
      `Expected layers_to_transform to select layers of the model but received ${shown(layersToTransform)}.`,
      { flag: LAYERS_FLAG, cure: `Layers are numbered ${layerRange(named)}.` },
    );
  }
  const wanted = targetMatcher(targetModules);
  const others = [...modules].filter(([name]) => wanted(name));
  const hidden = others.find(([name, module]) => module instanceof Linear && inside(name));
  const unreached = others.find(([name]) => UNREACHED.test(name));
  const other = others[0];
  const rule =
    typeof targetModules === 'string' ? 'A pattern has to match the whole name' : 'A name is whole, or its last parts';
  let cure = `${rule}; names are such as ${examples(free)}.`;
  if (hidden !== undefined) {
    cure = `${hidden[0]} lies in a module of modules_to_save, which trains whole: take that out, or choose other targets.`;
  } else if (unreached !== undefined) {
    cure = `PEFT would not apply an adapter on ${unreached[0]}: name resampler in ${SAVE_FLAG} to train it whole.`;
  } else if (other !== undefined) {
    const what = other[1] instanceof Embedding ? 'an embedding' : 'no linear layer';
    cure = `${other[0]} is ${what}: name it in ${SAVE_FLAG} to train it whole. Linear layers are such as ${examples(free)}.`;
  }
  return new UserError(`Expected target_modules to match linear layers but ${shown(targetModules)} matches none.`, {
    flag: TARGETS_FLAG,
    cure,
  });
}

/** A name or a layer that selects nothing, next to others that do, is a typing mistake. */
function checkEveryName(
  modules: ReadonlyMap<string, Module>,
  targets: readonly string[],
  free: readonly string[],
  config: LoraConfig,
): void {
  const list = typeof config.targetModules === 'string' ? [] : config.targetModules;
  const idle = list.find((name) => !targets.some((target) => target === name || target.endsWith(`.${name}`)));
  if (idle !== undefined) {
    const near = nearestName(idle, lastParts(free));
    const known = [...modules.keys()].some((name) => name === idle || name.endsWith(`.${idle}`));
    const otherwise = known
      ? 'It is no linear layer outside of modules_to_save and layers_to_transform.'
      : `Names are such as ${examples(free)}.`;
    throw new UserError(`Expected target_modules to match linear layers but ${shown(idle)} matches none.`, {
      flag: TARGETS_FLAG,
      cure: near === undefined || known ? otherwise : `Did you mean ${near}?`,
    });
  }
  const layers = config.layersToTransform ?? [];
  const missing = layers.find((index) => !targets.some((name) => layerIndex(name) === index));
  if (missing !== undefined) {
    throw new UserError(`Expected layers_to_transform to select layers of the model but received ${missing}.`, {
      flag: LAYERS_FLAG,
      cure: `Layers are numbered ${layerRange(free.filter(targetMatcher(config.targetModules)))}.`,
    });
  }
}

function layerRange(names: readonly string[]): string {
  const indices = names.map(layerIndex).filter((index) => index !== undefined);
  return indices.length === 0 ? 'not at all in these modules' : `0 to ${Math.max(...indices)}`;
}

function lastParts(names: Iterable<string>): string[] {
  return [...new Set([...names].map((name) => name.slice(name.lastIndexOf('.') + 1)))];
}

/** A few names of different kinds. */
function examples(names: Iterable<string>): string {
  const byLast = new Map([...names].reverse().map((name) => [name.slice(name.lastIndexOf('.') + 1), name]));
  return [...byLast.values()].reverse().slice(0, 4).join(', ');
}
