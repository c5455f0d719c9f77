/** How fast this machine multiplies matrices: what everything else is measured against. */
import { type DType, ops, scope, synchronize } from '@minicpm-finetune/torch';

/** Side of the square matrices, large enough for full speed: 17 GFLOP a product, 1.1 TFLOP on a device that works on its own. */
const SIZE = 2048;
const DEVICE_SIZE = 8192;
const SECONDS = 0.5;

/**
 * Floating-point operations per second of square products: the best of several, after a warm-up. float16 on a CPU stands for what `linear`
 * makes of it, float32.
 */
export function matmulSpeed(type: DType, device: string): number {
  const dtype = type === 'float16' && device === 'cpu' ? 'float32' : type;
  return scope(() => {
    const size = device === 'cpu' ? SIZE : DEVICE_SIZE;
    const make = () => ops.randn([size, size], { dtype, device });
    const [a, b] = [make(), make()];
    const multiply = () => {
      scope(() => ops.matmul(a, b));
      synchronize(device);
    };
    multiply();
    let best = Number.POSITIVE_INFINITY;
    const end = performance.now() + SECONDS * 1000;
    do {
      const start = performance.now();
      multiply();
      best = Math.min(best, performance.now() - start);
    } while (performance.now() < end);
    return (2 * size ** 3) / (best / 1000);
  });
}
