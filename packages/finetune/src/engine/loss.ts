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
const SUM = 2; // at::Reduction::Sum

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
    const gradSelected = options.needsHidden ? ops.emptyLike(selected) : null;
    let gradParameters: (Tensor | null)[] = parameters.map(() => null);
    for (const [start, length] of chunksOf(count, head)) {
      gradParameters = scope(() => {
        const leaf = ops.clone(ops.narrow(selected, 0, start, length));
        if (options.needsHidden) leaf.requiresGrad = true;
        const inputs = [...(options.needsHidden ? [leaf] : []), ...parameters.map(([, tensor]) => tensor)];
        const target = ops.narrow(wanted, 0, start, length);
        const loss = enableGrad(() => ops.crossEntropyLoss(head.logits(leaf), target, null, SUM));
        noGrad(() => ops.add_(sum, ops.detach(loss)));
        if (inputs.length === 0) return gradParameters;
        const gradients = grad([loss], inputs, {
          gradOutputs: [ops.full([], options.scale, { device: hidden.device })],
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
