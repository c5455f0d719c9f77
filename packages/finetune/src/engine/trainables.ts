/** Which parameters train without LoRA. The flags `--tune_vision` and `--tune_llm`. */
import { freeze, type MiniCPMV } from '@minicpm-finetune/minicpm-v';
import { partOf } from '@minicpm-finetune/processor';
import type { Parameter } from '@minicpm-finetune/torch';

export interface FullTuning {
  readonly tuneVision: boolean;
  readonly tuneLlm: boolean;
}

/** The parameters that full-parameter training trains: the connector's always, tower's and language model's as asked. */
export function fullyTuned(model: MiniCPMV, { tuneVision, tuneLlm }: FullTuning): Map<string, Parameter> {
  const wanted = (name: string): boolean => ({ vision: tuneVision, llm: tuneLlm, connector: true })[partOf(name)];
  const fixed = model.fixedParameters;
  return new Map([...model.namedParameters()].filter(([name]) => wanted(name) && !fixed.has(name)));
}

/** Lets these parameters train, and freezes the others. */
export function tuneFully(model: MiniCPMV, tuning: FullTuning): void {
  freeze(model);
  for (const parameter of fullyTuned(model, tuning).values()) parameter.data.requiresGrad = true;
}
