import { describe, expect, it } from 'vitest';
import { ops, scope, tensor } from '../src/index.js';
import { native } from '../src/native.js';
import { OPERATORS, type OperatorName } from '../src/operators.js';
import { parseDeclaration } from '../src/ops.js';

describe('the operator list', () => {
  it.each(Object.keys(OPERATORS) as OperatorName[])('%s is declared as libtorch has it', (key) => {
    const { name, overload, args } = parseDeclaration(OPERATORS[key]);
    const { names } = native.resolve(name, overload);
    for (const arg of args) expect(names).toContain(arg.name);
    const positions = args.map((arg) => names.indexOf(arg.name));
    expect(positions).toEqual([...positions].sort((a, b) => a - b));
  });
});

describe('operators', () => {
  it('take positional arguments, defaults and keywords', () => {
    scope(() => {
      const x = tensor([1, 2, 3, 4]);
      expect(ops.add(x, x, { alpha: 2 }).toNumbers()).toEqual([3, 6, 9, 12]);
      expect(ops.slice(x, 0, 1, 3).toNumbers()).toEqual([2, 3]);
      expect(ops.clamp(x, null, 2).toNumbers()).toEqual([1, 2, 2, 2]);
      expect(ops.zeros([2], { dtype: 'int64' }).dtype).toBe('int64');
      expect(ops.sum(x, null, true).shape).toEqual([1]);
    });
  });

  it('return tuples, lists, booleans and themselves', () => {
    scope(() => {
      const x = tensor([3, 1, 2]);
      const [values, indices] = ops.topk(x, 2);
      expect(values.toNumbers()).toEqual([3, 2]);
      expect(indices.toNumbers()).toEqual([0, 2]);
      expect(ops.split(x, 2).map((part) => part.toNumbers())).toEqual([[3, 1], [2]]);
      expect(ops.equal(x, x)).toBe(true);
      expect(ops.addScalar_(x, 1)).toBe(x);
      expect(x.toNumbers()).toEqual([4, 2, 3]);
    });
  });

  it('take optional tensors in lists', () => {
    scope(() => {
      const x = tensor([
        [1, 2],
        [3, 4],
      ]);
      expect(ops.index(x, [null, tensor([1], 'int64')]).toNumbers()).toEqual([2, 4]);
    });
  });

  it('say which argument is missing', () => {
    using x = tensor([1]);
    expect(() => (ops.reshape as (...args: unknown[]) => unknown)(x)).toThrow(/argument 'shape' is missing/);
  });
});
