/** A tiny model in memory with records for it, and comparisons of gradients, for tests of steps. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { loadWeights, MiniCPMV } from '@minicpm-finetune/minicpm-v';
import { countTokens, type EncodedPicture, type EncodedSample, readConfig } from '@minicpm-finetune/processor';
import { type DType, ops, scope, type Tensor } from '@minicpm-finetune/torch';
import { Random } from '../../src/data/random.js';
import { tinyModel } from './tiny-model.js';

/** The tiny MiniCPM-V 2.6; nothing of it stays on the disk. */
export function modelInMemory(seed = 1, dtype: DType = 'float32'): MiniCPMV {
  const folder = mkdtempSync(join(tmpdir(), 'tiny-'));
  try {
    tinyModel(folder, seed);
    const model = new MiniCPMV(readConfig(folder));
    loadWeights(model, folder, { dtype });
    return model;
  } finally {
    rmSync(folder, { recursive: true });
  }
}

/** A picture of noise, `rows` by `cols` patches. */
function noisePicture(model: MiniCPMV, rows: number, cols: number, seed: number): EncodedPicture {
  const patch = model.config.vision.patchSize;
  const random = new Random(seed, rows, cols);
  const shape: [number, number, number] = [3, patch, patch * rows * cols];
  return {
    pixels: Uint8Array.from({ length: 3 * patch * patch * rows * cols }, () => random.below(256)),
    shape,
    rows,
    cols,
  };
}

/** A record of `length` tokens with pictures of the given sizes, in what the model's sides are multiples of; the second half of its tokens is supervised. */
export function noiseSample(
  model: MiniCPMV,
  length: number,
  sizes: readonly (readonly [rows: number, cols: number])[],
  seed: number,
): EncodedSample {
  const { llm, pictureTokens, canvas } = model.config;
  const multiple = model.version.sliceMultiple;
  const grids = sizes.map(([rows, cols]) => ({ rows: rows * multiple, cols: cols * multiple }));
  const random = new Random(seed, length);
  const inputIds = Int32Array.from({ length }, () => random.below(llm.vocabSize));
  const labels = inputIds.map((_, i) => (i >= length >> 1 && i < length - 1 ? inputIds[i + 1]! : -100));
  let at = 0;
  const imageBounds = grids.map((grid): [number, number] => {
    const start = at + 1;
    at = start + countTokens(pictureTokens, grid);
    return [start, at];
  });
  const pictures = grids.map(({ rows, cols }, i) => noisePicture(model, rows, cols, seed + i));
  const positionIds = Int32Array.from({ length: 3 * length }, (_, i) => (i % length) + random.below(3));
  return { inputIds, labels, imageBounds, pictures, ...(canvas && { positionIds }) };
}

const largest = (tensor: Tensor): number => scope(() => ops.maxAll(ops.abs(tensor)).item());

/**
 * The largest difference of two sets of tensors, relative to the scale of the tensor it is in, but no less than a thousandth of the largest
 * scale (gradients of key biases are zero but for rounding). The names have to be the same.
 */
export function largestDifference(a: ReadonlyMap<string, Tensor>, b: ReadonlyMap<string, Tensor>): number {
  const names = [...a.keys()].sort();
  if (names.join() !== [...b.keys()].sort().join()) throw new Error(`different tensors: ${names} and ${[...b.keys()]}`);
  const scales = names.map((name) => largest(a.get(name)!));
  const least = Math.max(...scales) / 1000;
  const differences = names.map((name, i) => {
    const most = scope(() => largest(ops.sub(a.get(name)!, b.get(name)!)));
    return most / Math.max(scales[i]!, least);
  });
  return Math.max(...differences);
}
