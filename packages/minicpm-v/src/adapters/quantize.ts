/**
 * Frozen weights in 4 or 8 bits (QLoRA). They are dequantized whenever they are needed (Dettmers et al., 2023).
 *
 * NF4: blocks of 64 weights in row-major order share their largest magnitude; each weight over it becomes the nearest of 16 levels, the
 * quantiles of a normal distribution as bitsandbytes publishes them. Double quantization: the magnitudes themselves, less their mean, are
 * kept as 8-bit integers in blocks of 256 (evenly spaced levels, where bitsandbytes has a table of its own). Two weights a byte, the
 * first one in the high half. 4.127 bits a weight.
 * int8: each row shares its largest magnitude, weights are integers from -127 to 127. 8 bits a weight, and 32 a row.
 *
 * Not here: who frees a dequantized weight (Linear, the executor), and files: quantized weights are never saved.
 */
import type { PartNames } from '@minicpm-finetune/processor';
import { atOnce, type Steps } from '@minicpm-finetune/run';
import {
  type CompactTensor,
  type DType,
  keep,
  Linear,
  noGrad,
  ops,
  type RowsWeight,
  scope,
  type Tensor,
  tensor,
} from '@minicpm-finetune/torch';
import type { MiniCPMV } from '../model/minicpm-v.js';
import { CompactShape, type CompactSizes } from './compact-shape.js';
import { loraAdapters } from './lora.js';

export type QuantizationType = 'nf4' | 'int8';

/** The levels of NF4 (appendix E of the paper; `bitsandbytes.functional`). */
export const NF4_LEVELS: readonly number[] = [
  -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
  -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
  0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
];
/** Weights that share a magnitude, and magnitudes that share a scale. */
export const NF4_BLOCK = 64;
export const NF4_SCALE_BLOCK = 256;
/** Weights that are worked on at once, which bounds the float32 copies. Whole blocks. */
const CHUNK = 1 << 20;
/** In place of a largest magnitude of zero, so that it can be divided by. */
const TINY = 1e-30;

/** The float32 values of a tensor, `length` of them from `start` in row-major order. */
function piece(flat: Tensor, start: number, length: number): Tensor {
  return ops.to(ops.narrow(flat, 0, start, length), 'float32');
}

/** Calls `work` for pieces of `total` elements, each in a scope of its own. */
function inPieces(total: number, size: number, work: (start: number, length: number) => void): void {
  for (let start = 0; start < total; start += size) scope(() => work(start, Math.min(size, total - start)));
}

/** x (n) padded with zeros to a multiple of `size`, as rows (rows, size). */
function rowsOf(x: Tensor, size: number): Tensor {
  const missing = (size - (x.numel % size)) % size;
  return ops.view(missing === 0 ? x : ops.constantPadNd(x, [0, missing]), [-1, size]);
}

/** The result of `quantizeRows` as float32 (rows, n). */
function fromInt8(codes: Tensor, scales: Tensor): Tensor {
  return ops.mul_(ops.to(codes, 'float32'), ops.divScalar(scales, 127));
}

/** Index of the level nearest to each number of -1 to 1, uint8: how many midpoints lie below. (`bucketize` takes longer.) */
function nearestLevels(x: Tensor): Tensor {
  const levels = ops.zerosLike(x, { dtype: 'uint8' });
  for (let i = 1; i < NF4_LEVELS.length; i++) {
    ops.add_(levels, ops.gtScalar(x, (NF4_LEVELS[i - 1]! + NF4_LEVELS[i]!) / 2));
  }
  return levels;
}

/** A kept tensor on a device; the one given is freed if it was elsewhere. */
function moved(tensor: Tensor, device: string): Tensor {
  const there = noGrad(() => scope(() => keep(ops.toDevice(tensor, device, tensor.dtype))));
  tensor.dispose();
  return there;
}

const bytesOf = (tensors: readonly Tensor[]): number => tensors.reduce((sum, { nbytes }) => sum + nbytes, 0);

function keepAll<T extends readonly Tensor[]>(tensors: T): T {
  for (const one of tensors) keep(one);
  return tensors;
}

/**
 * - packed (numel / 2) uint8, the last block filled up
 * - codes (rows, 256) int8 and scales (rows, 1) float32: largest magnitudes of the blocks, less their mean
 * - mean () float32, of the largest magnitudes
 * - levels (256) int64: the two levels of each byte, two float32 side by side, looked up as one number
 */
type Nf4Parts = readonly [packed: Tensor, codes: Tensor, scales: Tensor, mean: Tensor, levels: Tensor];

/** A weight in NF4 with double quantization. */
export class Nf4Tensor implements CompactTensor {
  readonly shape: readonly number[];
  readonly dtype: DType;
  #device: string;
  #parts: Nf4Parts;

  /** Quantizes a weight (out, in), which stays the caller's. */
  constructor(weight: Tensor) {
    this.shape = weight.shape;
    this.dtype = weight.dtype;
    this.#device = weight.device;
    this.#parts = noGrad(() => scope(() => keepAll(this.#quantize(ops.reshape(weight, [-1])))));
  }

  #quantize(flat: Tensor): Nf4Parts {
    const place = { device: this.#device };
    const count = flat.numel;
    const blocks = Math.ceil(count / NF4_BLOCK);
    const packed = ops.empty([(blocks * NF4_BLOCK) / 2], { dtype: 'uint8', ...place });
    const largest = ops.empty([blocks], { dtype: 'float32', ...place });
    inPieces(count, CHUNK, (start, length) => {
      const rows = rowsOf(piece(flat, start, length), NF4_BLOCK);
      const magnitudes = ops.amax(ops.abs(rows), [1], true);
      const scaled = ops.div(rows, ops.clamp(magnitudes, TINY));
      const levels = ops.view(nearestLevels(scaled), [-1, 2]);
      const bytes = ops.bitwiseOr(ops.bitwiseLeftShift(ops.select(levels, 1, 0), 4), ops.select(levels, 1, 1));
      ops.copy_(ops.narrow(packed, 0, start / 2, bytes.numel), bytes);
      ops.copy_(ops.narrow(largest, 0, start / NF4_BLOCK, magnitudes.numel), ops.view(magnitudes, [-1]));
    });
    const mean = ops.meanAll(largest);
    const pairs = NF4_LEVELS.flatMap((high) => NF4_LEVELS.map((low) => [high, low]));
    const table = ops.toDevice(tensor(pairs), this.#device, 'float32'); // (256, 2)
    const [codes, scales] = ops.quantizeRows(rowsOf(ops.sub(largest, mean), NF4_SCALE_BLOCK)) as [Tensor, Tensor];
    return [packed, codes, scales, mean, ops.view(ops.viewDtype(table, 'int64'), [-1])];
  }

  get tensors(): readonly Tensor[] {
    return this.#parts;
  }

  replace(tensors: readonly Tensor[]): void {
    for (const part of this.#parts) if (!tensors.includes(part)) part.dispose();
    this.#parts = tensors as Nf4Parts;
  }

  moveTo(device: string): void {
    this.#device = device;
    this.#parts = this.#parts.map((part) => moved(part, device)) as unknown as Nf4Parts;
  }

  get nbytes(): number {
    return bytesOf(this.#parts);
  }

  /** The weight in its type, (out, in). */
  expand(): Tensor {
    const [packed, codes, scales, mean, levels] = this.#parts;
    return noGrad(() =>
      scope(() => {
        const magnitudes = ops.view(ops.add_(fromInt8(codes, scales), mean), [-1, 1]);
        const count = this.shape.reduce((product, size) => product * size, 1);
        const flat = ops.empty([count], { dtype: this.dtype, device: this.#device });
        inPieces(count, CHUNK, (start, length) => {
          const blocks = Math.ceil(length / NF4_BLOCK);
          const bytes = ops.narrow(packed, 0, start / 2, (blocks * NF4_BLOCK) / 2);
          const pairs = ops.gather(levels, 0, ops.to(bytes, 'int64'));
          const rows = ops.view(ops.viewDtype(pairs, 'float32'), [blocks, NF4_BLOCK]);
          ops.mul_(rows, ops.narrow(magnitudes, 0, start / NF4_BLOCK, blocks));
          ops.copy_(ops.narrow(flat, 0, start, length), ops.narrow(ops.view(rows, [-1]), 0, 0, length));
        });
        return ops.view(flat, this.shape);
      }),
    );
  }

  dispose(): void {
    for (const part of this.#parts) part.dispose();
  }
}

/** A weight in int8 with a scale for each row. */
export class Int8Tensor implements CompactTensor {
  readonly shape: readonly number[];
  readonly dtype: DType;
  /** (out, in) int8 and (out, 1) float32 */
  #parts: readonly [codes: Tensor, scales: Tensor];

  /** Quantizes a weight (out, in), which stays the caller's. */
  constructor(weight: Tensor) {
    this.shape = weight.shape;
    this.dtype = weight.dtype;
    this.#parts = noGrad(() => scope(() => keepAll(ops.quantizeRows(weight) as [Tensor, Tensor])));
  }

  get tensors(): readonly Tensor[] {
    return this.#parts;
  }

  replace(tensors: readonly Tensor[]): void {
    for (const part of this.#parts) if (!tensors.includes(part)) part.dispose();
    this.#parts = tensors as readonly [Tensor, Tensor];
  }

  moveTo(device: string): void {
    const [codes, scales] = this.#parts;
    this.#parts = [moved(codes, device), moved(scales, device)];
  }

  #inRows(work: (start: number, length: number) => void): void {
    const [out, width] = this.shape as [number, number];
    inPieces(out, Math.max(1, Math.floor(CHUNK / width)), work);
  }

  get nbytes(): number {
    return bytesOf(this.#parts);
  }

  /** The weight in its type, (out, in). */
  expand(): Tensor {
    const [codes, scales] = this.#parts;
    return noGrad(() =>
      scope(() => {
        const weight = ops.empty(this.shape, { dtype: this.dtype, device: codes.device });
        this.#inRows((start, length) => {
          const part = (x: Tensor): Tensor => ops.narrow(x, 0, start, length);
          ops.copy_(part(weight), fromInt8(part(codes), part(scales)));
        });
        return weight;
      }),
    );
  }

  get rows(): RowsWeight | undefined {
    const [weight, scales] = this.#parts;
    return weight.device === 'cpu' && this.dtype !== 'float16' ? { weight, scales } : undefined;
  }

  dispose(): void {
    for (const part of this.#parts) part.dispose();
  }
}

function compactOf(data: Tensor, type: QuantizationType): CompactTensor {
  if (data.device === 'meta') return new CompactShape(data, compactSizes(data, type));
  return type === 'nf4' ? new Nf4Tensor(data) : new Int8Tensor(data);
}

/** What a weight takes in its smaller form: the parts of `Nf4Tensor` and `Int8Tensor`. */
function compactSizes({ shape, numel }: Tensor, type: QuantizationType): CompactSizes {
  if (type === 'int8') return { type, nbytes: numel + 4 * shape[0]!, whole: 0, chunk: CHUNK };
  const blocks = Math.ceil(numel / NF4_BLOCK);
  const rows = Math.ceil(blocks / NF4_SCALE_BLOCK);
  const table = 8 * NF4_LEVELS.length ** 2;
  const nbytes = (blocks * NF4_BLOCK) / 2 + rows * NF4_SCALE_BLOCK + 4 * rows + 4 + table;
  return { type, nbytes, whole: 4 * blocks, chunk: CHUNK };
}

/** The result of quantization. */
export interface Quantized {
  /** Number of weights that are quantized now, and their bytes before and after. */
  readonly tensors: number;
  readonly bytesBefore: number;
  readonly bytesAfter: number;
  /** Bytes of one layer's weights when they are dequantized. */
  readonly layerBytes: number;
}

/** The layer of the language model that a module lies in, by its beginning; undefined: none. */
function layerOf(name: string, { decoder }: PartNames): string | undefined {
  const layers = `${decoder}.layers.`;
  return name.startsWith(layers) ? /^\d+\./.exec(name.slice(layers.length))?.[0] : undefined;
}

/**
 * Quantizes the frozen linear weights in the language model's layers, in place. Left as they are: what trains, adapters, lm_head (unless `head`
 * asks for it), embeddings, norms, biases, vision tower and resampler. Each weight is freed as soon as it is quantized.
 */
export const quantizeLayers = (
  model: MiniCPMV,
  type: QuantizationType,
  options: { readonly head?: boolean } = {},
): Quantized => atOnce(quantizingLayers(model, type, options));

/** The same in steps. */
export function* quantizingLayers(
  model: MiniCPMV,
  type: QuantizationType,
  { head = false }: { readonly head?: boolean } = {},
): Steps<Quantized> {
  const adapters = new Set([...loraAdapters(model)].flatMap(([, , { loraA, loraB }]) => [loraA, loraB]));
  const byLayer = new Map<string, number>();
  const result = { tensors: 0, bytesBefore: 0, bytesAfter: 0 };
  for (const [name, module] of model.namedModules()) {
    const layer = layerOf(name, model.parts) ?? (head && name === model.parts.head ? name : undefined);
    if (layer === undefined || !(module instanceof Linear) || adapters.has(module)) continue;
    const { weight } = module;
    if (weight.compact !== undefined || weight.requiresGrad) continue;
    const { data } = weight;
    const compact = compactOf(data, type);
    result.tensors++;
    result.bytesBefore += data.nbytes;
    result.bytesAfter += compact.nbytes;
    byLayer.set(layer, (byLayer.get(layer) ?? 0) + data.nbytes);
    weight.compact = compact;
    yield;
  }
  return { ...result, layerBytes: Math.max(0, ...byLayer.values()) };
}
