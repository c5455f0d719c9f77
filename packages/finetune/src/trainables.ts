/** Decides which parameters of a model train: the flags `--tune_vision`, `--tune_llm`, and LoRA. */
import { type AppliedLora, applyLora, freeze, type LoraConfig, type MiniCPMV } from '@minicpm-finetune/minicpm-v';

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

/** LoRA with its modules to save; everything else is frozen. */
export function tuneWithLora(model: MiniCPMV, config: LoraConfig, seed: number): AppliedLora {
  return applyLora(model, config, { seed });
}
