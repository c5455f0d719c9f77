/**
 * Gated DeltaNet: attention with a state of one size. A causal convolution over the last positions, then the
 * gated delta rule (Yang et al., 2025): the state fades, and each position replaces what its key finds by its value. Names and
 * arithmetic are transformers' (Qwen3.5). Shapes: B sequences, L positions, D hidden size, H value heads, dk and dv their sizes.
 */
import type { LlmConfig } from '@minicpm-finetune/processor';
import { Linear, Module, ops, type Parameter, RMSNorm, swiglu, type Tensor } from '@minicpm-finetune/torch';
import type { LinearState } from './kv-cache.js';
import { gathered, spread } from './shared-rows.js';

/** How positions reach the layer: packed sequences of one row, or new positions of sequences, each with its state; else a sequence a row. */
export interface LinearRows {
  readonly lengths?: readonly number[];
  /** Sequences share their first tokens: of all of them, one after the other, the place of each token in the row. */
  readonly rows?: BigInt64Array | undefined;
  readonly states?: readonly LinearState[];
}

/** The convolution, whose weight the operator reads. */
class Convolution extends Module {
  readonly weight: Parameter;

  constructor(channels: number, taps: number) {
    super();
    this.weight = this.parameter('weight', [channels, 1, taps]);
  }
}

export class LinearAttention extends Module {
  readonly inProjQkv: Linear;
  readonly inProjZ: Linear;
  readonly inProjB: Linear;
  readonly inProjA: Linear;
  readonly outProj: Linear;
  readonly conv1d: Convolution;
  readonly norm: RMSNorm;
  readonly dtBias: Parameter;
  readonly aLog: Parameter;
  readonly #sizes: NonNullable<LlmConfig['linearAttention']>;

  constructor({ hiddenSize, linearAttention, rmsNormEps }: LlmConfig) {
    super();
    const sizes = linearAttention!;
    this.#sizes = sizes;
    const { numKeyHeads, numValueHeads, keyHeadDim, valueHeadDim, convKernel } = sizes;
    const values = numValueHeads * valueHeadDim;
    const channels = 2 * numKeyHeads * keyHeadDim + values;
    const projection = (name: string, to: number): Linear =>
      this.child(name, new Linear(hiddenSize, to, { bias: false }));
    this.dtBias = this.parameter('dt_bias', [numValueHeads]);
    this.aLog = this.parameter('A_log', [numValueHeads]);
    this.conv1d = this.child('conv1d', new Convolution(channels, convKernel));
    this.norm = this.child('norm', new RMSNorm(valueHeadDim, rmsNormEps));
    this.outProj = this.child('out_proj', new Linear(values, hiddenSize, { bias: false }));
    this.inProjQkv = projection('in_proj_qkv', channels);
    this.inProjZ = projection('in_proj_z', values);
    this.inProjB = projection('in_proj_b', numValueHeads);
    this.inProjA = projection('in_proj_a', numValueHeads);
  }

  /** x (B, L, D) to (B, L, D). With `states`, B is their number. */
  forward(x: Tensor, { lengths, rows, states = [] }: LinearRows): Tensor {
    const whole = (y: Tensor): Tensor => (rows ? spread(y, rows) : y);
    const B = x.size(0);
    const L = rows?.length ?? x.size(1);
    const { numKeyHeads, numValueHeads, keyHeadDim, valueHeadDim } = this.#sizes;
    const packed = lengths === undefined ? {} : { lengths };
    const keys = numKeyHeads * keyHeadDim;
    const values = numValueHeads * valueHeadDim;
    const convolutions = states.map(({ convolution }) => convolution);
    const mixed = ops.causalConv1dSilu(whole(this.inProjQkv.forward(x)), this.conv1d.weight.data, convolutions, packed);
    const [q, k, v] = ops.splitWithSizes(mixed, [keys, keys, values], -1) as [Tensor, Tensor, Tensor];
    const heads = (y: Tensor, count: number): Tensor => ops.reshape(y, [B, L, count, -1]);
    const { decay, beta } = this.#gates(x, states.length > 0);
    const deltas = states.map(({ delta }) => delta);
    const y = ops.gatedDeltaRule(
      heads(q, numKeyHeads),
      heads(k, numKeyHeads),
      heads(v, numValueHeads),
      whole(decay),
      whole(beta),
      deltas,
      packed,
    ); // (B, L, H, dv)
    const own = rows ? gathered(y, rows, x.size(1)) : y;
    const gate = ops.reshape(this.inProjZ.forward(x), own.shape);
    const normed = swiglu(gate, this.norm.forward(own));
    return this.outProj.forward(ops.reshape(normed, [B, x.size(1), values]));
  }

  /**
   * The logarithm of the decay and the strength of each position's write: (B, L, H), float32.
   *
   * @param generating whether the rows of several sequences are here: then a number does not depend on how many there are
   */
  #gates(x: Tensor, generating: boolean): { readonly decay: Tensor; readonly beta: Tensor } {
    const wide = (y: Tensor): Tensor => ops.to(y, 'float32');
    const each = generating ? apart : (y: Tensor): Tensor => y;
    const step = ops.softplus(each(ops.add(wide(this.inProjA.forward(x)), wide(this.dtBias.data))));
    const decay = ops.neg(ops.mul(ops.exp(wide(this.aLog.data)), step));
    return { decay, beta: ops.sigmoid(each(wide(this.inProjB.forward(x)))) };
  }
}

/**
 * The same numbers, no two of them neighbours in memory. libtorch computes an exponential function of neighbours by vectors and of what is left over
 * by itself, whose last bits differ; of these it computes each by itself.
 */
function apart(x: Tensor): Tensor {
  const pairs = ops.cat([ops.unsqueeze(x, -1), ops.unsqueeze(x, -1)], -1);
  return ops.reshape(ops.narrow(pairs, -1, 0, 1), x.shape);
}
