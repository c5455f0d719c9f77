/**
 * The language model: Qwen2, Llama and MiniCPM in one decoder. A pre-norm decoder with rotary positions, grouped
 * key/value heads and SwiGLU; the models differ by numbers and biases only (the processor's llms.ts). Parameter names
 * and arithmetic are transformers'. Not here: loss, sampling (generation/), gradients. Shapes: B sequences, L
 * positions, D hidden size, H heads, K key/value heads.
 */
import type { LlmConfig } from '@minicpm-finetune/processor';
import {
  Embedding,
  eachRowAlone,
  fromTypedArray,
  Linear,
  linear,
  Module,
  onePiece,
  ops,
  type Parameter,
  RMSNorm,
  scope,
  swiglu,
  type Tensor,
} from '@minicpm-finetune/torch';
import type { KVCache } from './kv-cache.js';
import { rotaryRows, rotaryTable, rotate } from './rope.js';

/** New positions of one sequence (B = 1) after those of a cache, which receives them. */
export interface Continued {
  readonly cache: KVCache;
  readonly layer: number;
}

/** One new position of each of N sequences, after those of its cache, which receives it. x is (N, D), rope as `rotaryRows` makes it. */
export interface Decoding {
  /** The blocks of the sequences' caches for the layer, and the positions that they have. */
  readonly blocks: readonly Tensor[];
  readonly lengths: readonly number[];
}

/** Sequences packed one after the other into one row (B = 1): each attends to itself alone. */
export interface Packed {
  /** Lengths of the sequences; together L, or as many as `rows`. */
  readonly lengths: readonly number[];
  /** Sequences share their first tokens: of all of them, one after the other, the place of each token in the row. */
  readonly rows?: BigInt64Array | undefined;
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

  forward(x: Tensor, rope: Tensor, how?: Continued | Packed | Decoding): Tensor {
    if (how !== undefined && 'blocks' in how) return this.#decode(x, rope, how);
    const { numHeads, numKeyValueHeads, headDim } = this.#config;
    const rows = how !== undefined && 'lengths' in how ? how.rows : undefined;
    const B = x.size(0);
    const L = rows?.length ?? x.size(1);
    const index = rows && fromTypedArray(rows, [L], 'int64', x.device);
    const spread = (y: Tensor): Tensor => (index ? ops.indexSelect(ops.squeeze(y, 0), 0, index) : y); // (L, …) of shared tokens
    const split = (y: Tensor, heads: number): Tensor =>
      ops.transpose(ops.reshape(spread(y), [B, L, heads, headDim]), 1, 2);
    const q = rotate(split(this.qProj.forward(x), numHeads), rope); // (B, H, L, headDim)
    const k = rotate(split(this.kProj.forward(x), numKeyValueHeads), rope); // (B, K, L, headDim)
    const v = split(this.vProj.forward(x), numKeyValueHeads);
    const y = ops.reshape(ops.transpose(this.#attend(q, k, v, how), 1, 2), [B, L, numHeads * headDim]);
    return this.oProj.forward(rows ? gathered(y, rows, x.size(1)) : y);
  }

  #decode(x: Tensor, rope: Tensor, { blocks, lengths }: Decoding): Tensor {
    const [q, k, v] = [this.qProj, this.kProj, this.vProj].map((linear) => linear.forward(x)) as [
      Tensor,
      Tensor,
      Tensor,
    ];
    return this.oProj.forward(ops.decodeAttention(q, k, v, rope, blocks, lengths));
  }

  /** Queries (B, H, L, headDim) to what they attend to. */
  #attend(q: Tensor, k: Tensor, v: Tensor, how?: Continued | Packed): Tensor {
    if (how === undefined) return ops.attention(q, k, v, { is_causal: true });
    if ('lengths' in how) return ops.attention(q, k, v, { lengths: how.lengths, is_causal: true });
    const [keys, values] = how.cache.write(how.layer, k, v);
    return ops.attention(q, keys, values, { is_causal: true });
  }
}

/** Of y (1, L', D) each place of the row of `length` tokens, once: (1, length, D). */
function gathered(y: Tensor, rows: BigInt64Array, length: number): Tensor {
  const first = new BigInt64Array(length);
  for (let i = rows.length - 1; i >= 0; i--) first[Number(rows[i])] = BigInt(i);
  return ops.indexSelect(y, 1, fromTypedArray(first, [length], 'int64', y.device));
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
    return this.downProj.forward(swiglu(this.gateProj.forward(x), this.upProj.forward(x)));
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
  forward(x: Tensor, rope: Tensor, how?: Continued | Packed | Decoding): Tensor {
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
   * The next positions of one sequence, after those of its cache: embeddings (1, L, D) to hidden states (1, L, D), ready for `logits`.
   *
   * @param length positions that the whole prompt has: they decide between LongRoPE's two sets of frequencies
   */
  prefill(embeds: Tensor, cache: KVCache, length: number): Tensor {
    const count = embeds.size(1);
    const first = cache.length;
    cache.reserve(count);
    const ids = BigInt64Array.from({ length: count }, (_, i) => BigInt(first + i));
    const rope = this.rope(fromTypedArray(ids, [1, count], 'int64', embeds.device), length);
    const hidden = onePiece(() =>
      this.layers.reduce((x, layer, i) => scope(() => layer.forward(x, rope, { cache, layer: i })), embeds),
    );
    cache.advance(count);
    return this.finish(hidden);
  }

  /** The newest token of each of N sequences, after the positions of its cache: hidden states (N, D), ready for `logits`. */
  decode(tokens: readonly number[], caches: readonly KVCache[]): Tensor {
    const { device, dtype } = this.norm.weight.data;
    for (const cache of caches) cache.reserve(1);
    const lengths = caches.map(({ length }) => length);
    const hidden = eachRowAlone(() => {
      const rope = rotaryRows(this.config, lengths, dtype);
      const ids = fromTypedArray(BigInt64Array.from(tokens, BigInt), [tokens.length], 'int64', device);
      const layers = this.layers.reduce((x, layer, i) => {
        const blocks = caches.map((cache) => cache.block(i));
        return scope(() => layer.forward(x, rope, { blocks, lengths }));
      }, this.embed(ids));
      return this.finish(layers);
    });
    for (const cache of caches) cache.advance(1);
    return hidden;
  }
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

  /** Logits (N, V) float32 of hidden states (N, D), each row by itself. */
  rowLogits(hidden: Tensor): Tensor {
    const { weight } = this.#head ?? this.model.embedTokens;
    const isPlain = hidden.dtype !== 'float16' && this.#head?.adapter === undefined;
    if (isPlain && weight.compact === undefined) return ops.rowsLinear(hidden, weight.data, null, { wide: true });
    const direct = isPlain ? weight.compact?.rowsLinear?.(hidden, null, { wide: true }) : undefined;
    if (direct !== undefined) return direct;
    return eachRowAlone(() => this.logits(hidden));
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
