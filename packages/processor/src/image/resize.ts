/**
 * Bicubic resize of RGB bytes, bit-equal to Pillow. Equals `Image.resize(size, BICUBIC)`: two passes (columns first,
 * only the rows that the second pass needs), an antialiasing kernel (a = -0.5) widened by the scale when shrinking,
 * weights in fixed point with 22 fractional bits, and a clip to 0..255 after each pass. After Pillow's `Resample.c`.
 * The weights are computed here, the sums in `resize-kernel.wat`.
 */
import { type ResizeKernel, resizeKernel } from './resize-kernel.js';

/** Interleaved RGB, row by row: `data[(y * width + x) * 3 + channel]`. */
export interface RgbImage {
  data: Uint8Array;
  width: number;
  height: number;
}

/** For each output position: the first input position, how many, and `size` fixed-point weights. */
interface Weights {
  first: Int32Array;
  count: Int32Array;
  values: Int32Array;
  size: number;
}

const PRECISION_BITS = 32 - 8 - 2;
/** Input rows are copied into the kernel's memory in bands of about this size, so that large pictures need little of it. */
const BAND_BYTES = 1 << 20;
const KERNEL_SUPPORT = 2;

function bicubic(x: number): number {
  const a = -0.5;
  const t = Math.abs(x);
  if (t < 1) return ((a + 2) * t - (a + 3)) * t * t + 1;
  if (t < 2) return (((t - 5) * t + 8) * t - 4) * a;
  return 0;
}

/** Weights that take `inputSize` samples to `outputSize`, each row normalised in float64 and then rounded. */
function computeWeights(inputSize: number, outputSize: number): Weights {
  const scale = inputSize / outputSize;
  const filterScale = Math.max(scale, 1);
  const support = KERNEL_SUPPORT * filterScale;
  const size = Math.ceil(support) * 2 + 1;
  const inverse = 1 / filterScale;
  const first = new Int32Array(outputSize);
  const count = new Int32Array(outputSize);
  const values = new Int32Array(outputSize * size);
  const row = new Float64Array(size);
  for (let out = 0; out < outputSize; out++) {
    const center = (out + 0.5) * scale;
    const start = Math.max(Math.trunc(center - support + 0.5), 0);
    const n = Math.min(Math.trunc(center + support + 0.5), inputSize) - start;
    let sum = 0;
    for (let i = 0; i < n; i++) {
      const weight = bicubic((i + start - center + 0.5) * inverse);
      row[i] = weight;
      sum += weight;
    }
    for (let i = 0; i < n; i++) {
      const weight = sum !== 0 ? row[i]! / sum : row[i]!;
      values[out * size + i] = Math.trunc(weight * (1 << PRECISION_BITS) + (weight < 0 ? -0.5 : 0.5));
    }
    first[out] = start;
    count[out] = n;
  }
  return { first, count, values, size };
}

/** Hands out addresses in the kernel's memory, with room for the sixteen bytes that vectors read and write past an end. */
class Layout {
  #next = 16;
  reserve(bytes: number): number {
    const at = this.#next;
    this.#next = Math.ceil((at + bytes) / 16) * 16 + 16;
    return at;
  }
  get total(): number {
    return this.#next;
  }
}

interface PlacedWeights {
  weights: Weights;
  first: number;
  count: number;
  values: number;
}

function place(layout: Layout, weights: Weights): PlacedWeights {
  const [first, count] = [layout.reserve(weights.first.byteLength), layout.reserve(weights.count.byteLength)];
  return { weights, first, count, values: layout.reserve(weights.values.byteLength) };
}

function upload(memory: ResizeKernel['memory'], { weights, first, count, values }: PlacedWeights, shift: number): void {
  new Int32Array(memory.buffer, first, weights.first.length).set(weights.first.map((position) => position - shift));
  new Int32Array(memory.buffer, count, weights.count.length).set(weights.count);
  new Int32Array(memory.buffer, values, weights.values.length).set(weights.values);
}

/**
 * Resizes an RGB image. Returns the same object when the size is already right.
 * @returns an image of `width` x `height`, equal to Pillow's bit for bit
 */
export function resizeBicubic(image: RgbImage, width: number, height: number): RgbImage {
  if (image.width === width && image.height === height) return image;
  const alongX = image.width === width ? null : computeWeights(image.width, width);
  const alongY = image.height === height ? null : computeWeights(image.height, height);
  const top = alongY ? alongY.first[0]! : 0;
  const bottom = alongY ? alongY.first[height - 1]! + alongY.count[height - 1]! : height;

  const layout = new Layout();
  const stride = image.width * 3;
  const bandRows = Math.max(1, Math.min(bottom - top, Math.floor(BAND_BYTES / stride)));
  const band = layout.reserve(alongX ? bandRows * stride : 0);
  const x = alongX && place(layout, alongX);
  const y = alongY && place(layout, alongY);
  const narrow = layout.reserve((bottom - top) * width * 3); // the rows that are needed, already of the new width
  const output = alongY ? layout.reserve(height * width * 3) : narrow;
  const kernel = resizeKernel(layout.total);
  const memory = new Uint8Array(kernel.memory.buffer);

  if (x) {
    upload(kernel.memory, x, 0);
    for (let from = top; from < bottom; from += bandRows) {
      const rows = Math.min(bandRows, bottom - from);
      memory.set(image.data.subarray(from * stride, (from + rows) * stride), band);
      const to = narrow + (from - top) * width * 3;
      kernel.columns(band, stride, rows, x.first, x.count, x.values, x.weights.size, to, width);
    }
  } else {
    memory.set(image.data.subarray(top * stride, bottom * stride), narrow);
  }
  if (y) {
    upload(kernel.memory, y, top);
    kernel.rows(narrow, width * 3, height, y.first, y.count, y.values, y.weights.size, output);
  }
  return { data: memory.slice(output, output + height * width * 3), width, height };
}
