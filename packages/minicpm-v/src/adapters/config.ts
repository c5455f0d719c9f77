/**
 * `adapter_config.json` in PEFT's form, read and written. Every key is obeyed, or an error or a notice names it
 * (config-keys.ts). No import of torch. Not here: the weights (folder.ts). Reference: `LoraConfig` of PEFT 0.21; older
 * versions lack keys, which then have their defaults.
 */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { latestCheckpoint, pathCure, readJson, shown, shownNames, UserError } from '@minicpm-finetune/run';
import { z } from 'zod';
import { checkOtherKeys, checkStart } from './config-keys.js';
import type { LoraConfig } from './lora-config.js';

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
  layers_pattern: z.union([z.string(), z.array(z.string())]).nullish(),
  exclude_modules: z.union([z.string(), z.array(z.string())]).nullish(),
  rank_pattern: z.record(z.string(), z.int().min(1)).nullish(),
  alpha_pattern: z.record(z.string(), z.number()).nullish(),
  init_lora_weights: z.union([z.boolean(), z.string()]).default(true),
  base_model_name_or_path: z.string().nullish(),
});

const OBEYED: ReadonlySet<string> = new Set(Object.keys(FORM.shape));

/** An adapter's configuration and the base that it names. */
export interface AdapterConfig {
  readonly lora: LoraConfig;
  /** `base_model_name_or_path`: a folder or a hub id. */
  readonly base: string | null;
  /** Names of the base's class and of the library it came from, as PEFT's `auto_mapping` has them. */
  readonly madeFor: readonly string[];
  /** A sentence for each key that says something and changes nothing here. */
  readonly notices: readonly string[];
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
      : pathCure(folder, 'Check the path.');
    throw new UserError(`Expected an adapter folder with ${CONFIG_FILE} but received ${shown(folder)}.`, { cure });
  }
  const raw = readJson(file, CONFIG_FILE);
  const form = FORM.safeParse(raw);
  if (!form.success) {
    const issue = form.error.issues[0]!;
    const received = issue.path.reduce<unknown>((value, key) => (value as Record<PropertyKey, unknown>)?.[key], raw);
    throw new UserError(
      `Expected a LoRA configuration but ${shownNames([issue.path.join('.') || 'the file'])} is ${shown(received)}.`,
      {
        file,
        cure: `${issue.message}.`,
      },
    );
  }
  const notices = checkOtherKeys(form.data, OBEYED, file);
  checkStart(form.data.init_lora_weights, file);
  const mapping = Object.values((form.data.auto_mapping ?? {}) as object);
  return {
    lora: fromForm(form.data),
    base: form.data.base_model_name_or_path ?? null,
    madeFor: mapping.filter((name) => typeof name === 'string'),
    notices,
  };
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
    excludeModules: form.exclude_modules ?? null,
    layersToTransform: typeof layers === 'number' ? [layers] : layers,
    layersPattern:
      typeof form.layers_pattern === 'string'
        ? [form.layers_pattern].filter((one) => one !== '')
        : (form.layers_pattern ?? []),
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
 * The file's content for adapters with `config`, with every key PEFT 0.21 writes. `targets`: where PEFT would put the adapters elsewhere,
 * the names of the modules that have one, which are written in place of names and patterns; null: the configuration says it all.
 */
export function adapterConfigJson(
  config: LoraConfig,
  targets: readonly string[] | null,
  base: string,
  modelClass: ModelClass | null,
): Record<string, unknown> {
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
    exclude_modules: targets === null ? config.excludeModules : null,
    fan_in_fan_out: false,
    inference_mode: true,
    init_lora_weights: true,
    kasa_config: null,
    layer_replication: null,
    layers_pattern: targets !== null || config.layersPattern.length === 0 ? null : config.layersPattern,
    layers_to_transform: targets === null ? config.layersToTransform : null,
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
    target_modules: targets ?? config.targetModules,
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
