/** Smoothing and reduction of series: nothing that the eye would see is lost. */
import { describe, expect, it } from 'vitest';
import { reduced, smoothed } from '../src/server/runs/reduce.js';

/** Numbers that look random and are the same in every run. */
function numbers(count: number, seed: number): Float64Array {
  let state = seed;
  return Float64Array.from({ length: count }, () => {
    state = (state * 1_103_515_245 + 12_345) % 2 ** 31;
    return state / 2 ** 31 - 0.5;
  });
}

describe('reduced', () => {
  it('keeps all points when they are few enough', () => {
    const x = Float64Array.of(1, 2, 3, 4);
    expect([...reduced({ x, y: x }, 4)]).toEqual([0, 1, 2, 3]);
  });

  it.each([
    [1, 10_000, 100],
    [2, 5001, 400],
    [3, 777, 8],
    [4, 100, 99],
  ])('keeps first, smallest, largest and last of every bucket (case %i)', (seed, count, most) => {
    const steps = numbers(count, seed + 100);
    const x = new Float64Array(count);
    for (let i = 1; i < count; i++) x[i] = x[i - 1]! + Math.max(0, steps[i]! + 0.3); // also equal ones, and holes
    const y = numbers(count, seed);
    const kept = reduced({ x, y }, most);
    expect(kept.length).toBeLessThanOrEqual(most);
    expect([...kept]).toEqual([...kept].sort((a, b) => a - b));
    expect(kept[0]).toBe(0);
    expect(kept.at(-1)).toBe(count - 1);
    const values = Array.from(kept, (i) => y[i]!);
    expect(Math.min(...values)).toBe(Math.min(...y));
    expect(Math.max(...values)).toBe(Math.max(...y));
    const buckets = Math.floor(most / 4);
    const width = (x[count - 1]! - x[0]!) / buckets;
    for (let bucket = 0; bucket < buckets; bucket++) {
      const inside = (i: number): boolean => Math.min(buckets - 1, Math.floor((x[i]! - x[0]!) / width)) === bucket;
      const all = [...y].filter((_, i) => inside(i));
      const left = Array.from(kept)
        .filter(inside)
        .map((i) => y[i]!);
      if (all.length === 0) expect(left).toEqual([]);
      else expect([Math.min(...left), Math.max(...left)]).toEqual([Math.min(...all), Math.max(...all)]);
    }
  });

  it('keeps a gap of every bucket that has one', () => {
    const x = Float64Array.from({ length: 1000 }, (_, i) => i);
    const y = Float64Array.from(x, (i) => (i === 500 || i === 501 ? Number.POSITIVE_INFINITY : i % 7));
    expect(Array.from(reduced({ x, y }, 40)).filter((i) => !Number.isFinite(y[i]!))).toEqual([500]);
  });
});

describe('smoothed', () => {
  it('is the debiased average over all points', () => {
    const [a, b, c] = [4, 8, 6];
    const w = 0.9;
    const second = (w * (1 - w) * a + (1 - w) * b) / (1 - w ** 2);
    const third = (w ** 2 * (1 - w) * a + w * (1 - w) * b + (1 - w) * c) / (1 - w ** 3);
    const result = smoothed(Float64Array.of(a, b, c), w, Uint32Array.of(0, 1, 2));
    expect(result[0]).toBeCloseTo(a, 12);
    expect(result[1]).toBeCloseTo(second, 12);
    expect(result[2]).toBeCloseTo(third, 12);
  });

  it('leaves constants alone and skips what is not finite', () => {
    const result = smoothed(Float64Array.of(3, 3, Number.POSITIVE_INFINITY, 3), 0.99, Uint32Array.of(0, 1, 2, 3));
    expect(result[1]).toBeCloseTo(3, 12);
    expect(result[2]).toBeNaN();
    expect(result[3]).toBeCloseTo(3, 12);
  });

  it.each([0.1, 0.9, 0.999])('is the same at chosen places, by a weight of %d', (weight) => {
    const y = Float64Array.from({ length: 60_000 }, (_, i) => (i % 977 === 5 ? Number.NaN : Math.sin(i) + i / 1e4));
    let [average, bias] = [0, 1];
    const plain = Array.from(y, (value) => {
      if (!Number.isFinite(value)) return Number.NaN;
      average = weight * average + (1 - weight) * value;
      bias *= weight;
      return average / (1 - bias);
    });
    const places = Uint32Array.of(0, 1, 5, 60, 2000, 59_000, 59_999);
    expect([...smoothed(y, weight, places)]).toEqual([...places].map((i) => plain[i]));
  });
});
