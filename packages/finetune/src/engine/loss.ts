/**
 * The loss and its gradient without the full logits. Cross entropy over the supervised positions only, in chunks of
 * positions, forward and backward at once. The logits of a chunk are the largest thing that exists; they never outlive
 * the chunk. (The idea of computing the gradient while the chunk is there: Liger Kernel's fused linear cross entropy,
 * Hsu et al., 2024.)
 *
 * The only place that masks: labels of -100 are not supervised. Labels are already shifted.
 */
import { enableGrad, fromTypedArray, grad, noGrad, ops, scope, type Tensor } from '@minicpm-finetune/torch';

/** The map from hidden states to logits, with its parameters. */
export interface Head {
  /** hidden (N, D) -> logits (N, V), float32 */
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

/** Most logits that exist at the same time (in three forms of four bytes). A trained head adds a whole gradient for each chunk: then twice as many. */
const MOST_LOGITS = 2 ** 24;
const MOST_POSITIONS = 256;
const [NONE, SUM] = [0, 2]; // at::Reduction

/** A sum that starts at zero. In float64 where the device has it, so that the order of the parts hardly matters. */
export const emptySum = (device: string): Tensor =>
  ops.zeros([], { dtype: device.startsWith('mps') ? 'float32' : 'float64', device });

/** Indices of the supervised positions in the flattened batch, and their labels. */
function supervisedPositions(labels: Int32Array): { positions: BigInt64Array; targets: BigInt64Array } {
  const indices: bigint[] = [];
  labels.forEach((label, i) => {
    if (label !== -100) indices.push(BigInt(i));
  });
  return {
    positions: BigInt64Array.from(indices),
    targets: BigInt64Array.from(indices, (i) => BigInt(labels[Number(i)]!)),
  };
}

/** Positions in parts whose logits exist at the same time, all of about one size: freed memory fits the next part. */
function* chunksOf(count: number, { vocabSize, trainable }: Head): Generator<[start: number, length: number]> {
  const logits = trainable.size === 0 ? MOST_LOGITS : 2 * MOST_LOGITS;
  const most = Math.min(MOST_POSITIONS, Math.max(1, Math.floor(logits / vocabSize)));
  const size = Math.ceil(count / Math.ceil(count / most));
  for (let start = 0; start < count; start += size) yield [start, Math.min(size, count - start)];
}

/**
 * Loss and gradients of a batch. `hidden` (B, L, D) are the final hidden states, `labels` (B·L) the shifted ids or -100.
 * The returned tensors belong to the caller's scope.
 */
export function lossAndGradient(hidden: Tensor, labels: Int32Array, head: Head, options: LossOptions): LossResult {
  const [B, L, D] = hidden.shape as [number, number, number];
  const { positions, targets } = supervisedPositions(labels);
  const parameters = [...head.trainable];
  const count = positions.length;
  if (count === 0) return { sum: emptySum(hidden.device), gradHidden: null, gradients: new Map() };
  return scope(() => {
    const sum = emptySum(hidden.device);
    const rows = fromTypedArray(positions, [count], 'int64', hidden.device);
    const wanted = fromTypedArray(targets, [count], 'int64', hidden.device);
    const selected = noGrad(() => ops.indexSelect(ops.reshape(hidden, [B * L, D]), 0, rows)); // (N, D)
    const weights =
      options.weights && fromTypedArray(Float32Array.from(options.weights), [count], 'float32', hidden.device);
    const gradSelected = options.needsHidden ? ops.emptyLike(selected) : null;
    let gradParameters: (Tensor | null)[] = parameters.map(() => null);
    for (const [start, length] of chunksOf(count, head)) {
      gradParameters = scope(() => {
        const leaf = ops.clone(ops.narrow(selected, 0, start, length));
        if (options.needsHidden) leaf.requiresGrad = true;
        const inputs = [...(options.needsHidden ? [leaf] : []), ...parameters.map(([, tensor]) => tensor)];
        const target = ops.narrow(wanted, 0, start, length);
        const reduction = weights ? NONE : SUM;
        const loss = enableGrad(() => ops.crossEntropyLoss(head.logits(leaf), target, null, reduction));
        noGrad(() => ops.add_(sum, ops.sumAll(ops.detach(loss))));
        if (inputs.length === 0) return gradParameters;
        const gradients = grad([loss], inputs, {
          gradOutputs: [
            weights
              ? ops.mulScalar(ops.narrow(weights, 0, start, length), options.scale)
              : ops.full([], options.scale, { device: hidden.device }),
          ],
        });
        if (gradSelected) ops.copy_(ops.narrow(gradSelected, 0, start, length), gradients.shift()!);
        return gradients.map((gradient, i) => accumulate(gradParameters[i] ?? null, gradient));
      });
    }
    const gradHidden =
      gradSelected &&
      ops.reshape(
        ops.indexCopy(ops.zeros([B * L, D], { dtype: hidden.dtype, device: hidden.device }), 0, rows, gradSelected),
        [B, L, D],
      );
    const gradients = new Map(
      parameters.flatMap(([name], i) => (gradParameters[i] ? [[name, gradParameters[i]] as const] : [])),
    );
    return { sum, gradHidden, gradients };
  });
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
  const [B, L, D] = hidden.shape as [number, number, number];
  const { positions, targets } = supervisedPositions(labels);
  let at = 0;
  const stretches = Int32Array.from(positions, (position) => {
    while (Number(position) >= ends[at]!) at++;
    return at;
  });
  const [sums, counts] = [new Float64Array(ends.length), new Float64Array(ends.length)];
  if (positions.length === 0) return { sums, counts, stretches };
  const losses = noGrad(() =>
    scope(() => {
      const { device } = hidden;
      const rows = fromTypedArray(positions, [positions.length], 'int64', device);
      const selected = ops.indexSelect(ops.reshape(hidden, [B * L, D]), 0, rows);
      const wanted = fromTypedArray(targets, [positions.length], 'int64', device);
      const parts = [...chunksOf(positions.length, head)].map(([start, length]) =>
        scope(() => {
          const logits = head.logits(ops.narrow(selected, 0, start, length));
          return ops.crossEntropyLoss(logits, ops.narrow(wanted, 0, start, length), null, NONE);
        }),
      );
      return ops.cat(parts).toNumbers();
    }),
  );
  losses.forEach((loss, i) => {
    sums[stretches[i]!]! -= loss;
    counts[stretches[i]!]!++;
  });
  return { sums, counts, stretches };
}

/** The summed loss alone, without graph: evaluation. */
export function lossSum(hidden: Tensor, labels: Int32Array, head: Head): { sum: number; count: number } {
  const [B, L, D] = hidden.shape as [number, number, number];
  const { positions, targets } = supervisedPositions(labels);
  if (positions.length === 0) return { sum: 0, count: 0 };
  const sum = noGrad(() =>
    scope(() => {
      const all = emptySum(hidden.device);
      const selected = ops.indexSelect(
        ops.reshape(hidden, [B * L, D]),
        0,
        fromTypedArray(positions, [positions.length], 'int64', hidden.device),
      );
      const wanted = fromTypedArray(targets, [positions.length], 'int64', hidden.device);
      for (const [start, length] of chunksOf(positions.length, head)) {
        scope(() => {
          const logits = head.logits(ops.narrow(selected, 0, start, length));
          ops.add_(all, ops.crossEntropyLoss(logits, ops.narrow(wanted, 0, start, length), null, SUM));
        });
      }
      return all.item();
    }),
  );
  return { sum, count: positions.length };
}
