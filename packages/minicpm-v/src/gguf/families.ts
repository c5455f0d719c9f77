/** The differences between the models in GGUF files, as data. llama.cpp's names and numbers for each. */
import type { ModelConfig, VersionName } from '@minicpm-finetune/processor';

export interface GgufFamily {
  /** `general.architecture` of the language model. */
  readonly architecture: 'minicpm' | 'llama' | 'qwen2' | 'qwen3' | 'qwen35';
  /** The name of the norm before a layer's feed-forward block. */
  readonly feedForwardNorm: 'ffn_norm' | 'post_attention_norm';
  /** Whether rows of the query and key projections are reordered: llama.cpp turns neighbouring numbers there, transformers the halves of a head. */
  readonly interleaved: boolean;
  /** `tokenizer.ggml.pre`: how text is split before byte-level BPE. */
  readonly pre: 'default' | 'llama-bpe' | 'qwen2' | 'qwen35';
  /** What makes tokens of pictures; null: llama.cpp does not read this model's vision tower. */
  readonly projector: GgufProjector | null;
}

/** `clip.projector_type`, and of a resampler `clip.minicpmv_version`. */
export type GgufProjector = { readonly type: 'resampler'; readonly version: number } | { readonly type: 'minicpmv4_6' };

const resampler = (version: number): GgufProjector => ({ type: 'resampler', version });

const qwen2 = { architecture: 'qwen2', feedForwardNorm: 'ffn_norm', interleaved: false, pre: 'qwen2' } as const;
const llama = { architecture: 'llama', feedForwardNorm: 'ffn_norm', interleaved: true } as const;
const qwen35 = {
  architecture: 'qwen35',
  feedForwardNorm: 'post_attention_norm',
  interleaved: false,
  pre: 'qwen35',
} as const;

const FAMILIES: Readonly<Record<VersionName, GgufFamily>> = {
  'minicpm-v-2': { ...llama, architecture: 'minicpm', pre: 'default', projector: null },
  'minicpm-llama3-v-2_5': { ...llama, pre: 'llama-bpe', projector: resampler(2) },
  'minicpm-v-2_6': { ...qwen2, projector: resampler(3) },
  'minicpm-o-2_6': { ...qwen2, projector: resampler(4) },
  'minicpm-v-4': { ...llama, pre: 'default', projector: resampler(5) },
  'minicpm-v-4_5': { ...qwen2, architecture: 'qwen3', projector: resampler(6) },
  'minicpm-o-4_5': { ...qwen2, architecture: 'qwen3', projector: resampler(100045) },
  'minicpm-v-4_6': { ...qwen35, projector: { type: 'minicpmv4_6' } },
  'minicpm-v-4_7': { ...qwen35, projector: { type: 'minicpmv4_6' } },
};

export const familyOf = ({ version }: Pick<ModelConfig, 'version'>): GgufFamily => FAMILIES[version];
