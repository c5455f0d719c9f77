/** What trains, told from a configuration of any version. */
import type { RunConfig } from '@minicpm-finetune/run';
import type { Method } from '../../shared/api.js';

export function methodOf(config: Partial<RunConfig>): Method {
  const { use_lora: lora = false, q_lora: quantized = false, lora_r: r = null } = config.lora ?? {};
  const adapters = lora || quantized;
  return {
    kind: quantized ? 'qlora' : lora ? 'lora' : 'full',
    r: adapters ? r : null,
    preference: preferenceOf(config),
  };
}

/** Preference tuning is a group that not every version has. */
function preferenceOf(config: object): string | null {
  for (const group of Object.values(config) as unknown[]) {
    if (typeof group !== 'object' || group === null || !('preference' in group)) continue;
    return typeof group.preference === 'string' ? group.preference : null;
  }
  return null;
}
