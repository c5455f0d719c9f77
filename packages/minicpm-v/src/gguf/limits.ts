/** Sizes that llama.cpp fixes. Models of other sizes are refused before anything is written. */
import type { LlmConfig, ModelConfig } from '@minicpm-finetune/processor';
import { UserError } from '@minicpm-finetune/run';
import { familyOf } from './families.js';

/** Most of a resampler head's numbers in llama.cpp. */
const RESAMPLER_HEAD = 128;

/** @throws UserError for a model with a size that llama.cpp does not have */
export function refuseSizes(config: ModelConfig): void {
  const { llm, file } = config;
  if (llm.linearAttention !== null) refuseLinearAttention(llm, file);
  if (familyOf(config).projector?.type !== 'resampler' || llm.hiddenSize % RESAMPLER_HEAD === 0) return;
  throw other(
    `a hidden_size that is a multiple of ${RESAMPLER_HEAD}, which llama.cpp's resampler needs,`,
    llm.hiddenSize,
    file,
  );
}

function refuseLinearAttention(llm: LlmConfig, file: string): void {
  const { keyHeadDim, valueHeadDim } = llm.linearAttention!;
  if (keyHeadDim !== valueHeadDim)
    throw other(
      `a linear_value_head_dim equal to linear_key_head_dim ${keyHeadDim}, as llama.cpp has one size for both,`,
      valueHeadDim,
      file,
    );
  if (attentionInterval(llm) === null)
    throw other(
      'layer_types with one full_attention after equally many linear_attention each, as llama.cpp has them,',
      shownLayers(llm),
      file,
    );
}

const shownLayers = ({ numLayers, linearLayers }: LlmConfig): string =>
  Array.from({ length: numLayers }, (_, i) => (linearLayers.has(i) ? 'linear_attention' : 'full_attention')).join(', ');

const other = (wanted: string, received: number | string, file: string): UserError =>
  new UserError(`Expected ${wanted} but received ${received}.`, {
    file,
    cure: 'Give --format safetensors, which vLLM, SGLang and transformers take.',
  });

/** Every n-th layer has full attention, all others linear attention; null: the layers are not of this kind. */
export function attentionInterval({ numLayers, linearLayers }: LlmConfig): number | null {
  const layers = Array.from({ length: numLayers }, (_, i) => i);
  const first = layers.find((i) => !linearLayers.has(i)) ?? numLayers;
  const interval = first + 1;
  return layers.every((i) => linearLayers.has(i) === ((i + 1) % interval !== 0)) ? interval : null;
}
