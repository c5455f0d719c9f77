/** How fast this machine multiplies matrices: what everything else is measured against. */
import { type DType, ops, scope } from '@minicpm-finetune/torch';

/** Side of the square matrices: large enough for full speed, 17 GFLOP a product. */
const SIZE = 2048;
const SECONDS = 0.5;

/**
 * Floating-point operations per second of square products: the best of several, after a warm-up. float16 on a CPU stands for what `linear`
 * makes of it, float32.
 */
export function matmulSpeed(type: DType, device: string): number {
  const dtype = type === 'float16' && device === 'cpu' ? 'float32' : type;
  return scope(() => {
    const make = () => ops.randn([SIZE, SIZE], { dtype, device });
    const [a, b] = [make(), make()];
    // Reading one number waits for the device.
    const multiply = () => scope(() => ops.select(ops.select(ops.matmul(a, b), 0, 0), 0, 0).item());
    multiply();
    let best = Number.POSITIVE_INFINITY;
    const end = performance.now() + SECONDS * 1000;
    do {
      const start = performance.now();
      multiply();
      best = Math.min(best, performance.now() - start);
    } while (performance.now() < end);
    return (2 * SIZE ** 3) / (best / 1000);
  });
}
