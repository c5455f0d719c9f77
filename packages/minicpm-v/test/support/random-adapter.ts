/** Adapters with random weights, for tests. */
import { readConfig } from '@minicpm-finetune/processor';
import { manualSeed, noGrad, ops, scope } from '@minicpm-finetune/torch';
import { describeBase, saveAdapter } from '../../src/adapters/folder.js';
import { applyLora, type LoraOptions, trainableParameters } from '../../src/adapters/lora.js';
import { loadWeights } from '../../src/checkpoint/weights.js';
import { MiniCPMV } from '../../src/model/minicpm-v.js';

const PATTERN =
  '(llm|model\\.language_model)\\..*layers\\.\\d+\\.(self_attn\\.(q_proj|v_proj)|linear_attn\\.in_proj_qkv)';

/** An adapter with random weights everywhere, for a base. */
export function randomAdapter(base: string, folder: string, seed: number, options: Partial<LoraOptions> = {}): string {
  const model = new MiniCPMV(readConfig(base));
  loadWeights(model, base);
  const applied = applyLora(
    model,
    {
      r: 4,
      alpha: 8,
      dropout: 0.1,
      targetModules: PATTERN,
      modulesToSave: [model.parts.connector],
      ...options,
    },
    { seed },
  );
  manualSeed(seed);
  noGrad(() =>
    scope(() => {
      for (const [, { data }] of trainableParameters(model)) ops.add_(data, ops.mulScalar(ops.randn(data.shape), 0.2));
    }),
  );
  saveAdapter(folder, model, applied, describeBase(base));
  model.dispose();
  return folder;
}
