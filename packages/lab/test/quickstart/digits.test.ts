/** The quickstart's data: nothing of a held-out digit is trained on, and variants are moved as little as they claim. */
import { describe, expect, it } from 'vitest';
import { examplesOf } from '../../src/quickstart/digits.js';
import { variantOf } from '../../src/quickstart/vary.js';

const SIDE = 28;

/** What a picture's file holds. */
const bytesOf = (picture: ArrayLike<number>): string =>
  Buffer.from(Uint8Array.from(picture, (level) => Math.round(level * 255))).toString('latin1');

describe('the digits', () => {
  const examples = Array.from({ length: 10 }, (_, digit) => [...examplesOf(digit, 1)]).flat();
  const part = (name: string): typeof examples => examples.filter((example) => example.part === name);

  it('are one tenth held out, and every other one has its variants', () => {
    const counts = { train: part('train').length, variants: part('variants').length, test: part('test').length };
    expect(counts).toEqual({ train: 9003, variants: 9003, test: 997 });
    const sources = part('variants').map(({ record }) => record.id.replace(/-1$/, ''));
    expect(sources).toEqual(part('train').map(({ record }) => record.id));
  });

  it('share no file and no picture between training and held-out digits', () => {
    const trained = [...part('train'), ...part('variants')];
    const files = new Set(trained.map(({ record }) => record.image));
    const pictures = new Set(trained.map(({ picture }) => bytesOf(picture)));
    expect(files.size).toBe(trained.length);
    const shared = part('test').filter(
      ({ record, picture }) => files.has(record.image) || pictures.has(bytesOf(picture)),
    );
    expect(shared).toEqual([]);
  });
});

describe('a variant', () => {
  const column = Float64Array.from({ length: SIDE * SIDE }, (_, i) => i % SIDE);
  const row = Float64Array.from({ length: SIDE * SIDE }, (_, i) => Math.floor(i / SIDE));

  /** Where pixel (x, y) of variant n comes from: bilinear interpolation of a ramp is the place itself. */
  const source = (n: number, x: number, y: number): [number, number] => {
    const i = y * SIDE + x;
    return [variantOf(column, SIDE, n)[i]!, variantOf(row, SIDE, n)[i]!];
  };

  it('is the digit turned by up to 12 degrees, resized by up to a tenth and shifted by up to 2 pixels', () => {
    const turns: number[] = [];
    for (let n = 1; n <= 200; n++) {
      const [ax, ay] = source(n, 10, 10);
      const [bx, by] = source(n, 17, 10);
      const [cx, cy] = source(n, 10, 17);
      const right = [(bx - ax) / 7, (by - ay) / 7] as const;
      const down = [(cx - ax) / 7, (cy - ay) / 7] as const;
      expect(down[0]).toBeCloseTo(-right[1], 9); // no shear and no mirror image
      expect(down[1]).toBeCloseTo(right[0], 9);
      const scale = 1 / Math.hypot(...right);
      expect(Math.abs(scale - 1)).toBeLessThanOrEqual(0.1 + 1e-9);
      turns.push((Math.atan2(right[1], right[0]) * 180) / Math.PI);
      // the pixel that shows the digit's centre, 13.5 and 13.5
      const [u, v] = [13.5 - ax, 13.5 - ay];
      const shift = [right, down].map(([p, q]) => (p * u + q * v) * scale * scale + 10 - 13.5);
      for (const pixels of shift) expect(Math.abs(pixels)).toBeLessThanOrEqual(2 + 1e-9);
    }
    expect(Math.max(...turns)).toBeLessThanOrEqual(12);
    expect(Math.max(...turns)).toBeGreaterThan(11);
    expect(Math.min(...turns)).toBeGreaterThanOrEqual(-12);
    expect(Math.min(...turns)).toBeLessThan(-11);
  });

  it('is black where nothing of the digit lands', () => {
    const white = new Float64Array(SIDE * SIDE).fill(1);
    const variants = Array.from({ length: 20 }, (_, n) => Array.from(variantOf(white, SIDE, n)));
    for (const levels of variants) expect(levels[14 * SIDE + 14]).toBeCloseTo(1, 9);
    expect(Math.min(...variants.flat())).toBe(0);
    expect(Math.max(...variants.flat())).toBeCloseTo(1, 9);
  });
});
