import { describe, expect, it } from 'vitest';
import { padBatch } from '../../src/parity/pad.js';

function sample(...ids: number[]) {
  return { inputIds: Int32Array.from(ids), labels: Int32Array.from(ids, (id) => -id) };
}

describe('padBatch', () => {
  it('pads on the right: ids and positions with 0, labels with -100', () => {
    const batch = padBatch([sample(5, 6, 7), sample(8)]);
    expect(batch).toEqual({
      length: 3,
      inputIds: Int32Array.from([5, 6, 7, 8, 0, 0]),
      positionIds: Int32Array.from([0, 1, 2, 0, 0, 0]),
      labels: Int32Array.from([-5, -6, -7, -8, -100, -100]),
      attentionMask: Uint8Array.from([1, 1, 1, 1, 0, 0]),
    });
  });

  it('cuts what is longer than allowed', () => {
    const { length, inputIds, attentionMask } = padBatch([sample(1, 2, 3, 4), sample(5)], 2);
    expect(length).toBe(2);
    expect([...inputIds]).toEqual([1, 2, 5, 0]);
    expect([...attentionMask]).toEqual([1, 1, 1, 0]);
  });

  it('takes no samples', () => {
    expect(padBatch([]).length).toBe(0);
  });
});
