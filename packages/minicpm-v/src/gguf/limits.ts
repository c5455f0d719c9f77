/** Sizes that llama.cpp fixes. Models of other sizes are refused before anything is written. */
import type { LlmConfig, ModelConfig } from '@minicpm-finetune/processor';
import { UserError } from '@minicpm-finetune/run';
import { familyOf } from './families.js';

/** Most of a resampler head's numbers in llama.cpp. */
const RESAMPLER_HEAD = 128;

const CURE = 'Give --format safetensors, which vLLM, SGLang and transformers take.';

/** @throws UserError for a model with a size that llama.cpp does not have */
export function refuseSizes(config: ModelConfig): void {
  const { llm, file } = config;
  if (llm.linearAttention !== null) refuseLinearAttention(llm, file);
  if (familyOf(config).projector?.type !== 'resampler' || llm.hiddenSize % RESAMPLER_HEAD === 0) return;
  throw new UserError(
    `Expected a hidden_size that is a multiple of ${RESAMPLER_HEAD}, which llama.cpp's resampler needs, but received ${llm.hiddenSize}.`,
    { file, cure: CURE },
  );
}

function refuseLinearAttention(llm: LlmConfig, file: string): void {
  const { keyHeadDim, valueHeadDim } = llm.linearAttention!;
  if (keyHeadDim !== valueHeadDim)
    throw new UserError(
      `Expected a linear_value_head_dim equal to linear_key_head_dim ${keyHeadDim}, as llama.cpp has one size for both, but received ${valueHeadDim}.`,
      { file, cure: CURE },
    );
  if (attentionInterval(llm) === null)
    throw new UserError(
      `Expected layer_types with one full_attention after equally many linear_attention each, as llama.cpp has them, but received ${shownLayers(llm)}.`,
      { file, cure: CURE },
    );
}

const shownLayers = ({ numLayers, linearLayers }: LlmConfig): string =>
  Array.from({ length: numLayers }, (_, i) => (linearLayers.has(i) ? 'linear_attention' : 'full_attention')).join(', ');

/** Every n-th layer has full attention, all others linear attention; null: the layers are not of this kind. */
export function attentionInterval({ numLayers, linearLayers }: LlmConfig): number | null {
  const layers = Array.from({ length: numLayers }, (_, i) => i);
  const first = layers.find((i) => !linearLayers.has(i)) ?? numLayers;
  const interval = first + 1;
  return layers.every((i) => linearLayers.has(i) === ((i + 1) % interval !== 0)) ? interval : null;
}
