import { expect, test } from 'vitest';
import { alignLines, type Line, nearestIndex, rowsOf, summarize, thin, toCsv } from '../../page/charts/lines.js';
import { lineStyle } from '../../page/charts/palette.js';

const line = (x: number[], y: (number | null)[], label = 'loss'): Line => ({ key: label, label, x, y, style: 0 });

test('the sentence of a line knows its ends, extremes and gaps', () => {
  const summary = summarize(line([1, 2, 3, 4], [3, null, 0.5, 2]));
  expect(summary).toEqual({ first: 3, last: 2, lastX: 4, lowest: 0.5, highest: 3, finite: 3, gaps: 1 });
  expect(summarize(line([1], [null]))).toBeUndefined();
});

test('lines with points at different places become one table', () => {
  const rows = rowsOf([line([1, 2, 4], [10, null, 40]), line([2, 3], [7, 8], 'eval')]);
  expect(rows).toEqual([
    [1, 10, undefined],
    [2, null, 7],
    [3, undefined, 8],
    [4, 40, undefined],
  ]);
});

test('CSV writes what was not finite as NaN, leaves out what there is not, and quotes names', () => {
  const csv = toCsv('step', [line([1, 2], [0.5, null], 'a, "b"'), line([2], [1])]);
  expect(csv).toBe('step,"a, ""b""",loss\n1,0.5,\n2,NaN,1\n');
});

test('uPlot gets null for a gap and undefined where a line has no point', () => {
  const { x, y } = alignLines([
    [
      [1, 3],
      [0.1, null],
    ],
    [[2], [5]],
  ]);
  expect(x).toEqual([1, 2, 3]);
  expect(y).toEqual([
    [0.1, undefined, null],
    [undefined, 5, undefined],
  ]);
});

test('lines of one x are as they stand', () => {
  const x = [1, 2, 4];
  const ys = [
    [5, null, 7],
    [1, 2, 3],
  ];
  expect(alignLines(ys.map((y) => [x, y] as const))).toEqual(alignLines(ys.map((y) => [[...x], y] as const)));
  expect(alignLines([])).toEqual({ x: [], y: [] });
});

test('a thinned table keeps the first and the last row', () => {
  const rows = Array.from({ length: 1000 }, (_, index) => index);
  const kept = thin(rows, 200);
  expect(kept).toHaveLength(200);
  expect([kept[0], kept.at(-1)]).toEqual([0, 999]);
  expect(thin([1, 2], 200)).toEqual([1, 2]);
});

test('the nearest point is found', () => {
  expect(nearestIndex([10, 20, 30], 24)).toBe(1);
  expect(nearestIndex([10, 20, 30], 26)).toBe(2);
  expect(nearestIndex([10, 20, 30], -5)).toBe(0);
  expect(nearestIndex([10, 20, 30], 99)).toBe(2);
  expect(nearestIndex([], 1)).toBe(-1);
});

test('the first 42 lines differ by colour and dash', () => {
  for (const dark of [false, true]) {
    const looks = Array.from({ length: 42 }, (_, place) => JSON.stringify(lineStyle(place, dark)));
    expect(new Set(looks).size).toBe(42);
    const six = Array.from({ length: 6 }, (_, place) => lineStyle(place, dark));
    expect(new Set(six.map(({ color }) => color)).size).toBe(6);
    expect(new Set(six.map(({ dash }) => dash.join())).size).toBe(6);
  }
});
