import { describe, expect, it } from 'vitest';
import { keep, liveTensors, ops, scope, type Tensor, tensor } from '../src/index.js';

const live = () => liveTensors().tensors;

describe('scope', () => {
  it('frees what was made inside and passes the result to the caller', () => {
    const before = live();
    const y = scope(() => {
      const x = tensor([1, 2]);
      return ops.add(x, x);
    });
    expect(live()).toBe(before + 1);
    expect(y.toNumbers()).toEqual([2, 4]);
    y.dispose();
    expect(live()).toBe(before);
  });

  it('passes tensors in arrays, maps and objects to the scope around', () => {
    const before = live();
    scope(() => {
      const { list, map } = scope(() => ({ list: [tensor([1])], map: new Map([['a', tensor([2])]]), number: 3 }));
      expect(list[0]!.toNumbers()).toEqual([1]);
      expect(map.get('a')!.toNumbers()).toEqual([2]);
    });
    expect(live()).toBe(before);
  });

  it('leaves kept tensors to their owner', () => {
    let kept: Tensor | undefined;
    const before = live();
    scope(() => {
      scope(() => {
        kept = keep(tensor([5]));
      });
    });
    expect(kept!.toNumbers()).toEqual([5]);
    kept!.dispose();
    expect(live()).toBe(before);
  });

  it('frees when the function throws', () => {
    const before = live();
    expect(() =>
      scope(() => {
        tensor([1]);
        throw new Error('no');
      }),
    ).toThrow('no');
    expect(live()).toBe(before);
  });

  it('refuses to wait', () => {
    expect(() => scope(async () => 1)).toThrow(/synchronous/);
  });

  it('keeps the count flat over a long loop', () => {
    using x = ops.ones([64]);
    const before = live();
    for (let i = 0; i < 2000; i++) scope(() => ops.mul(ops.add(x, x), x));
    // what a scope returns to no scope belongs to the collector; here nobody held it, so it may still be there
    scope(() => {
      const inside = live();
      for (let i = 0; i < 2000; i++) scope(() => void ops.mul(ops.add(x, x), x));
      expect(live()).toBe(inside);
    });
    expect(live()).toBeGreaterThanOrEqual(before);
  });
});
