/** Fills in defaults and values derived from others. */
import { CONFIG_FLAGS, CONFIG_GROUPS, expected, type Flag, flagsOf, type UserError } from '@minicpm-finetune/run';
import type { GivenValues } from './flags.js';

/**
 * All values of RunConfig by name: given, default or derived. Adds one line to `derived` for each value that follows from others.
 *
 * @throws UserError if a required one is missing.
 */
export function withDefaults(given: GivenValues, derived: string[]): Map<string, unknown> {
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
  const preference = values.get('preference');
  if (preference !== null) preferOther(values, given, derived);
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
  const params = values.get('offload_params');
  derive('offload_optimizer', params, params === 'none' ? '' : 'offload_params: what is updated is there');
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

/** Preference tuning takes small steps, and compares with the reference without dropout, unless the user says otherwise. */
function preferOther(values: Map<string, unknown>, given: GivenValues, derived: string[]): void {
  const useLora = values.get('use_lora') === true;
  const others = { learning_rate: useLora ? 1e-5 : 1e-6, ...(useLora ? { lora_dropout: 0 } : {}) };
  for (const [name, value] of Object.entries(others)) {
    if (given.has(name)) continue;
    values.set(name, value);
    derived.push(`${name} = ${value} (preference ${String(values.get('preference'))})`);
  }
}

function missing(flag: Flag): UserError {
  return expected('a value', `--${flag.name}`, undefined, {
    flag: `--${flag.name}`,
    cure: `${flag.help.en} Give it as --${flag.name} <${(flag.placeholder ?? 'value').replace('...', '')}>, or in a recipe.`,
  });
}
