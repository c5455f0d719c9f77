/** Positions on a canvas, for layouts small enough to be counted out. */
import { expect, it } from 'vitest';
import { canvasPositions } from '../../src/chat/canvas.js';

const marks = { imageStart: 1, imageEnd: 2, sliceStart: 3, sliceEnd: 4, newline: 5 };
const PAD = 9;
const TEXT = 7;

function positions(inputIds: number[], grids: [number, number][]) {
  const bounds: [number, number][] = [];
  for (const [i, id] of inputIds.entries()) {
    if (id !== PAD) continue;
    if (inputIds[i - 1] === PAD) bounds.at(-1)![1] = i + 1;
    else bounds.push([i, i + 1]);
  }
  const { positionIds, delta } = canvasPositions({ inputIds, bounds, grids, marks });
  const axis = (k: number): number[] => [...positionIds.subarray(k * inputIds.length, (k + 1) * inputIds.length)];
  return { times: axis(0), rows: axis(1), columns: axis(2), delta };
}

it('counts text without pictures one by one', () => {
  expect(positions([TEXT, TEXT, TEXT], [])).toEqual({
    times: [0, 1, 2],
    rows: [0, 1, 2],
    columns: [0, 1, 2],
    delta: 0,
  });
});

it('lays a picture of 2x3 tokens beside its marks, and goes on after its longer side', () => {
  expect(positions([TEXT, 1, PAD, PAD, PAD, PAD, PAD, PAD, 2, TEXT], [[2, 3]])).toEqual({
    times: [0, 1, 1, 1, 1, 1, 1, 1, 1, 5],
    rows: [0, 0, 1, 1, 1, 2, 2, 2, 3, 5],
    columns: [0, 0, 1, 2, 3, 1, 2, 3, 4, 5],
    delta: -4,
  });
});

it('spreads an overview over its slices, two rows of one token each', () => {
  //         <image> o  o </image> <slice> s </slice> \n <slice> s </slice> text
  const ids = [1, PAD, PAD, 2, 3, PAD, 4, 5, 3, PAD, 4, TEXT];
  expect(
    positions(ids, [
      [2, 1],
      [1, 1],
      [1, 1],
    ]),
  ).toEqual({
    times: [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3],
    rows: [0, 0, 1, 2, 0, 0, 0, 0, 1, 1, 1, 3],
    columns: [0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 3],
    delta: -8,
  });
});

it('puts frames one after the other', () => {
  const { times, delta } = positions(
    [1, PAD, 2, 1, PAD, 2, TEXT],
    [
      [1, 1],
      [1, 1],
    ],
  );
  expect(times).toEqual([0, 0, 0, 2, 2, 2, 4]);
  expect(delta).toBe(-2);
});
