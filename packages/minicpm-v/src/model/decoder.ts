/**
 * The language model: Qwen2, Llama and MiniCPM in one decoder. A pre-norm decoder with rotary positions, grouped
 * key/value heads and SwiGLU; the models differ by numbers and biases only (the processor's llms.ts). Parameter names
 * and arithmetic are transformers'. Not here: loss, sampling (generation/), gradients. Shapes: B sequences, L
 * positions, D hidden size, H heads, K key/value heads.
 */
import type { LlmConfig } from '@minicpm-finetune/processor';
import {
  Embedding,
  fromTypedArray,
  Linear,
  linear,
  Module,
  ops,
  type Parameter,
  RMSNorm,
  type Tensor,
} from '@minicpm-finetune/torch';
import type { KVCache, LayerCache } from './kv-cache.js';
import { rotaryTable, rotate } from './rope.js';

/** Options of a forward pass that generates. */
export interface Attend {
  /** Holds the earlier positions and receives the new ones. */
  readonly cache: LayerCache;
  /** Which keys a query may see, (B, 1, L, all positions) bool; null when plain causality says it. */
  readonly mask: Tensor | null;
}

/** Sequences packed one after the other into one row (B = 1): each attends to itself alone. */
export interface Packed {
  /** Lengths of the sequences; together L. */
  readonly lengths: readonly number[];
}

class Attention extends Module {
  readonly qProj: Linear;
  readonly kProj: Linear;
  readonly vProj: Linear;
  readonly oProj: Linear;
  readonly #config: LlmConfig;

  constructor(config: LlmConfig) {
    super();
    const { hiddenSize, numHeads, numKeyValueHeads, headDim, qkvBias, outputBias } = config;
    this.#config = config;
    this.qProj = this.child('q_proj', new Linear(hiddenSize, numHeads * headDim, { bias: qkvBias }));
    this.kProj = this.child('k_proj', new Linear(hiddenSize, numKeyValueHeads * headDim, { bias: qkvBias }));
    this.vProj = this.child('v_proj', new Linear(hiddenSize, numKeyValueHeads * headDim, { bias: qkvBias }));
    this.oProj = this.child('o_proj', new Linear(numHeads * headDim, hiddenSize, { bias: outputBias }));
  }

  forward(x: Tensor, rope: Tensor, how?: Attend | Packed): Tensor {
    const { numHeads, numKeyValueHeads, headDim } = this.#config;
    const [B, L] = x.shape as [number, number];
    const split = (y: Tensor, heads: number): Tensor => ops.transpose(ops.reshape(y, [B, L, heads, headDim]), 1, 2);
    const q = rotate(split(this.qProj.forward(x), numHeads), rope); // (B, H, L, headDim)
    const k = rotate(split(this.kProj.forward(x), numKeyValueHeads), rope); // (B, K, L, headDim)
    const v = split(this.vProj.forward(x), numKeyValueHeads);
    return this.oProj.forward(ops.reshape(ops.transpose(this.#attend(q, k, v, how), 1, 2), [B, L, numHeads * headDim]));
  }

  /** Queries (B, H, L, headDim) to what they attend to. */
  #attend(q: Tensor, k: Tensor, v: Tensor, how?: Attend | Packed): Tensor {
    if (how === undefined) return ops.attention(q, k, v, { is_causal: true });
    if ('lengths' in how) return ops.attention(q, k, v, { lengths: how.lengths, is_causal: true });
    const [keys, values] = how.cache.append(k, v);
    const { mask } = how;
    const gqa = { enable_gqa: q.size(1) !== k.size(1) };
    return ops.scaledDotProductAttention(q, keys, values, mask, 0, mask === null && q.size(2) > 1, gqa);
  }
}

class Mlp extends Module {
  readonly gateProj: Linear;
  readonly upProj: Linear;
  readonly downProj: Linear;

  constructor({ hiddenSize, intermediateSize, mlpBias: bias }: LlmConfig) {
    super();
    this.gateProj = this.child('gate_proj', new Linear(hiddenSize, intermediateSize, { bias }));
    this.upProj = this.child('up_proj', new Linear(hiddenSize, intermediateSize, { bias }));
    this.downProj = this.child('down_proj', new Linear(intermediateSize, hiddenSize, { bias }));
  }

  forward(x: Tensor): Tensor {
    return this.downProj.forward(ops.swiglu(this.gateProj.forward(x), this.upProj.forward(x)));
  }
}

const scaled = (x: Tensor, factor: number): Tensor => (factor === 1 ? x : ops.mulScalar(x, factor));

export class DecoderLayer extends Module {
  readonly selfAttn: Attention;
  readonly mlp: Mlp;
  readonly inputLayernorm: RMSNorm;
  readonly postAttentionLayernorm: RMSNorm;
  readonly #residualScale: number;

  constructor(config: LlmConfig) {
    super();
    this.selfAttn = this.child('self_attn', new Attention(config));
    this.mlp = this.child('mlp', new Mlp(config));
    this.inputLayernorm = this.child('input_layernorm', new RMSNorm(config.hiddenSize, config.rmsNormEps));
    this.postAttentionLayernorm = this.child(
      'post_attention_layernorm',
      new RMSNorm(config.hiddenSize, config.rmsNormEps),
    );
    this.#residualScale = config.residualScale;
  }

  /** x (B, L, D), rope as `rotaryTable` makes it; plain causal attention within each row unless `how` says otherwise */
  forward(x: Tensor, rope: Tensor, how?: Attend | Packed): Tensor {
    const attention = this.selfAttn.forward(this.inputLayernorm.forward(x), rope, how);
    const y = ops.add(x, scaled(attention, this.#residualScale));
    return ops.add(y, scaled(this.mlp.forward(this.postAttentionLayernorm.forward(y)), this.#residualScale));
  }
}

export class Decoder extends Module {
  readonly embedTokens: Embedding;
  readonly layers: readonly DecoderLayer[];
  readonly norm: RMSNorm;

  readonly config: LlmConfig;

  constructor(config: LlmConfig) {
    super();
    this.config = config;
    this.embedTokens = this.child('embed_tokens', new Embedding(config.vocabSize, config.hiddenSize));
    this.layers = this.childList(
      'layers',
      Array.from({ length: config.numLayers }, () => new DecoderLayer(config)),
    );
    this.norm = this.child('norm', new RMSNorm(config.hiddenSize, config.rmsNormEps));
  }

  /** Token ids (B, L) to scaled embeddings (B, L, D), from the table or from some of its rows, in which case the ids count those. */
  embed(ids: Tensor, rows?: Tensor): Tensor {
    const embeds = rows === undefined ? this.embedTokens.forward(ids) : ops.embedding(rows, ids);
    return scaled(embeds, this.config.embeddingScale);
  }

  /** The last norm; for MiniCPM also the division that belongs before lm_head. */
  finish(x: Tensor): Tensor {
    const y = this.norm.forward(x);
    return this.config.logitDivisor === 1 ? y : ops.divScalar(y, this.config.logitDivisor);
  }

  /** Cosines and sines for position ids (B, L) below `length`, which is looked up where it is not given. */
  rope(positionIds: Tensor, length?: number): Tensor {
    return rotaryTable(this.config, positionIds, this.norm.weight.data, length);
  }

  /**
   * New positions after those of a cache: embeddings (B, L, D) and their position ids (B, L) to hidden states (B, L, D), ready for `logits`.
   * `leftPadding` counts the padding in front of each sequence, the same in every call with this cache.
   */
  forward(embeds: Tensor, positionIds: Tensor, cache: KVCache, leftPadding?: readonly number[]): Tensor {
    const [B, L] = embeds.shape as [number, number];
    const rope = this.rope(positionIds);
    const mask = visibleKeys(B, L, cache.length, leftPadding, embeds.device);
    const hidden = this.layers.reduce(
      (x, layer, i) => layer.forward(x, rope, { cache: cache.layers[i]!, mask }),
      embeds,
    );
    return this.finish(hidden);
  }
}

/**
 * Which keys the queries of `L` new positions after `past` old ones may see: (B, 1, L, past + L) bool, or null when `is_causal` or "all" says
 * it. Padding in front sees itself only, so that no row is empty.
 */
function visibleKeys(
  B: number,
  L: number,
  past: number,
  leftPadding: readonly number[] | undefined,
  device: string,
): Tensor | null {
  const padded = leftPadding?.some((count) => count > 0) ?? false;
  if (!padded && (past === 0 || L === 1)) return null;
  const all = past + L;
  const mask = new Uint8Array(B * L * all);
  for (let b = 0; b < B; b++) {
    for (let i = 0; i < L; i++) {
      const row = (b * L + i) * all;
      mask.fill(1, row + Math.min(leftPadding?.[b] ?? 0, past + i), row + past + i + 1);
    }
  }
  return fromTypedArray(mask, [B, 1, L, all], 'bool', device);
}

/** `llm`: the decoder and its output layer. */
export class LanguageModel extends Module {
  readonly model: Decoder;
  readonly #head: Linear | undefined;

  constructor(config: LlmConfig) {
    super();
    this.model = this.child('model', new Decoder(config));
    this.#head = config.tieWordEmbeddings
      ? undefined
      : this.child('lm_head', new Linear(config.hiddenSize, config.vocabSize, { bias: false }));
  }

  /** Hidden states (…, D) as `Decoder` finishes them, to logits (…, V), float32. */
  logits(hidden: Tensor): Tensor {
    const logits = this.#head?.forward(hidden) ?? linear(hidden, this.model.embedTokens.weight.data, null);
    return ops.to(logits, 'float32');
  }

  /** The parameters of `logits`, by name. With tied embeddings that is the embedding table. */
  *headParameters(prefix: string): Generator<[string, Parameter]> {
    if (this.#head === undefined) yield [`${prefix}.model.embed_tokens.weight`, this.model.embedTokens.weight];
    else yield* this.#head.namedParameters(`${prefix}.lm_head`);
  }
}
