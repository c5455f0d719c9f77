/**
 * The loss and its gradient without the full logits. Cross entropy over the supervised positions only, in parts,
 * forward and backward at once. The logits of a part are the largest thing that exists: their gradient takes their place, and they never outlive
 * the part. (The idea of computing the gradient while the part is there: Liger Kernel's fused linear cross entropy,
 * Hsu et al., 2024.)
 *
 * The only place that masks: labels of -100 are not supervised. Labels are already shifted.
 */
import { enableGrad, fromTypedArray, grad, noGrad, ops, scope, type Tensor } from '@minicpm-finetune/torch';

/** The map from hidden states to logits, with its parameters. */
export interface Head {
  /** hidden (N, D) -> logits (N, V) in the type of the weights, which nothing else uses: they are written over */
  logits(hidden: Tensor): Tensor;
  /** V */
  readonly vocabSize: number;
  readonly trainable: ReadonlyMap<string, Tensor>;
}

export interface LossOptions {
  /** Multiplies the summed loss in the gradient: 1 / supervised tokens of the whole optimizer step (times the loss scale). */
  readonly scale: number;
  /** (N) A factor for each supervised position, instead of 1: of the gradient alone, the sum stays as it is. */
  readonly weights?: Float64Array;
  /** Whether the gradient of the hidden states is wanted. */
  readonly needsHidden: boolean;
}

export interface LossResult {
  /** Sum of the cross entropy over the supervised positions, unscaled: a scalar on the device, which nobody has waited for. */
  readonly sum: Tensor;
  /** (B, L, D), zero at positions without label; null when not wanted or nothing is supervised. */
  readonly gradHidden: Tensor | null;
  /** Gradients of the head's trainable parameters. */
  readonly gradients: ReadonlyMap<string, Tensor>;
}

/**
 * The most bytes of logits that exist at the same time. Their gradient takes their place. A trained head adds a whole gradient for each part: then
 * twice as many. Large parts matter, because each lays out the output layer's weight for its products again.
 */
const MOST_BYTES = 192 * 2 ** 20;

/** A sum that starts at zero. In float64 where the device has it, so that the order of the parts hardly matters. */
export const emptySum = (device: string): Tensor =>
  ops.zeros([], { dtype: device.startsWith('mps') ? 'float32' : 'float64', device });

/** The supervised positions of a batch, without graph. */
interface Supervised {
  readonly count: number;
  /** (N) Their places in the flattened batch. */
  readonly places: BigInt64Array;
  readonly rows: Tensor;
  /** (N, D) Their hidden states. */
  readonly selected: Tensor;
  /** (N) Their labels, int64. */
  readonly wanted: Tensor;
}

/** @returns undefined where nothing is supervised */
function supervisedOf(hidden: Tensor, labels: Int32Array): Supervised | undefined {
  const indices: bigint[] = [];
  labels.forEach((label, i) => {
    if (label !== -100) indices.push(BigInt(i));
  });
  const count = indices.length;
  if (count === 0) return undefined;
  const places = BigInt64Array.from(indices);
  const targets = BigInt64Array.from(indices, (i) => BigInt(labels[Number(i)]!));
  const rows = fromTypedArray(places, [count], 'int64', hidden.device);
  const wanted = fromTypedArray(targets, [count], 'int64', hidden.device);
  const selected = noGrad(() => ops.indexSelect(ops.reshape(hidden, [-1, hidden.size(-1)]), 0, rows));
  return { count, places, rows, selected, wanted };
}

/** Positions in parts whose logits exist at the same time, all of about one size: freed memory fits the next part. */
function* partsOf(
  { count, selected }: Supervised,
  { vocabSize, trainable }: Head,
): Generator<[start: number, length: number]> {
  const bytes = trainable.size === 0 ? MOST_BYTES : 2 * MOST_BYTES;
  const most = Math.max(1, Math.floor(bytes / ((vocabSize * selected.nbytes) / selected.numel)));
  const size = Math.ceil(count / Math.ceil(count / most));
  for (let start = 0; start < count; start += size) yield [start, Math.min(size, count - start)];
}

/** (N) Losses of all supervised positions, without graph. */
function lossesOf(supervised: Supervised, head: Head): Tensor {
  const { selected, wanted } = supervised;
  return noGrad(() =>
    scope(() => {
      const parts = [...partsOf(supervised, head)].map(([start, length]) =>
        scope(() =>
          ops.crossEntropy_(head.logits(ops.narrow(selected, 0, start, length)), ops.narrow(wanted, 0, start, length)),
        ),
      );
      return ops.cat(parts);
    }),
  );
}

/**
 * Loss and gradients of a batch. `hidden` (B, L, D) are the final hidden states, `labels` (B·L) the shifted ids or -100.
 * The returned tensors belong to the caller's scope.
 */
export function lossAndGradient(hidden: Tensor, labels: Int32Array, head: Head, options: LossOptions): LossResult {
  const parameters = [...head.trainable];
  const { device, dtype } = hidden;
  return scope(() => {
    const sum = emptySum(device);
    const supervised = supervisedOf(hidden, labels);
    if (supervised === undefined) return { sum, gradHidden: null, gradients: new Map() };
    const { selected, wanted, rows } = supervised;
    const scales = scalesOf(hidden, options);
    const gradSelected = options.needsHidden ? ops.emptyLike(selected) : null;
    let gradParameters: (Tensor | null)[] = parameters.map(() => null);
    for (const [start, length] of partsOf(supervised, head)) {
      gradParameters = scope(() => {
        const leaf = ops.clone(ops.narrow(selected, 0, start, length));
        if (options.needsHidden) leaf.requiresGrad = true;
        const inputs = [...(options.needsHidden ? [leaf] : []), ...parameters.map(([, tensor]) => tensor)];
        const logits = enableGrad(() => head.logits(leaf));
        const gradLogits = ops.detach(logits);
        noGrad(() => {
          const scale = inputs.length === 0 ? null : options.weights ? ops.narrow(scales, 0, start, length) : scales;
          const losses = ops.crossEntropy_(gradLogits, ops.narrow(wanted, 0, start, length), { scale });
          ops.add_(sum, ops.sumAll(ops.to(losses, sum.dtype)));
        });
        if (inputs.length === 0) return gradParameters;
        const gradients = grad([logits], inputs, { gradOutputs: [gradLogits] });
        if (gradSelected) ops.copy_(ops.narrow(gradSelected, 0, start, length), gradients.shift()!);
        return gradients.map((gradient, i) => accumulate(gradParameters[i] ?? null, gradient));
      });
    }
    const flat = [hidden.numel / hidden.size(-1), hidden.size(-1)];
    const gradHidden =
      gradSelected &&
      ops.reshape(ops.indexCopy(ops.zeros(flat, { dtype, device }), 0, rows, gradSelected), hidden.shape);
    const gradients = new Map(
      parameters.flatMap(([name], i) => (gradParameters[i] ? [[name, gradParameters[i]] as const] : [])),
    );
    return { sum, gradHidden, gradients };
  });
}

/** The factor of all gradients, or (N) of each position's. */
function scalesOf({ device, dtype }: Tensor, { scale, weights }: LossOptions): Tensor {
  const [values, shape] = weights ? [weights.map((weight) => weight * scale), [weights.length]] : [[scale], []];
  return dtype === 'float64'
    ? fromTypedArray(Float64Array.from(values), shape, 'float64', device)
    : fromTypedArray(Float32Array.from(values), shape, 'float32', device);
}

function accumulate(before: Tensor | null, gradient: Tensor | null): Tensor | null {
  if (before === null || gradient === null) return before ?? gradient;
  return ops.add_(before, gradient);
}

/** Log-probabilities of the supervised tokens of stretches of a row: of answers. */
export interface StretchLogProbs {
  /** (stretches) Summed over their supervised tokens, float64. */
  readonly sums: Float64Array;
  /** (stretches) Their supervised tokens. */
  readonly counts: Float64Array;
  /** (N) Of each supervised position, its stretch. */
  readonly stretches: Int32Array;
}

/**
 * The log-probability of each stretch of a batch, without graph. Waits for the device.
 *
 * @param ends (stretches) where each ends in the flattened row; it begins where the one before ends
 */
export function stretchLogProbs(
  hidden: Tensor,
  labels: Int32Array,
  ends: readonly number[],
  head: Head,
): StretchLogProbs {
  return scope(() => {
    const supervised = supervisedOf(hidden, labels);
    const [sums, counts] = [new Float64Array(ends.length), new Float64Array(ends.length)];
    if (supervised === undefined) return { sums, counts, stretches: new Int32Array() };
    let at = 0;
    const stretches = Int32Array.from(supervised.places, (place) => {
      while (Number(place) >= ends[at]!) at++;
      return at;
    });
    const losses = lossesOf(supervised, head).toNumbers();
    losses.forEach((loss, i) => {
      sums[stretches[i]!]! -= loss;
      counts[stretches[i]!]!++;
    });
    return { sums, counts, stretches };
  });
}

/** The summed loss alone, without graph: evaluation. */
export function lossSum(hidden: Tensor, labels: Int32Array, head: Head): { sum: number; count: number } {
  return scope(() => {
    const supervised = supervisedOf(hidden, labels);
    if (supervised === undefined) return { sum: 0, count: 0 };
    const losses = lossesOf(supervised, head).toNumbers();
    return { sum: losses.reduce((sum, loss) => sum + loss, 0), count: supervised.count };
  });
}
