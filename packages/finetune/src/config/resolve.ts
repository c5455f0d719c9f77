/**
 * From given flags to the resolved, frozen RunConfig.
 *
 * Precedence: flag, then recipe, then DeepSpeed file, then the adapter that goes on, then default. Whatever is decided for the user on the way ends up
 * in `notices` (something given means less than it seems) or `derived` (a number computed from others).
 */
import {
  CONFIG_FLAGS,
  CONFIG_GROUPS,
  type ConfigGroup,
  coerce,
  expected,
  type Flag,
  nameAt,
  placeOf,
  type RunConfig,
  UserError,
  type ValuesOf,
} from '@minicpm-finetune/run';
import { fromAdapter } from './adapter.js';
import { checkCombinations } from './checks.js';
import { readDeepSpeed } from './deepspeed.js';
import { withDefaults } from './defaults.js';
import type { Given, GivenValues } from './flags.js';
import type { INPUT_FLAGS } from './input-flags.js';
import { readRecipe } from './recipe.js';
import { resolveReportTo, resolveSynonyms } from './synonyms.js';
import { TRAIN_FLAGS } from './train-flags.js';
import { unknownKey } from './unknown-name.js';

type Intersection<U> = (U extends unknown ? (u: U) => void : never) extends (i: infer I) => void ? I : never;

/**
 * Values for `resolveConfig`: the flags of `minicpm-finetune train` without dashes, with `recipe` (a file with more of them), `deepspeed`
 * and the short forms such as `bf16`.
 */
export type ConfigValues = Intersection<
  { [G in ConfigGroup]: Partial<ValuesOf<(typeof CONFIG_FLAGS)[G]>> }[ConfigGroup]
> &
  Partial<Omit<ValuesOf<typeof INPUT_FLAGS>, 'dry_run'>>;

export interface ResolveOptions {
  /** Number of processes that share the run. Default 1. */
  readonly worldSize?: number;
}

export interface ResolvedConfig {
  readonly config: RunConfig;
  /** One line each: what was given but means nothing, or less than it seems. */
  readonly notices: readonly string[];
  /** One line each: values computed from others, with their arithmetic. */
  readonly derived: readonly string[];
}

/** Configurations made here, with the files that they were read from. */
const RESOLVED = new WeakMap<RunConfig, readonly string[]>();

/**
 * The configuration of a training from values in a program, with the defaults, rules and checks of the command line.
 *
 *     const { config } = resolveConfig({ recipe: 'invoices.yaml', learning_rate: 1e-5 });
 *
 * @throws UserError for an unknown name, a value of the wrong type or outside its limits, and a combination that cannot work.
 */
export function resolveConfig(values: ConfigValues, options: ResolveOptions = {}): ResolvedConfig {
  const flags = new Map(TRAIN_FLAGS.filter(({ name }) => name !== 'dry_run').map((flag) => [flag.name, flag]));
  const given = new Map<string, Given>();
  for (const [name, value] of Object.entries(values)) {
    if (value === undefined) continue;
    const flag = flags.get(name);
    if (flag === undefined) throw unknownKey(name, 'resolveConfig', [...flags.values()]);
    given.set(name, { value: coerce(name, flag, value, { kind: 'flag' }), source: { kind: 'flag' } });
  }
  return resolveGiven(given, options);
}

/**
 * Refuses a configuration that `resolveConfig` did not make: its values may never have been checked.
 *
 * @throws UserError
 */
export function requireResolved(config: RunConfig): void {
  if (RESOLVED.has(config)) return;
  throw new UserError('Expected a configuration made by resolveConfig but received another object.', {
    cure: 'Give the values to resolveConfig, and pass on the `config` that it returns.',
  });
}

/** The files that a configuration was read from: a recipe, a DeepSpeed file, whichever of them names the other. */
export function filesBehind(config: RunConfig): readonly string[] {
  return RESOLVED.get(config) ?? [];
}

/**
 * The configuration that flags mean, which were parsed and checked already.
 *
 * @throws UserError
 */
export function resolveGiven(fromFlags: GivenValues, options: ResolveOptions = {}): ResolvedConfig {
  const { worldSize = 1 } = options;
  const notices: string[] = [];
  const derived: string[] = [];
  const given = withRecipe(fromFlags);
  resolveSynonyms(given);
  const deepspeed = given.get('deepspeed')?.value;
  if (typeof deepspeed === 'string') {
    const read = readDeepSpeed(deepspeed, given);
    for (const [name, value] of read.values) given.set(name, value);
    notices.push(...read.notices);
    checkTrainBatchSize(deepspeed, read.trainBatchSize, given, worldSize, notices);
  }
  for (const flag of TRAIN_FLAGS) notices.push(...noticeOf(flag, given.get(flag.name)));
  notices.push(...resolveReportTo(given));
  const adapter = fromAdapter(given);
  for (const [name, value] of adapter.values) given.set(name, value);
  notices.push(...adapter.notices);
  const values = withDefaults(given, derived);
  notices.push(...checkCombinations(values, given));
  const config = assemble(values);
  const files = ['recipe', 'config', 'deepspeed'].map((name) => given.get(name)?.value);
  RESOLVED.set(
    config,
    files.filter((file) => typeof file === 'string'),
  );
  derived.push(...describeBatch(config, worldSize));
  return { config, notices, derived };
}

function withRecipe(fromFlags: ReadonlyMap<string, Given>): Map<string, Given> {
  const recipe = fromFlags.get('recipe') ?? fromFlags.get('config');
  if (fromFlags.has('recipe') && fromFlags.has('config')) {
    throw new UserError('Expected one recipe but received both --recipe and --config.', {
      flag: '--config',
      cure: 'They mean the same; leave one out.',
    });
  }
  if (typeof recipe?.value !== 'string') return new Map(fromFlags);
  const outer = TRAIN_FLAGS.filter((flag) => !['recipe', 'config', 'dry_run'].includes(flag.name));
  return new Map([...readRecipe(recipe.value, outer), ...fromFlags]);
}

/** The line for a flag that was given but means nothing here; an error if its value would have meant something. */
function noticeOf(flag: Flag, entry: Given | undefined): string[] {
  if (flag.notice === undefined || entry === undefined) return [];
  const name = nameAt(flag.name, entry.source);
  const text = Array.isArray(entry.value) ? entry.value.join(' ') : String(entry.value);
  if (flag.neutral !== undefined && !flag.neutral.includes(text.toLowerCase())) {
    throw expected(flag.neutral[0]!, name, entry.value, {
      ...placeOf(flag.name, entry.source),
      cure: `Leave it out: ${flag.notice.en}.`,
    });
  }
  return [`${name} ${text}: accepted, without effect: ${flag.notice.en}.`];
}

function assemble(values: ReadonlyMap<string, unknown>): RunConfig {
  const groups = CONFIG_GROUPS.map((group) => {
    const entries = Object.keys(CONFIG_FLAGS[group]).map((name) => [name, values.get(name)]);
    return [group, Object.fromEntries(entries)];
  });
  return deepFreeze(structuredClone(Object.fromEntries(groups))) as RunConfig;
}

function deepFreeze<T>(value: T): T {
  if (typeof value === 'object' && value !== null) {
    for (const item of Object.values(value)) deepFreeze(item);
    Object.freeze(value);
  }
  return value;
}

/** The lines of arithmetic that need no data; those that do are made by `derive`. */
function describeBatch(config: RunConfig, worldSize: number): string[] {
  const { per_device_train_batch_size: size, gradient_accumulation_steps: steps, packing } = config.batch;
  const lines = [
    `total batch = ${size} ${packing ? 'packed sequences' : 'records'} × ${steps} accumulation × ${worldSize} device${worldSize === 1 ? '' : 's'} = ${size * steps * worldSize}`,
  ];
  const { use_lora, use_rslora, lora_alpha: alpha, lora_r: r } = config.lora;
  if (use_lora) {
    const scale = use_rslora ? alpha / Math.sqrt(r) : alpha / r;
    lines.push(`LoRA scale = ${alpha} / ${use_rslora ? `sqrt(${r})` : r} = ${Number(scale.toPrecision(6))}`);
  }
  return lines;
}

function checkTrainBatchSize(
  file: string,
  inFile: number | undefined,
  given: ReadonlyMap<string, Given>,
  worldSize: number,
  notices: string[],
): void {
  const count = (name: 'per_device_train_batch_size' | 'gradient_accumulation_steps') =>
    (given.get(name)?.value ?? CONFIG_FLAGS.batch[name].default) as number;
  const total = count('per_device_train_batch_size') * count('gradient_accumulation_steps') * worldSize;
  if (inFile === undefined || inFile === total) return;
  notices.push(
    `--deepspeed ${file}: train_batch_size is ${inFile}, but per_device_train_batch_size × gradient_accumulation_steps × ` +
      `devices is ${total} and wins (transformers would have refused to start).`,
  );
}
