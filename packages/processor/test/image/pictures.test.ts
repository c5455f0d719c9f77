import { describe, expect, it } from 'vitest';
import { cutPicture, encodeImage, normalize } from '../../src/image/pictures.js';
import type { RgbImage } from '../../src/image/resize.js';

function image(width: number, height: number): RgbImage {
  return { data: Uint8Array.from({ length: width * height * 3 }, (_, i) => (i * 37) % 251), width, height };
}

/** The value of a channel at (x, y). */
function at({ data, width }: RgbImage, x: number, y: number, channel: number): number {
  return data[(y * width + x) * 3 + channel]!;
}

describe('cutPicture', () => {
  it('lays out planes', () => {
    const picture = image(11, 9);
    const { pixels, shape, rows, cols } = cutPicture(picture, [2, 1, 8, 7], 3, false);
    expect({ shape, rows, cols }).toEqual({ shape: [3, 6, 6], rows: 2, cols: 2 });
    for (let c = 0; c < 3; c++)
      for (let y = 0; y < 6; y++)
        for (let x = 0; x < 6; x++) expect(pixels[(c * 6 + y) * 6 + x]).toBe(at(picture, x + 2, y + 1, c));
  });

  it('lays out patches side by side, without the remainder', () => {
    const picture = image(14, 11);
    const patch = 4;
    const { pixels, shape, rows, cols } = cutPicture(picture, [0, 0, 14, 11], patch, true);
    expect({ shape, rows, cols }).toEqual({ shape: [3, 4, 24], rows: 2, cols: 3 });
    for (let c = 0; c < 3; c++)
      for (let i = 0; i < patch; i++)
        for (let k = 0; k < rows * cols; k++)
          for (let j = 0; j < patch; j++) {
            const [x, y] = [(k % cols) * patch + j, Math.floor(k / cols) * patch + i];
            expect(pixels[(c * patch + i) * 24 + k * patch + j]).toBe(at(picture, x, y, c));
          }
  });
});

describe('encodeImage', () => {
  const sliceConfig = { maxSliceNums: 4, scaleResolution: 56, patchSize: 14 };

  it('gives the overview first, then the slices row by row', () => {
    const { pictures, grid } = encodeImage(image(140, 70), { sliceConfig, patchSize: 14, batchVision: true });
    expect(grid).toEqual([3, 1]);
    expect(pictures.map(({ rows, cols }) => [rows, cols])).toEqual([
      [3, 6],
      [5, 3],
      [5, 3],
      [5, 3],
    ]);
    for (const { pixels, shape } of pictures) expect(pixels.length).toBe(shape[0] * shape[1] * shape[2]);
  });

  it('keeps the size without slicing, and then needs at least one patch', () => {
    const { pictures, grid } = encodeImage(image(30, 20), { sliceConfig: null, patchSize: 14, batchVision: false });
    expect({ grid, shape: pictures[0]!.shape }).toEqual({ grid: null, shape: [3, 20, 30] });
    const tooSmall = () => encodeImage(image(30, 13), { sliceConfig: null, patchSize: 14, batchVision: true });
    expect(tooSmall).toThrow('at least 14x14 pixels but received 30x13');
  });
});

describe('normalize', () => {
  it('rounds to float32 after each step', () => {
    const values = normalize(Uint8Array.from({ length: 256 }, (_, x) => x));
    for (let x = 0; x < 256; x++) {
      const scaled = new Float32Array([x / 255]);
      scaled[0]! -= 0.5;
      scaled[0]! /= 0.5;
      expect(values[x]).toBe(scaled[0]);
    }
    expect([values[0], values[255]]).toEqual([-1, 1]);
  });
});
