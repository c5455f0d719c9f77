/** Values of flags that follow from those of others. Unless they are given. */

/** All values by name, as far as they are known. */
type Values = ReadonlyMap<string, unknown>;

export interface DerivedValue {
  readonly value: unknown;
  /** What it follows from, as a run says it; '': not worth saying. */
  readonly reason: string;
}

/** The flags that have no default of their own. In this order: later ones follow from earlier ones, too. */
const WITHOUT_DEFAULT: Readonly<Record<string, (values: Values) => DerivedValue>> = {
  tune_llm: (values) => {
    const useLora = values.get('use_lora') === true;
    return { value: !useLora, reason: useLora ? 'use_lora trains adapters instead' : '' };
  },
  lora_modules_to_save: (values) => {
    if (values.get('use_lora') !== true) return { value: [], reason: '' };
    const official = values.get('compat') === 'official';
    const vision = values.get('tune_vision');
    const embeddings = official ? '' : ', the token embeddings stay as they are: --compat official trains them';
    return {
      value: [...(official ? ['embed_tokens'] : []), 'resampler', ...(vision ? ['vpm'] : [])],
      reason: `use_lora with tune_vision ${vision}${embeddings}`,
    };
  },
  gradient_checkpointing: (values) => {
    const fused = values.get('fused_backward') === true;
    return { value: fused, reason: fused ? 'fused_backward is for the least memory' : '' };
  },
  offload_optimizer: (values) => {
    const params = values.get('offload_params');
    return { value: params, reason: params === 'none' ? '' : 'offload_params: what is updated is there' };
  },
  eval_steps: (values) => {
    const bySteps = values.get('eval_strategy') === 'steps';
    return { value: bySteps ? values.get('logging_steps') : null, reason: bySteps ? 'logging_steps' : '' };
  },
  do_eval: (values) => ({ value: values.get('eval_strategy') !== 'no', reason: '' }),
  metric_for_best_model: (values) => {
    const best = values.get('load_best_model_at_end') === true;
    return { value: best ? 'loss' : null, reason: best ? 'load_best_model_at_end' : '' };
  },
  greater_is_better: (values) => {
    const metric = (values.get('metric_for_best_model') ?? null) as string | null; // runs of old versions lack it
    return {
      value: metric !== null && !metric.endsWith('loss'),
      reason: metric === null ? '' : `the metric is ${metric}`,
    };
  },
  data_seed: (values) => ({ value: values.get('seed'), reason: '' }),
};

/** Preference tuning takes small steps, and compares with the reference without dropout. */
const OF_PREFERENCE: typeof WITHOUT_DEFAULT = {
  learning_rate: (values) => ({
    value: values.get('use_lora') === true ? 1e-5 : 1e-6,
    reason: `preference ${String(values.get('preference'))}`,
  }),
  lora_dropout: (values) => ({ value: 0, reason: `preference ${String(values.get('preference'))}` }),
};

/** Flags whose value follows from others if they are not given, in the order in which they follow from each other. */
export const DERIVED_FLAGS: readonly string[] = [...Object.keys(OF_PREFERENCE), ...Object.keys(WITHOUT_DEFAULT)];

/** What a flag is unless it is given, as it follows from the values of others; undefined: it does not. */
export function derivedValue(name: string, values: Values): DerivedValue | undefined {
  const preferred = (values.get('preference') ?? null) !== null;
  if (preferred && (name !== 'lora_dropout' || values.get('use_lora') === true) && Object.hasOwn(OF_PREFERENCE, name))
    return OF_PREFERENCE[name]!(values);
  return Object.hasOwn(WITHOUT_DEFAULT, name) ? WITHOUT_DEFAULT[name]!(values) : undefined;
}
