/**
 * The keys of `adapter_config.json` that are not obeyed. Each is refused, or named in a notice, if
 * it says something: nothing of the file is passed over. Not here: the keys that are obeyed (config.ts).
 */
import { shown, UserError } from '@minicpm-finetune/run';

/** Who wrote the file, for which model, and values that mean nothing without a key of `UNSUPPORTED`. */
const INFORMATION = new Set([
  'auto_mapping',
  'inference_mode',
  'peft_version',
  'task_type',
  'megatron_core',
  'qalora_group_size',
  'runtime_config',
]);

/** They decided how the adapter started; its tensors hold what became of that. */
const START_ONLY = new Set(['eva_config', 'corda_config', 'loftq_config', 'lora_ga_config']);

/** They change what is computed, in ways that are not supported: they have to be off. */
const UNSUPPORTED = new Set([
  'fan_in_fan_out',
  'lora_bias',
  'layer_replication',
  'trainable_token_indices',
  'target_parameters',
  'ensure_weight_tying',
  'alora_invocation_tokens',
  'arrow_config',
  'megatron_config',
  'use_qalora',
  'use_bdlora',
  'velora_config',
  'kasa_config',
  'monteclora_config',
]);

/** Starts that leave the base as it is. With the others (`pissa`, `olora`, `corda`, …) the adapter fits only a base changed in the same way. */
const KEEPS_BASE = /^(true|false|gaussian|orthogonal|eva)$/i;

const WITH_PEFT = 'This kind of adapter is not supported: merge it with PEFT and use the merged model.';

/** Whether a value is what PEFT writes for a key that is off. */
function isOff(value: unknown): boolean {
  if (value === undefined || value === null || value === false || value === '') return true;
  return typeof value === 'object' && Object.keys(value).length === 0;
}

/**
 * Looks at every key that is not in `obeyed`. Returns a sentence for each one that says something and changes nothing here.
 *
 * @throws UserError naming a key that asks for what is not supported, with its value
 */
export function checkOtherKeys(
  raw: Readonly<Record<string, unknown>>,
  obeyed: ReadonlySet<string>,
  file: string,
): string[] {
  const notices: string[] = [];
  for (const [key, value] of Object.entries(raw)) {
    if (obeyed.has(key) || INFORMATION.has(key) || isOff(value)) continue;
    if (START_ONLY.has(key)) {
      notices.push(`${key} ${shown(value)}: without effect: it only says how the adapter started.`);
    } else if (key === 'revision') {
      notices.push(`revision ${shown(value)}: the adapter names this revision of its base; it is not compared.`);
    } else if (UNSUPPORTED.has(key)) {
      throw new UserError(`Expected an adapter without ${key} but received ${shown(value)}.`, {
        file,
        cure: WITH_PEFT,
      });
    } else if (typeof value === 'number' || typeof value === 'string') {
      notices.push(`${key} ${shown(value)}: the key is not known here, and not used; PEFT may compute something else.`);
    } else {
      throw new UserError(`Expected known keys for the adapter's configuration but received ${key}: ${shown(value)}.`, {
        file,
        cure: `A newer PEFT may know it: merge the adapter there and use the merged model, or remove ${key} if it changes nothing.`,
      });
    }
  }
  return notices;
}

/** @throws UserError for a start that changed the weights of the base. */
export function checkStart(start: boolean | string, file: string): void {
  if (KEEPS_BASE.test(String(start))) return;
  throw new UserError(`Expected an adapter for the unchanged base but init_lora_weights is ${shown(start)}.`, {
    file,
    cure:
      'This start changes the weights of the base: convert the adapter with PEFT ' +
      '(save_pretrained(…, path_initial_model_for_weight_conversion=…)), or merge it there and use the merged model.',
  });
}
