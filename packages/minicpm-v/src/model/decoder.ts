/**
 * The language model: Qwen, Llama and MiniCPM in one decoder. A pre-norm decoder of attention or linear attention, and
 * SwiGLU; what the models differ by is the processor's llms.ts. Parameter names and arithmetic are transformers'. Not
 * here: loss, sampling (generation/), gradients. Shapes: B sequences, L positions, D hidden size.
 */
import type { LlmConfig, PartNames } from '@minicpm-finetune/processor';
import {
  Embedding,
  eachRowAlone,
  fromTypedArray,
  Linear,
  linear,
  lowRankArguments,
  Module,
  onePiece,
  ops,
  type Parameter,
  RMSNorm,
  type RowsLayers,
  rowsLayers,
  rowsMlp,
  rowsWeight,
  scope,
  severalPieces,
  swiglu,
  type Tensor,
} from '@minicpm-finetune/torch';
import { Attention, type Reached } from './attention.js';
import type { KVCache } from './kv-cache.js';
import { LinearAttention } from './linear-attention.js';
import { rotaryRows, rotaryTable } from './rope.js';

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

/** Weights of a layer in the order of `decodeLayers`. */
interface LayerParts {
  readonly norms: readonly Tensor[];
  readonly headNorms: readonly (Tensor | null)[];
  readonly linear: RowsLayers;
}

const scaled = (x: Tensor, factor: number): Tensor => (factor === 1 ? x : ops.mulScalar(x, factor));

export class DecoderLayer extends Module {
  /** One of the two. */
  readonly selfAttn: Attention | undefined;
  readonly linearAttn: LinearAttention | undefined;
  readonly mlp: Mlp;
  readonly inputLayernorm: RMSNorm;
  readonly postAttentionLayernorm: RMSNorm;
  readonly #residualScale: number;

  constructor(config: LlmConfig, index: number) {
    super();
    const { hiddenSize, rmsNormEps, normOffset, linearLayers } = config;
    if (linearLayers.has(index)) this.linearAttn = this.child('linear_attn', new LinearAttention(config));
    else this.selfAttn = this.child('self_attn', new Attention(config));
    this.mlp = this.child('mlp', new Mlp(config));
    const norm = (): RMSNorm => new RMSNorm(hiddenSize, rmsNormEps, normOffset);
    this.inputLayernorm = this.child('input_layernorm', norm());
    this.postAttentionLayernorm = this.child('post_attention_layernorm', norm());
    this.#residualScale = config.residualScale;
  }

  /** Whether a linear layer of it has an adapter. */
  get hasAdapter(): boolean {
    return [...this.namedModules()].some(([, module]) => module instanceof Linear && module.adapter !== undefined);
  }

  /** x (B, L, D), or (N, D) when decoding; rope as `rotaryTable` (`rotaryRows`) makes it */
  forward(x: Tensor, rope: Tensor, how?: Reached): Tensor {
    const mixed = this.#mix(this.inputLayernorm.forward(x), rope, how);
    const y = ops.add(x, scaled(mixed, this.#residualScale));
    const { gateProj, upProj, downProj } = this.mlp;
    const all = rowsMlp(y, this.postAttentionLayernorm, [gateProj, upProj, downProj], this.#residualScale);
    if (all !== undefined) return all;
    return ops.add(y, scaled(this.mlp.forward(this.postAttentionLayernorm.forward(y)), this.#residualScale));
  }

  /** What `decodeLayers` takes of the layer for rows x (N, D). Undefined where something is no part of that: a gate, a state, DoRA. */
  partsFor(x: Tensor): LayerParts | undefined {
    if (this.selfAttn === undefined || this.selfAttn.hasGate) return undefined;
    const { qProj, kProj, vProj, oProj, qNorm, kNorm } = this.selfAttn;
    const { gateProj, upProj, downProj } = this.mlp;
    const linear = rowsLayers([qProj, kProj, vProj, oProj, gateProj, upProj, downProj], x);
    if (linear === undefined) return undefined;
    return {
      norms: [this.inputLayernorm.weight.data, this.postAttentionLayernorm.weight.data],
      headNorms: [qNorm?.weight.data ?? null, kNorm?.weight.data ?? null],
      linear,
    };
  }

  #mix(x: Tensor, rope: Tensor, how?: Reached): Tensor {
    if (this.linearAttn === undefined) return this.selfAttn!.forward(x, rope, how);
    if (how === undefined || 'lengths' in how) return this.linearAttn.forward(x, how ?? {});
    if ('pieces' in how) {
      const states = how.pieces.map(({ cache }) => cache.state(how.layer));
      return this.linearAttn.forward(x, { states, lengths: how.pieces.map(({ count }) => count) });
    }
    const states = how.caches.map((cache) => cache.state(how.layer));
    return ops.squeeze(this.linearAttn.forward(ops.unsqueeze(x, 1), { states }), 1);
  }
}

/** The next positions of a prompt. */
export interface PromptPiece {
  /** (L, D) */
  readonly embeds: Tensor;
  readonly cache: KVCache;
  /** Positions that the whole prompt has: they decide between LongRoPE's two sets of frequencies. */
  readonly length: number;
  /** (3, 1, L) where tokens have three; absent: they follow those of the cache. */
  readonly positionIds?: Tensor | undefined;
}

/** Position ids of pieces one after the other: (1, L), or (3, 1, L) where some have three. */
function positionsOf(pieces: readonly PromptPiece[], counts: readonly number[]): Tensor {
  const threefold = pieces.some(({ positionIds }) => positionIds !== undefined);
  const all = pieces.map(({ embeds, cache, positionIds }, i) => {
    if (positionIds !== undefined) return positionIds;
    const ids = BigInt64Array.from({ length: counts[i]! }, (_, k) => BigInt(cache.length + k));
    const own = fromTypedArray(ids, [1, ids.length], 'int64', embeds.device);
    return threefold ? ops.expand(ops.unsqueeze(own, 0), [3, 1, ids.length]) : own;
  });
  return all.length === 1 ? all[0]! : ops.cat(all, -1);
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
      Array.from({ length: config.numLayers }, (_, i) => new DecoderLayer(config, i)),
    );
    this.norm = this.child('norm', new RMSNorm(config.hiddenSize, config.rmsNormEps, config.normOffset));
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

  /** Cosines and sines for position ids (B, L) or (3, B, L) below `length`, which is looked up where it is not given. */
  rope(positionIds: Tensor, length?: number): Tensor {
    return rotaryTable(this.config, positionIds, this.norm.weight.data, length);
  }

  /** Whether several pieces of prompts may be computed together, each with the bits that it has alone. */
  get readsTogether(): boolean {
    const { linearAttention, outputGate, longRope } = this.config;
    if (linearAttention !== null || outputGate || longRope !== null) return false;
    return ops.rowsStandAlone(this.norm.weight.data) && !this.layers.some(({ hasAdapter }) => hasAdapter);
  }

  /**
   * The next positions of some sequences, after those of their caches: hidden states (1, L, D) of all of them one after the other, ready for
   * `logits`. More than one piece only where `readsTogether`.
   */
  prefill(pieces: readonly PromptPiece[]): Tensor {
    const counts = pieces.map(({ embeds }) => embeds.size(0));
    const embeds = ops.unsqueeze(
      pieces.length === 1 ? pieces[0]!.embeds : ops.cat(pieces.map((piece) => piece.embeds)),
      0,
    );
    for (const [i, { cache }] of pieces.entries()) cache.reserve(counts[i]!);
    const rope = this.rope(positionsOf(pieces, counts), Math.max(...pieces.map(({ length }) => length)));
    const reached = pieces.map(({ cache }, i) => ({ cache, count: counts[i]! }));
    const hidden = (pieces.length === 1 ? onePiece : severalPieces)(() =>
      this.layers.reduce((x, layer, i) => scope(() => layer.forward(x, rope, { pieces: reached, layer: i })), embeds),
    );
    for (const { cache, count } of reached) cache.advance(count);
    return this.finish(hidden);
  }

  /** Embeddings (N, D) of the newest token of each of N sequences. */
  embedRows(tokens: readonly number[]): Tensor {
    const ids = BigInt64Array.from(tokens, BigInt);
    return eachRowAlone(() => this.embed(fromTypedArray(ids, [tokens.length], 'int64', this.norm.weight.data.device)));
  }

  /** The newest token of each of N sequences, after the positions of its cache: from its embedding to hidden states (N, D), for `finishRows`. */
  decode(embeds: Tensor, caches: readonly KVCache[]): Tensor {
    for (const cache of caches) cache.reserve(1);
    const positions = caches.map(({ nextPosition }) => nextPosition);
    const hidden = eachRowAlone(() => {
      const rope = rotaryRows(this.config, positions, this.norm.weight.data.dtype);
      return this.#decodeLayers(embeds, rope, caches);
    });
    for (const cache of caches) cache.advance(1);
    return hidden;
  }

  /** `finish` of hidden states (N, D), each row by itself. */
  finishRows(hidden: Tensor): Tensor {
    return eachRowAlone(() => this.finish(hidden));
  }

  /** Layers that follow each other and have all their parts are one operator, with the bits of one by one. x (N, D) */
  #decodeLayers(x: Tensor, rope: Tensor, caches: readonly KVCache[]): Tensor {
    const parts = this.layers.map((layer) => layer.partsFor(x));
    let [hidden, i] = [x, 0];
    while (i < parts.length) {
      const gap = parts.indexOf(undefined, i);
      const end = gap < 0 ? parts.length : gap;
      const from = i;
      hidden = scope(() =>
        from === end
          ? this.layers[from]!.forward(hidden, rope, { caches, layer: from })
          : this.#decodeTogether(hidden, rope, caches, from, parts.slice(from, end) as LayerParts[]),
      );
      i = Math.max(end, i + 1);
    }
    return hidden;
  }

  #decodeTogether(
    x: Tensor,
    rope: Tensor,
    caches: readonly KVCache[],
    first: number,
    parts: readonly LayerParts[],
  ): Tensor {
    const blocks = parts.flatMap((_, i) => caches.map((cache) => cache.block(first + i)));
    const lengths = caches.map(({ length }) => length);
    const { eps, offset } = this.norm;
    return ops.decodeLayers(
      x,
      rope,
      blocks,
      lengths,
      parts.flatMap(({ norms }) => norms),
      parts.flatMap(({ headNorms }) => headNorms),
      eps,
      offset,
      parts.flatMap(({ linear }) => linear.weights),
      parts.flatMap(({ linear }) => linear.biases),
      parts.flatMap(({ linear }) => linear.scales),
      this.config.residualScale,
      ...lowRankArguments(parts.flatMap(({ linear }) => linear.adapters)),
    );
  }
}

/** The decoder and its output layer. */
export class LanguageModel extends Module {
  readonly model: Decoder;
  readonly #head: Linear | undefined;
  readonly #names: Pick<PartNames, 'decoder' | 'head'>;

  /** @param parts where the checkpoint has decoder and head, below `parts.llm`, which is this module */
  constructor(config: LlmConfig, parts: PartNames) {
    super();
    const below = (name: string): string => (parts.llm === '' ? name : name.slice(parts.llm.length + 1));
    this.#names = parts;
    this.model = this.child(below(parts.decoder), new Decoder(config));
    this.#head = config.tieWordEmbeddings
      ? undefined
      : this.child(below(parts.head), new Linear(config.hiddenSize, config.vocabSize, { bias: false }));
  }

  /** The token table's module, by full name. */
  get tableName(): string {
    return `${this.#names.decoder}.embed_tokens`;
  }

  /** Logits (N, V) float32 of hidden states (N, D), each row by itself. */
  rowLogits(hidden: Tensor): Tensor {
    const { weight } = this.#head ?? this.model.embedTokens;
    const rows = this.#head?.adapter === undefined ? rowsWeight(weight) : undefined;
    if (rows !== undefined) return ops.rowsLinear(hidden, rows.weight, null, { scales: rows.scales, wide: true });
    return eachRowAlone(() => this.logits(hidden));
  }

  /** Hidden states (…, D) as `Decoder` finishes them, to logits (…, V) in their type. */
  output(hidden: Tensor): Tensor {
    return this.#head?.forward(hidden) ?? linear(hidden, this.model.embedTokens.weight.data, null);
  }

  /** Hidden states (…, D) as `Decoder` finishes them, to logits (…, V), float32. */
  logits(hidden: Tensor): Tensor {
    return ops.to(this.output(hidden), 'float32');
  }

  /** The parameters of `logits`, by full name. With tied embeddings that is the embedding table. */
  *headParameters(): Generator<[string, Parameter]> {
    if (this.#head === undefined) yield [`${this.tableName}.weight`, this.model.embedTokens.weight];
    else yield* this.#head.namedParameters(this.#names.head);
  }
}
