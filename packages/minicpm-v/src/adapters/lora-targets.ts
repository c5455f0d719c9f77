/**
 * Which modules a LoRA configuration targets. Adapters that exist follow PEFT's rules. For new ones, names without a part
 * (`q_proj`) and `all-linear` mean the language model, and every name and layer has to match something.
 *
 * Not here: the adapters themselves (lora.ts), names and patterns (lora-config.ts). Reference: `check_target_module_exists`
 * of PEFT 0.21.
 */
import { partOf, partPath } from '@minicpm-finetune/processor';
import { nearestName, shown, UserError } from '@minicpm-finetune/run';
import { Embedding, Linear, type Module } from '@minicpm-finetune/torch';
import {
  ALL_LINEAR,
  endsWithName,
  exclusionMatcher,
  inLayers,
  type LoraConfig,
  layerIndex,
  TARGETS_FLAG,
  targetMatcher,
} from './lora-config.js';

const SAVE_FLAG = '--lora_modules_to_save';
const LAYERS_FLAG = '--lora_layers_to_transform';

/** The part of the model that names without a part mean. */
const LANGUAGE_MODEL = 'llm';
/** Linear layers whose adapters PEFT creates but never applies (they are inside of PyTorch's MultiheadAttention): no new ones go there. */
const UNREACHED = /(^|\.)resampler\.attn\.out_proj$/;

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
 * @param strict for new adapters: names and `all-linear` mean the language model, and every name of a list, and every layer index, has to
 *   select something. Otherwise, for adapters that exist, PEFT's rules hold, and only the whole has to select something.
 * @throws UserError when nothing matches, with names that would.
 */
export function selectModules(model: Module, config: LoraConfig, strict: boolean): LoraSelection {
  const modules = modulesOf(model);
  const saved = selectSaved(modules, config.modulesToSave);
  const inside = (name: string): boolean => saved.some((path) => name === path || name.startsWith(`${path}.`));
  const linears = [...modules].filter(([, module]) => module instanceof Linear).map(([name]) => name);
  const free = linears.filter((name) => !inside(name) && !(strict && UNREACHED.test(name)));
  const excluded = exclusionMatcher(config.excludeModules);
  const matches = strict ? inItsPart(modules.keys(), config.targetModules) : targetMatcher(config.targetModules);
  const named = free.filter((name) => matches(name) && !excluded(name));
  const targets = named.filter((name) => inLayers(name, config));
  if (targets.length === 0) throw nothingMatches(modules, free, named, inside, config);
  if (strict) checkEveryName(modules, targets, free, config);
  return { targets, saved };
}

/** The modules of the model itself, by name, whether or not it has adapters (which stand under their layer's name, after it). */
function modulesOf(model: Module): Map<string, Module> {
  const own = [...model.namedModules()].filter(([name]) => name !== '' && !/\.lora_[AB]$/.test(name));
  return new Map([...new Map(own.reverse())].reverse());
}

/** The test for names of new adapters' layers: what names no part means the language model. */
function inItsPart(names: Iterable<string>, targets: LoraConfig['targetModules']): (name: string) => boolean {
  const roots = new Set([...names].flatMap((name) => [name.split('.')[0]!, partPath(name).split('.').at(-1)!]));
  const matches = targetMatcher(targets);
  const inLlm = (name: string): boolean => partOf(name) === LANGUAGE_MODEL;
  if (typeof targets === 'string') {
    return targets.toLowerCase() === ALL_LINEAR ? (name) => inLlm(name) && matches(name) : matches;
  }
  const whole = targets.filter((target) => roots.has(target.split('.')[0]!));
  const bare = targets.filter((target) => !roots.has(target.split('.')[0]!));
  return (name) =>
    whole.some((target) => endsWithName(name, target)) ||
    (inLlm(name) && bare.some((target) => endsWithName(name, target)));
}

/** Modules whose name is, or ends in `.` and, one of `names`; none inside another. */
function selectSaved(modules: ReadonlyMap<string, Module>, names: readonly string[]): string[] {
  const found: string[] = [];
  for (const name of names) {
    const matches = [...modules.keys()].filter((path) => endsWithName(path, name));
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
      { flag: LAYERS_FLAG, cure: `Layers are numbered ${layerRange(named, config)}.` },
    );
  }
  const wanted = targetMatcher(targetModules);
  const others = [...modules].filter(([name]) => wanted(name));
  const hidden = others.find(([name, module]) => module instanceof Linear && inside(name));
  const unreached = others.find(([name]) => UNREACHED.test(name));
  const elsewhere = others.find(([name, module]) => module instanceof Linear && partOf(name) !== LANGUAGE_MODEL);
  const other = others[0];
  const rule =
    typeof targetModules === 'string' ? 'A pattern has to match the whole name' : 'A name is whole, or its last parts';
  let cure = `${rule}; names are such as ${examples(free)}.`;
  if (hidden !== undefined) {
    cure = `${hidden[0]} lies in a module of modules_to_save, which trains whole: take that out, or choose other targets.`;
  } else if (unreached !== undefined) {
    cure = `PEFT would not apply an adapter on ${unreached[0]}: name resampler in ${SAVE_FLAG} to train it whole.`;
  } else if (elsewhere !== undefined) {
    cure = otherPart(elsewhere[0]);
  } else if (other !== undefined) {
    const what = other[1] instanceof Embedding ? 'an embedding' : 'no linear layer';
    cure = `${other[0]} is ${what}: name it in ${SAVE_FLAG} to train it whole. Linear layers are such as ${examples(free)}.`;
  }
  return new UserError(`Expected target_modules to match linear layers but ${shown(targetModules)} matches none.`, {
    flag: TARGETS_FLAG,
    cure,
  });
}

/** How adapters are put on a layer outside of the language model. */
function otherPart(name: string): string {
  const [part, ending] = [partPath(name), name.slice(name.lastIndexOf('.') + 1)];
  const pattern = part.replaceAll('.', '\\.');
  return `Names mean the language model, and ${name} is in ${part}: give the pattern '${pattern}\\..*\\.${ending}', or whole names.`;
}

/** A name or a layer that selects nothing, next to others that do, is a typing mistake. */
function checkEveryName(
  modules: ReadonlyMap<string, Module>,
  targets: readonly string[],
  free: readonly string[],
  config: LoraConfig,
): void {
  const list = typeof config.targetModules === 'string' ? [] : config.targetModules;
  const idle = list.find((name) => !targets.some((target) => endsWithName(target, name)));
  if (idle !== undefined) {
    const near = nearestName(idle, lastParts(free));
    const known = [...modules.keys()].filter((name) => endsWithName(name, idle));
    const elsewhere = known.find((name) => free.includes(name) && partOf(name) !== LANGUAGE_MODEL);
    const otherwise =
      elsewhere !== undefined
        ? otherPart(elsewhere)
        : known.length > 0
          ? 'It is no linear layer outside of modules_to_save and layers_to_transform.'
          : `Names are such as ${examples(free)}.`;
    throw new UserError(`Expected target_modules to match linear layers but ${shown(idle)} matches none.`, {
      flag: TARGETS_FLAG,
      cure: near === undefined || known.length > 0 ? otherwise : `Did you mean ${near}?`,
    });
  }
  const layers = config.layersToTransform ?? [];
  const missing = layers.find((index) => !targets.some((name) => layerIndex(name, config.layersPattern) === index));
  if (missing !== undefined) {
    throw new UserError(`Expected layers_to_transform to select layers of the model but received ${missing}.`, {
      flag: LAYERS_FLAG,
      cure: `Layers are numbered ${layerRange(free.filter(inItsPart(modules.keys(), config.targetModules)), config)}.`,
    });
  }
}

function layerRange(names: readonly string[], { layersPattern }: LoraConfig): string {
  const indices = names.map((name) => layerIndex(name, layersPattern)).filter((index) => index !== undefined);
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
