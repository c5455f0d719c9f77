import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { exactLog } from '../../src/image/exact-log.js';
import { ensureDivide, planSlices, roundHalfEven } from '../../src/image/geometry.js';

interface Case {
  size: [number, number];
  max_slice_nums: number;
  scale_resolution: number;
  patch_size: number;
  best_grid: number[] | null;
  source_size: number[];
  refine_size: number[] | null;
  patch_boxes: number[][][];
}

const reference = JSON.parse(readFileSync(join(import.meta.dirname, '../fixtures/reference/slices.json'), 'utf8')) as {
  cases: Case[];
  ensure_divide: [number, number, number][];
};

describe('rounding', () => {
  it('rounds halves to even, as Python does', () => {
    expect([0.5, 1.5, 2.5, 3.5, 2.4, 2.6, -0.5, -1.5].map(roundHalfEven)).toEqual(
      [0, 2, 2, 4, 2, 3, 0, -2].map((x) => x + 0),
    );
  });

  it('makes lengths divisible', () => {
    for (const [length, divisor, result] of reference.ensure_divide) expect(ensureDivide(length, divisor)).toBe(result);
  });

  it('has logarithms that mirror each other where the ratios do', () => {
    expect(exactLog(1)).toBe(0);
    expect(exactLog(2)).toBe(Math.LN2);
    expect(exactLog(10)).toBe(Math.LN10);
    // Values of the C library; V8's Math.log is off by one in the last place for each of them.
    expect(exactLog(4 / 13)).toBe(-1.1786549963416462);
    expect(exactLog(5 / 13)).toBe(-0.9555114450274363);
    expect(exactLog(5 / 14)).toBe(-1.0296194171811581);
    expect(exactLog(1e-300)).toBeCloseTo(-690.7755278982137, 12);
  });
});

describe('planSlices', () => {
  it('cuts as the official code does', () => {
    expect(reference.cases.length).toBeGreaterThan(200);
    for (const c of reference.cases) {
      const { max_slice_nums: maxSliceNums, scale_resolution: scaleResolution, patch_size: patchSize } = c;
      expect(planSlices(c.size, { maxSliceNums, scaleResolution, patchSize }), c.size.join('x')).toEqual({
        source: c.source_size,
        grid: c.best_grid,
        refine: c.refine_size,
        boxes: c.patch_boxes,
      });
    }
  });

  it('covers the refined picture with equal boxes in whole patches', () => {
    const plan = planSlices([1234, 777], { maxSliceNums: 9, scaleResolution: 448, patchSize: 14 });
    const boxes = plan.boxes.flat();
    expect(boxes.length).toBe(plan.grid![0] * plan.grid![1]);
    const area = boxes.reduce((sum, [left, top, right, bottom]) => sum + (right - left) * (bottom - top), 0);
    expect(area).toBe(plan.refine![0] * plan.refine![1]);
    for (const [left, top, right, bottom] of boxes) expect([(right - left) % 14, (bottom - top) % 14]).toEqual([0, 0]);
  });
});
