/**
 * Attention of the language models. Rotary positions, grouped key/value heads; with norms on queries and keys, and a gate on the
 * output, where the model has them. Shapes: B sequences, L positions, D hidden size, H heads, K key/value heads.
 */
import type { LlmConfig } from '@minicpm-finetune/processor';
import { Linear, Module, ops, RMSNorm, type Tensor } from '@minicpm-finetune/torch';
import type { KVCache } from './kv-cache.js';
import { rotate } from './rope.js';
import { gathered, spread } from './shared-rows.js';

/** New positions of some sequences, packed one after the other into one row (B = 1), each after those of its cache, which receives them. */
interface Continued {
  /** The caches, and how many positions each gets; together L. */
  readonly pieces: readonly { readonly cache: KVCache; readonly count: number }[];
  readonly layer: number;
}

/** One new position of each of N sequences, after those of its cache, which receives it. x is (N, D), rope as `rotaryRows` makes it. */
interface Decoding {
  readonly caches: readonly KVCache[];
  readonly layer: number;
}

/** Sequences packed one after the other into one row (B = 1): each attends to itself alone. */
interface Packed {
  /** Lengths of the sequences; together L, or as many as `rows`. */
  readonly lengths: readonly number[];
  /** Sequences share their first tokens: of all of them, one after the other, the place of each token in the row. */
  readonly rows?: BigInt64Array | undefined;
}

/** How positions reach a layer; absent: a sequence a row, plain causal attention. */
export type Reached = Continued | Packed | Decoding;

export class Attention extends Module {
  readonly qProj: Linear;
  readonly kProj: Linear;
  readonly vProj: Linear;
  readonly oProj: Linear;
  readonly qNorm: RMSNorm | undefined;
  readonly kNorm: RMSNorm | undefined;
  readonly #config: LlmConfig;

  constructor(config: LlmConfig) {
    super();
    const { hiddenSize, numHeads, numKeyValueHeads, headDim, qkvBias, outputBias, qkNorm, outputGate } = config;
    this.#config = config;
    const queries = (outputGate ? 2 : 1) * numHeads * headDim;
    this.qProj = this.child('q_proj', new Linear(hiddenSize, queries, { bias: qkvBias }));
    this.kProj = this.child('k_proj', new Linear(hiddenSize, numKeyValueHeads * headDim, { bias: qkvBias }));
    this.vProj = this.child('v_proj', new Linear(hiddenSize, numKeyValueHeads * headDim, { bias: qkvBias }));
    this.oProj = this.child('o_proj', new Linear(numHeads * headDim, hiddenSize, { bias: outputBias }));
    const norm = (name: string): RMSNorm | undefined =>
      qkNorm ? this.child(name, new RMSNorm(headDim, config.rmsNormEps, config.normOffset)) : undefined;
    this.qNorm = norm('q_norm');
    this.kNorm = norm('k_norm');
  }

  /** Whether what was attended to is multiplied by a gate. */
  get hasGate(): boolean {
    return this.#config.outputGate;
  }

  /** x (B, L, D), or (N, D) when decoding */
  forward(x: Tensor, rope: Tensor, how?: Reached): Tensor {
    const { numHeads, numKeyValueHeads, headDim } = this.#config;
    const rows = x.shape.slice(0, -1);
    const split = (y: Tensor, heads: number): Tensor => ops.reshape(y, [...rows, heads, -1]);
    const whole = split(this.qProj.forward(x), numHeads);
    const q = normed(ops.narrow(whole, -1, 0, headDim), this.qNorm); // (…, H, headDim)
    const k = normed(split(this.kProj.forward(x), numKeyValueHeads), this.kNorm); // (…, K, headDim)
    const v = split(this.vProj.forward(x), numKeyValueHeads);
    const y = ops.reshape(attend(q, k, v, rope, how), [...rows, numHeads * headDim]);
    return this.oProj.forward(this.#config.outputGate ? this.#gated(y, whole) : y);
  }

  /** y (…, H headDim) times the sigmoid of the second half of each head (…, H, 2 headDim). */
  #gated(y: Tensor, whole: Tensor): Tensor {
    const { headDim } = this.#config;
    const gate = ops.contiguous(ops.narrow(whole, -1, headDim, headDim));
    return ops.mul(y, ops.sigmoid(ops.reshape(gate, y.shape)));
  }
}

const normed = (x: Tensor, norm: RMSNorm | undefined): Tensor => norm?.forward(x) ?? x;

/** Queries (…, L, H, headDim), keys and values (…, L, K, headDim) to what is attended to, in the order of the queries. */
function attend(q: Tensor, k: Tensor, v: Tensor, rope: Tensor, how?: Reached): Tensor {
  if (how !== undefined && 'caches' in how) {
    const { caches, layer } = how;
    const flat = (x: Tensor): Tensor => ops.reshape(x, [caches.length, -1]);
    const blocks = caches.map((cache) => cache.block(layer));
    const lengths = caches.map(({ length }) => length);
    return ops.decodeAttention(flat(q), flat(k), flat(v), rope, blocks, lengths);
  }
  if (how !== undefined && 'rows' in how && how.rows !== undefined) {
    const { rows, lengths } = how;
    const [allQ, allK, allV] = [q, k, v].map((x) => spread(x, rows)) as [Tensor, Tensor, Tensor];
    return gathered(attend(allQ, allK, allV, rope, { lengths }), rows, q.size(1));
  }
  const heads = (x: Tensor): Tensor => ops.transpose(x, 1, 2); // (B, H, L, headDim)
  const [queries, keys, values] = [rotate(heads(q), rope), rotate(heads(k), rope), heads(v)];
  if (how === undefined) return heads(ops.attention(queries, keys, values, { is_causal: true }));
  if ('lengths' in how) return heads(ops.attention(queries, keys, values, { lengths: how.lengths, is_causal: true }));
  let start = 0;
  const parts = how.pieces.map(({ cache, count }) => {
    const [own, ownKeys, ownValues] = [queries, keys, values].map((x) => ops.narrow(x, 2, start, count)) as [
      Tensor,
      Tensor,
      Tensor,
    ];
    start += count;
    const [allKeys, allValues] = cache.write(how.layer, ownKeys, ownValues);
    return heads(ops.attention(own, allKeys, allValues, { is_causal: true }));
  });
  return parts.length === 1 ? parts[0]! : ops.cat(parts, 1);
}
