/**
 * `adapter_config.json` in PEFT's form, read and written. Requests that this project does not support are refused by
 * name. Not here: the weights (folder.ts). Reference: `LoraConfig` of PEFT 0.21; older versions lack keys, which then
 * have their defaults.
 */
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { latestCheckpoint, shown, UserError } from '@minicpm-finetune/run';
import { z } from 'zod';
import type { AppliedLora, LoraConfig } from './lora.js';
import { ALL_LINEAR } from './lora-targets.js';

export const CONFIG_FILE = 'adapter_config.json';
const PEFT_VERSION = '0.21.0';

const FORM = z.looseObject({
  peft_type: z.literal('LORA'),
  r: z.int().min(1),
  lora_alpha: z.number(),
  lora_dropout: z.number().min(0).lt(1).default(0),
  target_modules: z.union([z.string(), z.array(z.string())]),
  modules_to_save: z.array(z.string()).nullish(),
  bias: z.enum(['none', 'all', 'lora_only']).default('none'),
  use_rslora: z.boolean().default(false),
  use_dora: z.boolean().default(false),
  layers_to_transform: z.union([z.int(), z.array(z.int())]).nullish(),
  rank_pattern: z.record(z.string(), z.int().min(1)).nullish(),
  alpha_pattern: z.record(z.string(), z.number()).nullish(),
  init_lora_weights: z.union([z.boolean(), z.string()]).default(true),
  base_model_name_or_path: z.string().nullish(),
});

/** Keys that change the arithmetic in ways that are not supported: they have to be off. */
const UNSUPPORTED = [
  'fan_in_fan_out',
  'lora_bias',
  'exclude_modules',
  'layer_replication',
  'layers_pattern',
  'trainable_token_indices',
  'target_parameters',
  'alora_invocation_tokens',
  'arrow_config',
  'megatron_config',
  'use_qalora',
  'use_bdlora',
  'velora_config',
  'kasa_config',
  'monteclora_config',
];

/** Starts that change the base weights, so that the adapter fits only a base changed the same way. */
const CHANGES_BASE = /^(pissa|olora|corda|lora_ga|mica)/;

/** An adapter's configuration and the base that it names. */
export interface AdapterConfig {
  readonly lora: LoraConfig;
  /** `base_model_name_or_path`: a folder or a hub id. */
  readonly base: string | null;
}

/** Reads and checks `<folder>/adapter_config.json`. */
export function readAdapterConfig(folder: string): AdapterConfig {
  const file = join(folder, CONFIG_FILE);
  if (!existsSync(file)) {
    const newest = latestCheckpoint(folder);
    if (newest !== undefined) {
      throw new UserError(
        `Expected an adapter folder with ${CONFIG_FILE} but received ${shown(folder)}, a run folder that has checkpoints only.`,
        { cure: `The run was not finished. Give its newest checkpoint: ${newest.path}.` },
      );
    }
    const cure = existsSync(folder)
      ? 'Give the folder that holds the adapter: it is where training saved it.'
      : 'Check the path.';
    throw new UserError(`Expected an adapter folder with ${CONFIG_FILE} but received ${shown(folder)}.`, { cure });
  }
  let raw: unknown;
  try {
    raw = JSON.parse(readFileSync(file, 'utf8'));
  } catch (cause) {
    throw new UserError(`Expected JSON for ${CONFIG_FILE} but received: ${(cause as Error).message}.`, { file, cause });
  }
  const form = FORM.safeParse(raw);
  if (!form.success) {
    const issue = form.error.issues[0]!;
    const received = issue.path.reduce<unknown>((value, key) => (value as Record<PropertyKey, unknown>)?.[key], raw);
    throw new UserError(`Expected a LoRA configuration but ${issue.path.join('.')} is ${shown(received)}.`, {
      file,
      cure: `${issue.message}.`,
    });
  }
  refuseUnknown(form.data, file);
  return { lora: fromForm(form.data), base: form.data.base_model_name_or_path ?? null };
}

function refuseUnknown(form: z.infer<typeof FORM>, file: string): void {
  const isOff = (value: unknown): boolean =>
    value === undefined || value === null || value === false || (Array.isArray(value) && value.length === 0);
  const key = UNSUPPORTED.find((name) => !isOff(form[name]));
  if (key !== undefined) {
    throw new UserError(`Expected an adapter without ${key} but received ${shown(form[key])}.`, {
      file,
      cure: 'This kind of adapter is not supported: merge it with PEFT and use the merged model.',
    });
  }
  if (CHANGES_BASE.test(String(form.init_lora_weights).toLowerCase())) {
    throw new UserError(
      `Expected an adapter for the unchanged base but init_lora_weights is ${shown(form.init_lora_weights)}.`,
      { file, cure: 'Convert it with PEFT: save_pretrained(…, path_initial_model_for_weight_conversion=…).' },
    );
  }
}

function fromForm(form: z.infer<typeof FORM>): LoraConfig {
  const layers = form.layers_to_transform ?? null;
  return {
    r: form.r,
    alpha: form.lora_alpha,
    dropout: form.lora_dropout,
    targetModules: form.target_modules,
    modulesToSave: form.modules_to_save ?? [],
    bias: form.bias,
    useRslora: form.use_rslora,
    useDora: form.use_dora,
    layersToTransform: typeof layers === 'number' ? [layers] : layers,
    rankPattern: form.rank_pattern ?? {},
    alphaPattern: form.alpha_pattern ?? {},
  };
}

/** Names that PEFT's `AutoPeftModel` looks up. */
export interface ModelClass {
  readonly base_model_class: string;
  readonly parent_library: string;
}

/**
 * The file's content for adapters on a model, with every key PEFT 0.21 writes. A setting that PEFT would read differently
 * (`all-linear`, a pattern together with layer indices) is written as the list of the selected modules.
 */
export function adapterConfigJson(
  applied: AppliedLora,
  base: string,
  modelClass: ModelClass | null,
): Record<string, unknown> {
  const { config, targets } = applied;
  const { targetModules, layersToTransform } = config;
  const isPattern = typeof targetModules === 'string';
  const resolve = isPattern && (layersToTransform !== null || targetModules.toLowerCase() === ALL_LINEAR);
  return {
    alora_invocation_tokens: null,
    alpha_pattern: config.alphaPattern,
    arrow_config: null,
    auto_mapping: modelClass,
    base_model_name_or_path: base,
    bias: config.bias,
    corda_config: null,
    ensure_weight_tying: false,
    eva_config: null,
    exclude_modules: null,
    fan_in_fan_out: false,
    inference_mode: true,
    init_lora_weights: true,
    kasa_config: null,
    layer_replication: null,
    layers_pattern: null,
    layers_to_transform: resolve ? null : layersToTransform,
    loftq_config: {},
    lora_alpha: config.alpha,
    lora_bias: false,
    lora_dropout: config.dropout,
    lora_ga_config: null,
    megatron_config: null,
    megatron_core: 'megatron.core',
    modules_to_save: config.modulesToSave.length === 0 ? null : config.modulesToSave,
    monteclora_config: null,
    peft_type: 'LORA',
    peft_version: PEFT_VERSION,
    qalora_group_size: 16,
    r: config.r,
    rank_pattern: config.rankPattern,
    revision: null,
    target_modules: resolve ? targets : targetModules,
    target_parameters: null,
    task_type: null,
    trainable_token_indices: null,
    use_bdlora: null,
    use_dora: config.useDora,
    use_qalora: false,
    use_rslora: config.useRslora,
    velora_config: null,
  };
}
