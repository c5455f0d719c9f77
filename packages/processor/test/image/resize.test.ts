import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import wabt from 'wabt';
import { type RgbImage, resizeBicubic } from '../../src/image/resize.js';
import { kernelBytes } from '../../src/image/resize-kernel.js';

const { resize } = JSON.parse(
  readFileSync(join(import.meta.dirname, '../fixtures/pictures/expected.json'), 'utf8'),
) as {
  resize: [[number, number], [number, number], string][];
};

/** The pattern that make-pictures.py resized. */
function pattern(width: number, height: number): RgbImage {
  const data = Uint8Array.from({ length: width * height * 3 }, (_, i) => ((i * 7919) >> 3) + Math.floor(i / 97) * 31);
  return { data, width, height };
}

describe('resizeBicubic', () => {
  it.each(resize)('equals Pillow bit for bit: %j to %j', ([width, height], [newWidth, newHeight], expected) => {
    const image = resizeBicubic(pattern(width, height), newWidth, newHeight);
    expect([image.width, image.height, image.data.length]).toEqual([newWidth, newHeight, newWidth * newHeight * 3]);
    expect(createHash('sha256').update(image.data).digest('hex')).toBe(expected);
  });

  it('returns the same image when its size is right, and never changes its input', () => {
    const image = pattern(20, 10);
    expect(resizeBicubic(image, 20, 10)).toBe(image);
    const before = Uint8Array.from(image.data);
    resizeBicubic(image, 7, 30);
    expect(image.data).toEqual(before);
  });

  it('keeps a flat colour flat', () => {
    const flat = { data: new Uint8Array(50 * 40 * 3).fill(255), width: 50, height: 40 };
    expect(new Set(resizeBicubic(flat, 113, 17).data)).toEqual(new Set([255]));
  });
});

describe('the kernel', () => {
  it('is what its source says', async () => {
    const path = join(import.meta.dirname, '../../src/image/resize-kernel.wat');
    const module = (await wabt()).parseWat(path, readFileSync(path, 'utf8'), { simd: true });
    const { buffer } = module.toBinary({});
    module.destroy();
    expect(Buffer.from(kernelBytes()).toString('base64')).toBe(Buffer.from(buffer).toString('base64'));
  });
});
