/**
 * From the words of a `train` command line to the resolved, frozen RunConfig.
 *
 * Precedence: flag, then recipe, then DeepSpeed file, then default. Whatever is decided for the user on the way ends up
 * in `notices` (something given means less than it seems) or `derived` (a number computed from others).
 */

import { CONFIG_GROUPS, expected, type RunConfig, UserError } from '@minicpm-finetune/run';
import { checkCombinations } from './checks.js';
import { coerce } from './coerce.js';
import { readDeepSpeed } from './deepspeed.js';
import { type Flag, flagsOf, type Given, nameAt, placeOf } from './flags.js';
import { INPUT_FLAGS } from './input-flags.js';
import { OFFICIAL_FLAGS } from './official-flags.js';
import { readRecipe } from './recipe.js';
import { CONFIG_FLAGS } from './run-flags.js';
import { unknownName } from './unknown-name.js';

/** Every flag of `train`, grouped by the headings of its help. */
export const TRAIN_FLAGS: readonly Flag[] = flagsOf({
  input: INPUT_FLAGS,
  ...CONFIG_FLAGS,
  official: OFFICIAL_FLAGS,
});

/** Values for `resolveConfig`: the flags of `minicpm-finetune train` without dashes. */
export type ConfigValues = Readonly<Record<string, unknown>>;

export type ResolvedConfig = ResolvedTrainConfig;

/**
 * The configuration of a training from values in a program, with the defaults, rules and checks of the command line.
 *
 * @throws UserError for an unknown name, a value of the wrong type or outside its limits, and a combination that cannot work
 */
export function resolveConfig(values: ConfigValues): ResolvedConfig {
  const given = new Map<string, Given>();
  for (const [name, value] of Object.entries(values)) {
    if (value === undefined) continue;
    const flag = TRAIN_FLAGS.find((one) => one.name === name);
    const names = TRAIN_FLAGS.map((one) => one.name);
    if (flag === undefined) throw unknownName(name, 'a known flag', names, 'They are those of minicpm-finetune train.');
    given.set(name, { value: coerce(name, flag, value, { kind: 'flag' }), source: { kind: 'flag' } });
  }
  return resolveGiven(given);
}

export interface ResolvedTrainConfig {
  config: RunConfig;
  /** One line each: what was given but means nothing, or less than it seems. */
  notices: string[];
  /** One line each: values computed from others, with their arithmetic. */
  derived: string[];
  /** `--dry_run`: the caller is to print all this and end. */
  dryRun: boolean;
}

/**
 * The configuration that flags mean, which were parsed and checked already.
 *
 * @param worldSize number of processes (torchrun's WORLD_SIZE).
 * @throws UserError
 */
export function resolveGiven(fromFlags: ReadonlyMap<string, Given>, worldSize = 1): ResolvedTrainConfig {
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
  resolveReportTo(given, notices);
  const values = withDefaults(given, derived);
  checkCombinations(values, given, notices);
  const config = assemble(values);
  derived.push(...describeBatch(config, worldSize));
  return { config, notices, derived, dryRun: given.get('dry_run')?.value === true };
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

/** Flags that are other words for a value of another flag: `--bf16` for `--dtype bfloat16`. `false` denies that value. */
const SYNONYMS: Readonly<Record<string, Readonly<Record<string, unknown>>>> = {
  dtype: { bf16: 'bfloat16', fp16: 'float16' },
  device: { use_cpu: 'cpu', no_cuda: 'cpu' },
};

/** Turns synonyms into the flag they stand for. Flags outrank the recipe; two answers of one rank are an error. */
function resolveSynonyms(given: Map<string, Given>): void {
  const renamed = given.get('evaluation_strategy');
  if (renamed !== undefined) answer(given, 'eval_strategy', [{ name: 'evaluation_strategy', ...renamed }]);
  for (const [target, words] of Object.entries(SYNONYMS)) {
    const answers: Answer[] = [];
    for (const [name, value] of Object.entries(words)) {
      const entry = given.get(name);
      if (entry !== undefined) answers.push({ name, source: entry.source, value, denied: entry.value === false });
    }
    answer(given, target, answers);
  }
}

interface Answer extends Given {
  name: string;
  /** The user said that it is not this value. */
  denied?: boolean;
}

function answer(given: Map<string, Given>, target: string, synonyms: readonly Answer[]): void {
  const own = given.get(target);
  const all: Answer[] = own === undefined ? [...synonyms] : [{ name: target, ...own }, ...synonyms];
  const flags = all.filter((entry) => entry.source.kind === 'flag');
  const rank = flags.some((entry) => !entry.denied) ? flags : all.filter((entry) => !deniedBy(flags, entry));
  const chosen = rank.find((entry) => !entry.denied);
  if (chosen === undefined) {
    given.delete(target);
    return;
  }
  const against = rank.find((entry) => (entry.value === chosen.value) === (entry.denied === true));
  if (against !== undefined) {
    const [first, second] = [chosen, against].map((entry) => {
      const shownValue = entry.name in (SYNONYMS[target] ?? {}) ? !entry.denied : entry.value;
      return `${nameAt(entry.name, entry.source)} ${String(shownValue)}`;
    });
    throw new UserError(`Expected one answer for ${target} but received ${first} and ${second}.`, {
      ...placeOf(against.name, against.source),
      cure: 'Leave one of them out.',
    });
  }
  given.set(target, { value: chosen.value, source: chosen.source });
}

/** Whether a flag denies what the recipe says. */
function deniedBy(flags: readonly Answer[], entry: Answer): boolean {
  return entry.source.kind !== 'flag' && flags.some((flag) => flag.denied && flag.value === entry.value);
}

/** The line for a flag that was given but means nothing here; an error if its value would have meant something. */
function noticeOf(flag: Flag, entry: Given | undefined): string[] {
  if (flag.notice === undefined || entry === undefined) return [];
  const name = nameAt(flag.name, entry.source);
  const text = Array.isArray(entry.value) ? entry.value.join(' ') : String(entry.value);
  if (flag.neutral !== undefined && !flag.neutral.includes(text.toLowerCase())) {
    throw expected(flag.neutral[0]!, name, entry.value, {
      ...placeOf(flag.name, entry.source),
      cure: `Leave it out: ${flag.notice}.`,
    });
  }
  return [`${name} ${text}: accepted, without effect: ${flag.notice}.`];
}

/** Loggers of transformers that are accepted but not there. */
const OTHER_LOGGERS =
  'wandb mlflow comet_ml swanlab clearml neptune dvclive trackio azure_ml codecarbon dagshub flyte'.split(' ');

function resolveReportTo(given: Map<string, Given>, notices: string[]): void {
  const entry = given.get('report_to');
  if (entry === undefined) return;
  const names = entry.value as string[];
  const name = nameAt('report_to', entry.source);
  const reports = new Set<string>();
  for (const report of names.flatMap((word) => word.split(','))) {
    if (report === 'tensorboard' || report === 'all') reports.add('tensorboard');
    else if (OTHER_LOGGERS.includes(report)) {
      notices.push(
        `${name} ${report}: accepted, without effect: the log goes to events.jsonl, and to TensorBoard if asked.`,
      );
    } else if (report !== 'none') {
      const cure = 'The log is always in events.jsonl as well.';
      throw expected('tensorboard or none', name, report, { ...placeOf('report_to', entry.source), cure });
    }
  }
  given.set('report_to', { ...entry, value: [...reports] });
}

/** All values of RunConfig by name: given, default or derived. */
function withDefaults(given: ReadonlyMap<string, Given>, derived: string[]): Map<string, unknown> {
  const values = new Map<string, unknown>();
  for (const group of CONFIG_GROUPS) {
    for (const flag of flagsOf({ [group]: CONFIG_FLAGS[group] })) {
      const entry = given.get(flag.name);
      if (entry === undefined && flag.required) throw missing(flag);
      values.set(flag.name, entry === undefined ? flag.default : entry.value);
    }
  }
  const derive = (name: string, value: unknown, reason: string) => {
    if (values.get(name) !== undefined) return;
    values.set(name, value);
    if (reason !== '') derived.push(`${name} = ${Array.isArray(value) ? value.join(' ') : String(value)} (${reason})`);
  };
  const useLora = values.get('use_lora') === true;
  derive('tune_llm', !useLora, useLora ? 'use_lora trains adapters instead' : '');
  const official = values.get('compat') === 'official';
  const saved = [...(official ? ['embed_tokens'] : []), 'resampler', ...(values.get('tune_vision') ? ['vpm'] : [])];
  const embeddings = official ? '' : ', the token embeddings stay as they are: --compat official trains them';
  derive(
    'lora_modules_to_save',
    useLora ? saved : [],
    useLora ? `use_lora with tune_vision ${values.get('tune_vision')}${embeddings}` : '',
  );
  const fused = values.get('fused_backward') === true;
  derive('gradient_checkpointing', fused, fused ? 'fused_backward is for the least memory' : '');
  const bySteps = values.get('eval_strategy') === 'steps';
  derive('eval_steps', bySteps ? values.get('logging_steps') : null, bySteps ? 'logging_steps' : '');
  derive('do_eval', values.get('eval_strategy') !== 'no', '');
  const best = values.get('load_best_model_at_end') === true;
  derive('metric_for_best_model', best ? 'loss' : null, best ? 'load_best_model_at_end' : '');
  const metric = values.get('metric_for_best_model') as string | null;
  values.set('metric_for_best_model', metric?.replace(/^eval_/, '') ?? null);
  derive(
    'greater_is_better',
    metric !== null && !metric.endsWith('loss'),
    metric === null ? '' : `the metric is ${metric}`,
  );
  derive('data_seed', values.get('seed'), '');
  return values;
}

function missing(flag: Flag): UserError {
  return expected('a value', `--${flag.name}`, undefined, {
    flag: `--${flag.name}`,
    cure: `${flag.help} Give it as --${flag.name} <${(flag.placeholder ?? 'value').replace('...', '')}>, or in a recipe.`,
  });
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
