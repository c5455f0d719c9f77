/**
 * Checks of values against each other, after each was checked by itself: combinations that cannot work are errors,
 * combinations in which one value means nothing are notices.
 */

import {
  METRIC_NAMES,
  resolveScheduleOptions,
  SCHEDULES,
  type SchedulerType,
  shown,
  UserError,
} from '@minicpm-finetune/run';
import { type GivenValues, nameAt, placeOf } from './flags.js';

/** All values of RunConfig by name. */
export type Values = ReadonlyMap<string, unknown>;

/** @throws UserError for the first combination that cannot work. Adds to `notices`. */
export function checkCombinations(values: Values, given: GivenValues, notices: string[]): void {
  const combination = new Combination(values, given, notices);
  checkLora(combination);
  checkEvaluation(combination);
  checkSchedule(combination);
  checkData(combination);
  checkFused(combination);
  checkMetric(combination);
  checkIdle(combination);
}

class Combination {
  readonly notices: string[];
  readonly #values: Values;
  readonly #given: GivenValues;

  constructor(values: Values, given: GivenValues, notices: string[]) {
    this.#values = values;
    this.#given = given;
    this.notices = notices;
  }

  get<T>(name: string): T {
    return this.#values.get(name) as T;
  }

  isGiven(name: string): boolean {
    return this.#given.has(name);
  }

  /** How the user wrote it: `--lora_r 8`. */
  say(name: string): string {
    const source = this.#given.get(name)?.source ?? { kind: 'flag' };
    const value = this.#values.get(name);
    return `${nameAt(name, source)} ${typeof value === 'string' ? value : shown(value)}`;
  }

  refuse(name: string, sentence: string, cure: string): UserError {
    const source = this.#given.get(name)?.source ?? { kind: 'flag' };
    return new UserError(sentence, { ...placeOf(name, source), cure });
  }

  /** Says that a given value has no effect. */
  idle(name: string, why: string): void {
    if (this.isGiven(name)) this.notices.push(`${this.say(name)}: without effect: ${why}.`);
  }
}

function checkLora(c: Combination): void {
  if (c.get('use_lora') && c.get('tune_llm')) {
    throw c.refuse(
      'tune_llm',
      'Expected either --use_lora or --tune_llm but received both.',
      'Adapters take the place of training the language model itself: give --tune_llm false.',
    );
  }
  if (c.get('q_lora') && !c.get('use_lora')) {
    throw c.refuse(
      'q_lora',
      'Expected --use_lora with --q_lora but received --use_lora false.',
      'Quantized weights cannot be trained, only adapters on them: give --use_lora true.',
    );
  }
  const pattern = c.get<string | string[]>('lora_target_modules');
  if (c.get('use_lora') && typeof pattern === 'string') {
    try {
      new RegExp(pattern);
    } catch (cause) {
      throw c.refuse(
        'lora_target_modules',
        `Expected a regular expression for --lora_target_modules but received ${shown(pattern)}: ${(cause as Error).message}.`,
        'Check brackets and backslashes, and quote the pattern in the shell.',
      );
    }
  }
  if (!c.get('tune_vision') && !c.get('use_lora') && !c.get('tune_llm')) {
    c.notices.push('only the resampler trains: tune_vision and tune_llm are false and there is no LoRA.');
  }
}

function checkEvaluation(c: Combination): void {
  const strategy = c.get<string>('eval_strategy');
  const data = c.get<string[]>('eval_data_path');
  const noData = 'Give --eval_data_path <file>.';
  if (strategy !== 'no' && data.length === 0) {
    throw c.refuse(
      'eval_strategy',
      `Expected evaluation data for ${c.say('eval_strategy')} but received none.`,
      noData,
    );
  }
  for (const name of ['do_eval', 'eval_on_start', 'load_best_model_at_end']) {
    if (c.get(name) && data.length === 0) {
      throw c.refuse(name, `Expected evaluation data for --${name} but received none.`, noData);
    }
  }
  if (c.get<number>('eval_generate') > 0 && data.length === 0) {
    throw c.refuse(
      'eval_generate',
      `Expected evaluation data for ${c.say('eval_generate')} but received none.`,
      noData,
    );
  }
  if (data.length > 0 && !c.get('do_eval') && !c.get('eval_on_start')) {
    c.idle('eval_data_path', 'nothing says when to evaluate; give --eval_strategy steps, or --do_eval');
  }
  if (c.get('load_best_model_at_end')) checkBestModel(c);
  for (const name of ['logging_steps', 'eval_steps', 'save_steps']) {
    const steps = c.get<number | null>(name);
    if (steps !== null && steps > 1 && !Number.isInteger(steps)) {
      throw c.refuse(
        name,
        `Expected an integer, or a share below 1, for --${name} but received ${steps}.`,
        `Give --${name} ${Math.round(steps)}.`,
      );
    }
  }
}

/** transformers' rules: the best checkpoint can only be known if every checkpoint was evaluated. */
function checkBestModel(c: Combination): void {
  const [evaluate, save] = [c.get<string>('eval_strategy'), c.get<string>('save_strategy')];
  if (evaluate === 'no' || evaluate !== save) {
    throw c.refuse(
      'load_best_model_at_end',
      `Expected the same strategy for evaluation and saving with --load_best_model_at_end but received --eval_strategy ${evaluate} and --save_strategy ${save}.`,
      'Give both --eval_strategy and --save_strategy the same value, steps or epoch.',
    );
  }
  const [evalSteps, saveSteps] = [c.get<number>('eval_steps'), c.get<number>('save_steps')];
  const ratio = saveSteps / evalSteps;
  const multiple = evalSteps < 1 === saveSteps < 1 && Math.abs(ratio - Math.round(ratio)) < 1e-6 && ratio > 0.5;
  if (evaluate === 'steps' && !multiple) {
    throw c.refuse(
      'load_best_model_at_end',
      `Expected --save_steps to be a multiple of --eval_steps with --load_best_model_at_end but received ${saveSteps} and ${evalSteps}.`,
      `Give --save_steps ${evalSteps < 1 ? evalSteps : evalSteps * Math.max(1, Math.round(ratio))}.`,
    );
  }
}

function checkMetric(c: Combination): void {
  const metric = c.get<string | null>('metric_for_best_model');
  if (metric === null || metric === 'loss') return;
  if (!(METRIC_NAMES as readonly string[]).includes(metric)) {
    const known = ['loss', ...METRIC_NAMES].join(', ');
    const sentence = `Expected one of ${known} for --metric_for_best_model but received ${metric}.`;
    throw c.refuse('metric_for_best_model', sentence, 'Choose one of them.');
  }
  if (c.get<number>('eval_generate') === 0) {
    const sentence = `Expected loss without --eval_generate for --metric_for_best_model but received ${metric}.`;
    const cure = 'The metric needs answers: give --eval_generate 32, or another number of records.';
    throw c.refuse('metric_for_best_model', sentence, cure);
  }
}

function checkSchedule(c: Combination): void {
  const type = c.get<SchedulerType>('lr_scheduler_type');
  resolveScheduleOptions(type, c.get<Record<string, number | string> | null>('lr_scheduler_kwargs') ?? {});
  if (!SCHEDULES[type].warmup && (c.get<number>('warmup_steps') > 0 || c.get<number>('warmup_ratio') > 0)) {
    const name = c.get<number>('warmup_steps') > 0 ? 'warmup_steps' : 'warmup_ratio';
    c.idle(name, `${type} has no warmup; use constant_with_warmup`);
  }
  if (c.get<number>('warmup_steps') > 0) c.idle('warmup_ratio', 'warmup_steps is given, too, and comes first');
  const warmup = c.get<number>('warmup_steps');
  if (warmup > 1 && !Number.isInteger(warmup)) {
    throw c.refuse(
      'warmup_steps',
      `Expected an integer, or a share below 1, for --warmup_steps but received ${warmup}.`,
      `Give --warmup_steps ${Math.round(warmup)}.`,
    );
  }
  const maxSteps = c.get<number>('max_steps');
  if (maxSteps === 0) {
    throw c.refuse(
      'max_steps',
      'Expected -1 or at least 1 for --max_steps but received 0.',
      'Give -1 to go by epochs.',
    );
  }
  if (maxSteps > 0) c.idle('num_train_epochs', `max_steps is ${maxSteps} and comes first`);
}

function checkData(c: Combination): void {
  const files = c.get<string[]>('data_path');
  const weights = c.get<number[] | null>('data_weights');
  if (files.length === 0) {
    throw c.refuse('data_path', 'Expected a file for --data_path but received none.', 'Give --data_path <file>.');
  }
  if (weights !== null && weights.length !== files.length) {
    throw c.refuse(
      'data_weights',
      `Expected ${files.length} numbers for --data_weights, one per training file, but received ${weights.length}.`,
      'Give one weight for each file of --data_path, in the same order.',
    );
  }
}

/** What is updated in the backward pass cannot wait for other micro-batches, nor be taken back. */
function checkFused(c: Combination): void {
  if (!c.get('fused_backward')) return;
  const refuse = (name: string, wanted: string, cure: string): UserError =>
    c.refuse(name, `Expected ${wanted} with --fused_backward but received ${c.say(name)}.`, cure);
  if (c.get<number>('gradient_accumulation_steps') > 1) {
    const cure = 'Gradients are used as they come: give --gradient_accumulation_steps 1 and a larger batch.';
    throw refuse('gradient_accumulation_steps', 'no accumulation', cure);
  }
  if (c.get('on_nonfinite') === 'skip')
    throw refuse('on_nonfinite', 'stop', 'A step that was begun cannot be skipped: give --on_nonfinite stop.');
  if (c.get('dtype') === 'float16')
    throw refuse('dtype', 'bfloat16 or float32', 'A loss scale needs steps that can be skipped: give --bf16.');
  if (c.get<number>('max_grad_norm') > 0)
    c.notices.push(
      `fused_backward: max_grad_norm ${c.get('max_grad_norm')} is applied to the gradients of each block by itself.`,
    );
}

/** Values that were given but that another value makes meaningless. */
function checkIdle(c: Combination): void {
  const without = (needed: boolean, why: string, names: readonly string[]) => {
    if (!needed) for (const name of names) c.idle(name, why);
  };
  const lora = ['lora_r', 'lora_alpha', 'lora_dropout', 'lora_target_modules', 'lora_bias', 'lora_modules_to_save'];
  const more = ['lora_weight_path', 'lora_layers_to_transform', 'use_dora', 'use_rslora', 'loraplus_lr_ratio'];
  without(c.get<boolean>('use_lora'), 'use_lora is false', [...lora, ...more]);
  without(!c.get<boolean>('packing'), 'packing is true', ['group_by_length', 'dataloader_drop_last']);
  without(c.get('cache_vision') !== 'off', 'cache_vision is off', ['cache_vision_limit']);
  without(c.get<boolean>('q_lora'), 'q_lora is false', ['q_lora_type']);
  without(c.get('dtype') === 'bfloat16', `dtype is ${c.get('dtype')}`, ['bf16_master_weights']);
  without(c.get('on_bad_record') === 'skip', 'on_bad_record is stop', ['max_bad_fraction']);
  without(c.get('eval_strategy') === 'steps', `eval_strategy is ${c.get('eval_strategy')}`, ['eval_steps']);
  without(c.get('save_strategy') === 'steps', `save_strategy is ${c.get('save_strategy')}`, ['save_steps']);
  without(c.get('logging_strategy') === 'steps', `logging_strategy is ${c.get('logging_strategy')}`, ['logging_steps']);
  without(c.get('resume_from_checkpoint') !== null, 'nothing is resumed', ['resume_anyway']);
  without(c.get<boolean>('tune_vision'), 'tune_vision is false', ['vision_learning_rate']);
}
