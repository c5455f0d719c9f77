/** The allocator of CPU tensors: values stay intact, memory does not grow, and what is kept never passes the tensors' own peak. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import {
  blockBytes,
  fromTypedArray,
  ops,
  resetTensorPeak,
  type Tensor,
  tensorBytes,
  trimMemory,
  tuneAllocator,
} from '../src/index.js';

const MIB = 2 ** 20;

const full = (size: number, value: number): Tensor => ops.full([size], value, { dtype: 'float32' });

/** Numbers that look random and are the same at every run. */
function numbers(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state * 1103515245 + 12345) % 2 ** 31;
    return state / 2 ** 31;
  };
}

beforeAll(() => {
  const older = full(1 << 20, 3); // from libtorch's own allocator
  tuneAllocator();
  older.dispose(); // goes back to where it came from
});
afterAll(() => trimMemory());

describe('memory of tensors', () => {
  it('keeps every value where blocks are split, joined and given back', () => {
    const random = numbers(1);
    const live: { tensor: Tensor; value: number }[] = [];
    for (let round = 0; round < 3000; round++) {
      if (live.length > 24 || (live.length > 0 && random() < 0.45)) {
        const [{ tensor, value }] = live.splice(Math.floor(random() * live.length), 1) as [(typeof live)[0]];
        const values = tensor.toTypedArray() as Float32Array;
        expect(values[0] === value && values[values.length - 1] === value && values[values.length >> 1] === value).toBe(
          true,
        );
        tensor.dispose();
      } else {
        const size = Math.floor(1 + random() ** 3 * MIB); // up to 4 MiB, on both sides of the limit
        live.push({ tensor: full(size, round), value: round });
      }
      if (round % 100 === 0) {
        const { inUse, kept, peak } = blockBytes();
        expect(inUse + kept).toBeLessThanOrEqual(peak);
      }
    }
    for (const { tensor } of live) tensor.dispose();
    expect(blockBytes().inUse).toBe(0);
  });

  it('is used again: a loop of the same sizes has the same peak', () => {
    const step = () => {
      const tensors = [5, 3, 9, 1, 7].map((mib) => full((mib * MIB) / 4, 1));
      tensors[1]!.dispose();
      tensors.push(full((4 * MIB) / 4, 2));
      for (const tensor of tensors) tensor.dispose();
    };
    step();
    const { peak } = blockBytes();
    for (let n = 0; n < 50; n++) step();
    expect(blockBytes().peak).toBe(peak);
    expect(blockBytes().kept).toBeGreaterThan(0);
  });

  it('goes back to the system when asked', () => {
    trimMemory();
    expect(blockBytes()).toMatchObject({ inUse: 0, kept: 0 });
  });

  it('refuses what the machine has not', () => {
    expect(() => full(2 ** 46, 0)).toThrow(/not enough memory/);
    expect(blockBytes().inUse).toBe(0);
  });

  it('is counted for tensors of every size, with the most since it was asked to', () => {
    const before = tensorBytes().inUse;
    resetTensorPeak();
    expect(tensorBytes().peak).toBe(before);
    const [small, large] = [full(100, 1), full(MIB, 1)];
    const { inUse } = tensorBytes();
    expect(inUse - before).toBeGreaterThanOrEqual(400 + 4 * MIB);
    expect(inUse - before).toBeLessThan(600 + 4 * MIB);
    large.dispose();
    expect(tensorBytes().inUse - before).toBeLessThan(600);
    expect(tensorBytes().peak).toBe(inUse);
    small.dispose();
    expect(tensorBytes().inUse).toBe(before);
  });

  it('survives empty tensors', () => {
    const none = fromTypedArray(new Float32Array(0), [0]);
    expect(none.toTypedArray()).toHaveLength(0);
    none.dispose();
  });
});
