/** The speed of this machine's matrix products. The yardstick of all other speeds. */
import { type DType, ops, scope, synchronize } from '@minicpm-finetune/torch';

/** Side of the square matrices, large enough for full speed: 17 GFLOP a product, 1.1 TFLOP on a device that works on its own. */
const SIZE = 2048;
const DEVICE_SIZE = 8192;
/** Side of those that tell whether a large product would take too long: a CPU without bfloat16 instructions needs a minute for one. */
const SMALL = 256;
const MOST_SECONDS = 5;

/**
 * Floating-point operations per second of square products: the best of several, after a warm-up. float16 on a CPU stands for what `linear`
 * makes of it, float32.
 */
export function matmulSpeed(type: DType, device: string): number {
  const dtype = type === 'float16' && device === 'cpu' ? 'float32' : type;
  if (device !== 'cpu') return (2 * DEVICE_SIZE ** 3) / bestSeconds(DEVICE_SIZE, dtype, device, 0.5);
  const small = bestSeconds(SMALL, dtype, device, 0.05);
  if (small * (SIZE / SMALL) ** 3 > MOST_SECONDS) return (2 * SMALL ** 3) / small;
  return (2 * SIZE ** 3) / bestSeconds(SIZE, dtype, device, 0.5);
}

/** The fastest of the square products that begin within some seconds, after a warm-up. */
function bestSeconds(size: number, dtype: DType, device: string, seconds: number): number {
  return scope(() => {
    const make = () => ops.randn([size, size], { dtype, device });
    const [a, b] = [make(), make()];
    const multiply = () => {
      scope(() => ops.matmul(a, b));
      synchronize(device);
    };
    multiply();
    let best = Number.POSITIVE_INFINITY;
    const end = performance.now() + seconds * 1000;
    do {
      const start = performance.now();
      multiply();
      best = Math.min(best, performance.now() - start);
    } while (performance.now() < end);
    return best / 1000;
  });
}
