/** The global norm of gradients, and clipping to one. On the device, or with a number that is here. */
import { noGrad, ops, scope, type Tensor } from '@minicpm-finetune/torch';

/** Places of tensors in a list, by their type: libtorch has one kernel for many tensors of one type, and goes through a mixed list one by one. */
function placesByType(tensors: readonly Tensor[]): number[][] {
  const places = new Map<string, number[]>();
  tensors.forEach(({ dtype }, i) => {
    const own = places.get(dtype);
    if (own === undefined) places.set(dtype, [i]);
    else own.push(i);
  });
  return [...places.values()];
}

/** L2 norm over gradients from the sum of their squares: rounded to float32, as PyTorch has it. */
export const normOf = (squares: number): number => Math.fround(Math.sqrt(squares));

/** Sum of the squares of gradients, at least one: a scalar on the device, in float64 where the device has it. */
export function squaresOf(gradients: ReadonlyMap<string, Tensor>): Tensor {
  return ops.sumOfSquares([...gradients.values()]);
}

/** Scales all gradients so that their global norm is at most `maxNorm` (0: leaves them), as `torch.nn.utils.clip_grad_norm_` does. */
export function clipGradients(gradients: ReadonlyMap<string, Tensor>, norm: number, maxNorm: number): void {
  if (maxNorm <= 0 || gradients.size === 0) return;
  const coefficient = maxNorm / (norm + 1e-6);
  if (coefficient >= 1) return;
  const all = [...gradients.values()];
  for (const places of placesByType(all))
    noGrad(() =>
      ops.foreachMul_(
        places.map((i) => all[i]!),
        coefficient,
      ),
    );
}

/** Does what `clipGradients` does with a norm that is on the device, without waiting for it. `norm` is float64 where the device has it. */
export function clipOnDevice(gradients: ReadonlyMap<string, Tensor>, norm: Tensor, maxNorm: number): void {
  if (maxNorm <= 0) return;
  noGrad(() =>
    scope(() => {
      const most = ops.full([], maxNorm, { dtype: norm.dtype, device: norm.device });
      const coefficient = ops.clamp(ops.div(most, ops.addScalar(norm, 1e-6)), null, 1);
      // As a product with a number: the CPU rounds the number to the gradient's type first, others compute in float32 and round once.
      const vector = norm.device === 'cpu' ? null : ops.reshape(ops.to(coefficient, 'float32'), [1]);
      for (const gradient of gradients.values()) ops.mul_(gradient, vector ?? ops.to(coefficient, gradient.dtype));
    }),
  );
}
