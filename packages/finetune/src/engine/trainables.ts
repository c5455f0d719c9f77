/** Which parameters train without LoRA. The flags `--tune_vision` and `--tune_llm`. */
import { freeze, type MiniCPMV } from '@minicpm-finetune/minicpm-v';

export interface FullTuning {
  readonly tuneVision: boolean;
  readonly tuneLlm: boolean;
}

/** Full-parameter training: the resampler always, tower and language model as asked. */
export function tuneFully(model: MiniCPMV, { tuneVision, tuneLlm }: FullTuning): void {
  freeze(model);
  for (const [name, parameter] of model.namedParameters()) {
    const wanted = name.startsWith('vpm.') ? tuneVision : name.startsWith('llm.') ? tuneLlm : true;
    if (wanted && !model.fixedParameters.has(name)) parameter.data.requiresGrad = true;
  }
}
