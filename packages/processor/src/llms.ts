/**
 * The language models as differences from one decoder. Qwen2, Qwen3, Qwen3.5, Llama and MiniCPM (minicpm-v's
 * decoder.ts). Defaults are those of the Hugging Face configuration classes, for keys that a config.json leaves out.
 */

export type LlmKind = 'qwen2' | 'qwen3' | 'qwen3_5' | 'llama' | 'minicpm';

export interface LlmTraits {
  /** Whether q, k and v projections always have biases (Qwen2). Elsewhere `attention_bias` gives all four projections one. */
  readonly qkvBias: boolean;
  /** Whether each head's queries and keys pass a norm before rotation. */
  readonly qkNorm: boolean;
  /** What norms add to their weight. */
  readonly normOffset: 0 | 1;
  /** Whether the output of attention is multiplied by the sigmoid of a gate, which the query projection has beside each head. */
  readonly outputGate: boolean;
  /** Whether the depth and width scalings of MiniCPM (Hu et al., 2024, section 3) apply: scale_emb, scale_depth, dim_model_base. */
  readonly scalings: boolean;
  readonly defaults: {
    readonly rmsNormEps: number;
    readonly ropeTheta: number;
    readonly tieWordEmbeddings: boolean;
    /** null: what the heads leave of the hidden size. */
    readonly headDim: number | null;
  };
}

const plain = {
  qkvBias: false,
  qkNorm: false,
  normOffset: 0,
  outputGate: false,
  scalings: false,
  defaults: { rmsNormEps: 1e-6, ropeTheta: 10_000, tieWordEmbeddings: false, headDim: null },
} as const;

export const LLMS: Readonly<Record<LlmKind, LlmTraits>> = {
  qwen2: { ...plain, qkvBias: true },
  qwen3: { ...plain, qkNorm: true, defaults: { ...plain.defaults, headDim: 128 } },
  qwen3_5: {
    ...plain,
    qkNorm: true,
    normOffset: 1,
    outputGate: true,
    defaults: { ...plain.defaults, headDim: 256 },
  },
  llama: plain,
  minicpm: { ...plain, scalings: true, defaults: { ...plain.defaults, tieWordEmbeddings: true } },
};
