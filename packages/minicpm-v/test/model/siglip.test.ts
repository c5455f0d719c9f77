import { createHash } from 'node:crypto';
import { describe, expect, it } from 'vitest';
import { exactBuckets, positionBuckets, positionIds } from '../../src/model/siglip.js';

const SIDE = 70;
const floors = (n: number): number[] => Array.from({ length: n }, (_, i) => Math.floor((SIDE * i) / n));
const deviations = (n: number): number =>
  positionBuckets(n, SIDE).filter((bucket, i) => bucket !== floors(n)[i]).length;

describe('positionBuckets', () => {
  it('spreads patches over the table', () => {
    expect(positionBuckets(1, SIDE)).toEqual([0]);
    expect(positionBuckets(SIDE, SIDE)).toEqual(floors(SIDE));
    expect(positionBuckets(4, SIDE)).toEqual([0, 17, 35, 52]);
  });

  it('rounds as the float32 arithmetic of the reference where that is not exact', () => {
    const counts = Array.from({ length: SIDE }, (_, i) => [i + 1, deviations(i + 1)]).filter(([, count]) => count! > 0);
    expect(Object.fromEntries(counts)).toEqual({ 25: 4, 49: 4, 50: 6, 55: 4, 58: 1 });
  });

  it('equals torch.bucketize(torch.arange(…)) for all lengths up to 1200', () => {
    const hash = createHash('sha256');
    for (let n = 1; n <= 1200; n++) hash.update(Uint8Array.from(positionBuckets(n, SIDE)));
    expect(hash.digest('hex')).toBe('93e8f3540e83f607c82a45553d99c7d563fe4f3a34359ba10c77cda436a9e77c');
  });
});

describe('exactBuckets', () => {
  it('are the whole numbers in side * i / n, where rounding gives others', () => {
    expect(exactBuckets(3, 70)).toEqual([0, 23, 46]);
    const differ = Array.from({ length: 100 }, (_, i) => i + 1).filter(
      (n) => exactBuckets(n, 70).join() !== positionBuckets(n, 70).join(),
    );
    expect(differ.slice(0, 6)).toEqual([25, 49, 50, 55, 58, 77]);
  });
});

describe('positionIds', () => {
  it('are rows of the table, row by row of the picture', () => {
    expect([...positionIds(2, 3, SIDE, 'float32')]).toEqual([
      0n,
      23n,
      46n,
      35n * 70n,
      35n * 70n + 23n,
      35n * 70n + 46n,
    ]);
  });
});
