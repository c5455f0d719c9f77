/**
 * Checks of values against each other. Each value was checked by itself before. Combinations that cannot work are
 * errors; combinations in which one value has no effect are notices. Whatever can be known from the configuration alone
 * is checked here.
 */
import {
  METRIC_NAMES,
  nameAt,
  PREFERENCE_METRICS,
  type Problem,
  placeOf,
  type SchedulerType,
  scheduleProblem,
  shown,
  UserError,
} from '@minicpm-finetune/run';
import type { GivenValues } from './flags.js';
import { idleNotices } from './idle.js';
import { TRAIN_FLAGS } from './train-flags.js';

/** All values of RunConfig by name. */
export type Values = ReadonlyMap<string, unknown>;

/**
 * @returns notices.
 * @throws UserError for the first combination that cannot work.
 */
export function checkCombinations(values: Values, given: GivenValues): string[] {
  const combination = new Combination(values, given);
  checkLora(combination);
  checkEvaluation(combination);
  checkIntervals(combination);
  checkSchedule(combination);
  checkData(combination);
  checkFused(combination);
  checkOffload(combination);
  checkMetric(combination);
  checkPreference(combination);
  return [...combination.notices, ...idleNotices(TRAIN_FLAGS, values, given)];
}

class Combination {
  readonly notices: string[] = [];
  readonly values: Values;
  readonly #given: GivenValues;

  constructor(values: Values, given: GivenValues) {
    this.values = values;
    this.#given = given;
  }

  get<T>(name: string): T {
    return this.values.get(name) as T;
  }

  isGiven(name: string): boolean {
    return this.#given.has(name);
  }

  /** How the user wrote it: `--lora_r 8`. */
  say(name: string): string {
    const source = this.#given.get(name)?.source ?? { kind: 'flag' };
    const value = this.values.get(name);
    return `${nameAt(name, source)} ${typeof value === 'string' ? value : shown(value)}`;
  }

  /** The error for a combination that cannot work, at the place where `name` was given. */
  refuse(name: string, { expected, received, cure }: Problem): UserError {
    const source = this.#given.get(name)?.source ?? { kind: 'flag' };
    return new UserError(`Expected ${expected} but received ${received}.`, { ...placeOf(name, source), cure });
  }

  notice(text: string): void {
    this.notices.push(text);
  }
}

function checkLora(c: Combination): void {
  if (c.get('use_lora') && c.get('tune_llm')) {
    throw c.refuse('tune_llm', {
      expected: 'either --use_lora or --tune_llm',
      received: 'both',
      cure: 'Adapters take the place of training the language model itself: give --tune_llm false.',
    });
  }
  if (c.get('q_lora') && !c.get('use_lora')) {
    throw c.refuse('q_lora', {
      expected: '--use_lora with --q_lora',
      received: '--use_lora false',
      cure: 'Quantized weights cannot be trained, only adapters on them: give --use_lora true.',
    });
  }
  const pattern = c.get<string | string[]>('lora_target_modules');
  if (c.get('use_lora') && typeof pattern === 'string') {
    try {
      new RegExp(pattern);
    } catch (cause) {
      throw c.refuse('lora_target_modules', {
        expected: 'a regular expression for --lora_target_modules',
        received: `${shown(pattern)}: ${(cause as Error).message}`,
        cure: 'Check brackets and backslashes, and quote the pattern in the shell.',
      });
    }
  }
  const saved = c.get<readonly string[]>('lora_modules_to_save');
  if (
    c.get('use_lora') &&
    c.isGiven('tune_vision') &&
    c.get('tune_vision') &&
    !saved.some((name) => /^vpm\b/.test(name))
  ) {
    const named = saved.length === 0 ? 'empty' : saved.join(' ');
    c.notice(`${c.say('tune_vision')}: without effect: lora_modules_to_save is ${named}, without vpm.`);
  }
  if (!c.get('tune_vision') && !c.get('use_lora') && !c.get('tune_llm')) {
    c.notice('only the resampler trains: tune_vision and tune_llm are false and there is no LoRA.');
  }
}

function checkEvaluation(c: Combination): void {
  const refuse = (name: string, what: string): UserError =>
    c.refuse(name, {
      expected: `evaluation data for ${what}`,
      received: 'none',
      cure: 'Give --eval_data_path <file>.',
    });
  if (c.get<string[]>('eval_data_path').length === 0) {
    if (c.get('eval_strategy') !== 'no') throw refuse('eval_strategy', c.say('eval_strategy'));
    for (const name of ['do_eval', 'eval_on_start', 'load_best_model_at_end']) {
      if (c.get(name)) throw refuse(name, `--${name}`);
    }
    if (c.get<number>('eval_generate') > 0) throw refuse('eval_generate', c.say('eval_generate'));
  }
  if (c.get('load_best_model_at_end')) checkBestModel(c);
}

/** transformers' rules: the best checkpoint can only be known if every checkpoint was evaluated. */
function checkBestModel(c: Combination): void {
  const [evaluate, save] = [c.get<string>('eval_strategy'), c.get<string>('save_strategy')];
  if (evaluate === 'no' || evaluate !== save) {
    throw c.refuse('load_best_model_at_end', {
      expected: 'the same strategy for evaluation and saving with --load_best_model_at_end',
      received: `--eval_strategy ${evaluate} and --save_strategy ${save}`,
      cure: 'Give both --eval_strategy and --save_strategy the same value, steps or epoch.',
    });
  }
  const [evalSteps, saveSteps] = [c.get<number>('eval_steps'), c.get<number>('save_steps')];
  const ratio = saveSteps / evalSteps;
  const multiple = evalSteps < 1 === saveSteps < 1 && Math.abs(ratio - Math.round(ratio)) < 1e-6 && ratio > 0.5;
  if (evaluate === 'steps' && !multiple) {
    throw c.refuse('load_best_model_at_end', {
      expected: '--save_steps to be a multiple of --eval_steps with --load_best_model_at_end',
      received: `${saveSteps} and ${evalSteps}`,
      cure: `Give --save_steps ${evalSteps < 1 ? evalSteps : evalSteps * Math.max(1, Math.round(ratio))}.`,
    });
  }
}

function checkIntervals(c: Combination): void {
  for (const name of ['logging_steps', 'eval_steps', 'save_steps', 'warmup_steps']) {
    const steps = c.get<number | null>(name);
    if (steps === null || steps <= 1 || Number.isInteger(steps)) continue;
    throw c.refuse(name, {
      expected: `an integer, or a share below 1, for --${name}`,
      received: String(steps),
      cure: `Give --${name} ${Math.round(steps)}.`,
    });
  }
}

function checkMetric(c: Combination): void {
  const metric = c.get<string | null>('metric_for_best_model');
  if (metric === null || metric === 'loss') return;
  const compared: readonly string[] = c.get('preference') === null ? [] : PREFERENCE_METRICS;
  if (compared.includes(metric)) return;
  if (!(METRIC_NAMES as readonly string[]).includes(metric)) {
    throw c.refuse('metric_for_best_model', {
      expected: `one of ${['loss', ...METRIC_NAMES, ...compared].join(', ')} for --metric_for_best_model`,
      received: metric,
      cure: 'Choose one of them.',
    });
  }
  if (c.get<number>('eval_generate') === 0) {
    throw c.refuse('metric_for_best_model', {
      expected: 'loss without --eval_generate for --metric_for_best_model',
      received: metric,
      cure: 'The metric needs answers: give --eval_generate 32, or another number of records.',
    });
  }
}

function checkSchedule(c: Combination): void {
  const options = c.get<Record<string, number | string> | null>('lr_scheduler_kwargs') ?? {};
  const type = c.get<SchedulerType>('lr_scheduler_type');
  const problem = scheduleProblem(type, options, c.get<number>('learning_rate'));
  if (problem !== undefined) throw c.refuse('lr_scheduler_kwargs', problem);
  if (c.get<number>('max_steps') === 0) {
    throw c.refuse('max_steps', {
      expected: '-1 or at least 1 for --max_steps',
      received: '0',
      cure: 'Give -1 to go by epochs.',
    });
  }
}

function checkData(c: Combination): void {
  const stored = c.get<string>('cache_vision');
  if (stored === 'true' || stored === 'false') {
    throw c.refuse('cache_vision', {
      expected: 'auto, off or a folder for --cache_vision',
      received: stored,
      cure:
        stored === 'true'
          ? 'Give auto, or a folder: ./true if it is called so.'
          : 'Give off, or a folder: ./false if it is called so.',
    });
  }
  const files = c.get<string[]>('data_path');
  const weights = c.get<number[] | null>('data_weights');
  if (files.length === 0) {
    throw c.refuse('data_path', {
      expected: 'a file for --data_path',
      received: 'none',
      cure: 'Give --data_path <file>.',
    });
  }
  if (weights !== null && weights.length !== files.length) {
    throw c.refuse('data_weights', {
      expected: `${files.length} numbers for --data_weights, one per training file,`,
      received: String(weights.length),
      cure: 'Give one weight for each file of --data_path, in the same order.',
    });
  }
}

/** Weights that are offloaded come to the device unit by unit, as under stage 3, and are updated where they are. */
function checkOffload(c: Combination): void {
  if (c.get('offload_params') === 'none') return;
  const refuse = (name: string, wanted: string, cure: string): UserError =>
    c.refuse(name, { expected: `${wanted} with --offload_params`, received: c.say(name), cure });
  if (!['3', 'auto'].includes(c.get('zero_stage')))
    throw refuse(
      'zero_stage',
      '--zero_stage 3 or auto',
      'Weights that are not whole come and go: give --zero_stage 3.',
    );
  if (c.get('offload_optimizer') === 'none') {
    const cure = 'Weights are updated where they are kept: leave --offload_optimizer out, or give cpu or a folder.';
    throw refuse('offload_optimizer', '--offload_optimizer cpu or a folder', cure);
  }
  if (c.get('q_lora'))
    throw refuse(
      'q_lora',
      'no --q_lora',
      'Quantized weights stay on the device: give --q_lora false, or leave --offload_params out.',
    );
}

/** Answers are compared as inference has them, and without noise. */
function checkPreference(c: Combination): void {
  if (c.get('preference') === null) return;
  const refuse = (name: string, wanted: string, cure: string): UserError =>
    c.refuse(name, { expected: `${wanted} with --preference`, received: c.say(name), cure });
  if (c.get('compat') === 'official')
    throw refuse('compat', '--compat inference', 'The official code knows no pairs: leave --compat out.');
  if (c.get('neftune_noise_alpha') !== null)
    throw refuse(
      'neftune_noise_alpha',
      'no --neftune_noise_alpha',
      'Noise would be a difference from the reference: leave it out.',
    );
  if (c.get('precompute_ref') === 'false' && c.get('offload_params') !== 'none')
    throw refuse(
      'precompute_ref',
      '--precompute_ref true and --offload_params',
      'Copies of offloaded weights would be on the device: give --precompute_ref true, or leave --offload_params out.',
    );
}

/** What is updated in the backward pass cannot wait for other micro-batches, nor be taken back. */
function checkFused(c: Combination): void {
  if (!c.get('fused_backward')) return;
  const refuse = (name: string, wanted: string, cure: string): UserError =>
    c.refuse(name, { expected: `${wanted} with --fused_backward`, received: c.say(name), cure });
  if (c.get<number>('gradient_accumulation_steps') > 1) {
    const cure = 'Gradients are used as they come: give --gradient_accumulation_steps 1 and a larger batch.';
    throw refuse('gradient_accumulation_steps', 'no accumulation', cure);
  }
  if (c.get('on_nonfinite') === 'skip')
    throw refuse('on_nonfinite', 'stop', 'A step that was begun cannot be skipped: give --on_nonfinite stop.');
  if (c.get('dtype') === 'float16')
    throw refuse('dtype', 'bfloat16 or float32', 'A loss scale needs steps that can be skipped: give --bf16.');
  const norm = c.get<number>('max_grad_norm');
  if (norm > 0) {
    c.notice(`fused_backward: max_grad_norm ${norm} is applied to the gradients of each block by itself.`);
  }
}
