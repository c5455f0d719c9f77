/**
 * The language models as differences from one decoder. Qwen2, Llama and MiniCPM (minicpm-v's decoder.ts). Defaults are
 * those of the Hugging Face configuration classes, for keys that a config.json leaves out.
 */

export type LlmKind = 'qwen2' | 'llama' | 'minicpm';

export interface LlmTraits {
  /** Whether q, k and v projections always have biases (Qwen2). Elsewhere `attention_bias` gives all four projections one. */
  readonly qkvBias: boolean;
  /** Whether the depth and width scalings of MiniCPM (Hu et al., 2024, section 3) apply: scale_emb, scale_depth, dim_model_base. */
  readonly scalings: boolean;
  readonly defaults: {
    readonly rmsNormEps: number;
    readonly ropeTheta: number;
    readonly tieWordEmbeddings: boolean;
  };
}

export const LLMS: Readonly<Record<LlmKind, LlmTraits>> = {
  qwen2: {
    qkvBias: true,
    scalings: false,
    defaults: { rmsNormEps: 1e-6, ropeTheta: 10_000, tieWordEmbeddings: false },
  },
  llama: {
    qkvBias: false,
    scalings: false,
    defaults: { rmsNormEps: 1e-6, ropeTheta: 10_000, tieWordEmbeddings: false },
  },
  minicpm: {
    qkvBias: false,
    scalings: true,
    defaults: { rmsNormEps: 1e-6, ropeTheta: 10_000, tieWordEmbeddings: true },
  },
};
