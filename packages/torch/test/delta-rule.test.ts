import { describe, expect, it } from 'vitest';
import { type DType, enableGrad, grad, keep, manualSeed, ops, scope, type Tensor } from '../src/index.js';
import { roundings } from './precision.js';

interface Sizes {
  readonly batches?: number;
  readonly rows: number;
  readonly keyHeads: number;
  readonly heads: number;
  readonly keySize: number;
  readonly size: number;
}

/** Query, key, value, decay (at most 0) and beta (0 to 1), in float64. */
function random({ batches = 1, rows, keyHeads, heads, keySize, size }: Sizes, scale = 1): Tensor[] {
  const normal = (shape: number[]) => ops.randn(shape, { dtype: 'float64' });
  const uniform = () => ops.rand([batches, rows, heads], { dtype: 'float64' });
  return [
    normal([batches, rows, keyHeads, keySize]),
    normal([batches, rows, keyHeads, keySize]),
    normal([batches, rows, heads, size]),
    ops.mulScalar(ops.square(uniform()), -scale),
    uniform(),
  ];
}

type Delta = (...inputs: Tensor[]) => Tensor;
const delta =
  (lengths: readonly number[] | null = null, states: readonly Tensor[] = []): Delta =>
  (q, k, v, decay, beta) =>
    ops.gatedDeltaRule(q!, k!, v!, decay!, beta!, states, { lengths });

/** One token after another, one sequence: what the operator is by definition. */
const recurrence: Delta = (query, key, value, decay, beta) => {
  const group = value!.size(2) / key!.size(2);
  const unit = (x: Tensor) => {
    const squares = ops.sum(ops.square(x), [-1], true);
    return ops.repeatInterleave(ops.mul(x, ops.rsqrt(ops.addScalar(squares, 1e-6))), group, 2);
  };
  const [q, k] = [ops.divScalar(unit(query!), Math.sqrt(key!.size(3))), unit(key!)];
  let state = ops.zeros([value!.size(0), value!.size(2), key!.size(3), value!.size(3)], { dtype: value!.dtype });
  const outputs: Tensor[] = [];
  for (let t = 0; t < value!.size(1); t++) {
    const at = (x: Tensor) => ops.select(x, 1, t);
    const column = (x: Tensor) => ops.unsqueeze(at(x), -1);
    state = ops.mul(state, ops.unsqueeze(ops.exp(column(decay!)), -1));
    const read = (x: Tensor) => ops.sum(ops.mul(state, column(x)), [-2]);
    const change = ops.mul(ops.sub(at(value!), read(k)), column(beta!));
    state = ops.add(state, ops.mul(column(k), ops.unsqueeze(change, -2)));
    outputs.push(read(q));
  }
  return ops.stack(outputs, 1);
};

/** Runs a function on each sequence of a row alone. */
const separately =
  (f: Delta, lengths: readonly number[]): Delta =>
  (...inputs) => {
    const parts = inputs.map((x) => ops.splitWithSizes(x, lengths, 1));
    return ops.cat(
      lengths.map((_, i) => f(...parts.map((part) => part[i]!))),
      1,
    );
  };

/** The result and the gradients of all inputs, in float64. `dtype`: of all but decay and beta, which are at least float32. */
function both(f: Delta, inputs: readonly Tensor[], gradient: Tensor, dtype: DType, others: DType = dtype): Tensor[] {
  const leaves = inputs.map((input, i) => {
    const leaf = ops.detach(ops.to(input, i < inputs.length - 2 ? dtype : others, false, true));
    leaf.requiresGrad = true;
    return leaf;
  });
  const y = enableGrad(() => f(...leaves));
  const gradients = grad([y], leaves, { gradOutputs: [ops.to(gradient, dtype)] });
  return [ops.detach(y), ...gradients.map((g) => g!)].map((x) => ops.to(x, 'float64'));
}

const NAMES = ['output', 'query', 'key', 'value', 'decay', 'beta'];

function expectClose(actual: readonly Tensor[], expected: readonly Tensor[], tolerance: number): void {
  for (const [i, x] of expected.entries()) {
    expect(actual[i]!.shape).toEqual(x.shape);
    const distance = ops.linalgVectorNorm(ops.sub(actual[i]!, x)).item();
    expect(distance, NAMES[i]!).toBeLessThanOrEqual(tolerance * ops.linalgVectorNorm(x).item());
  }
}

const CASES: [string, Sizes, number[] | null, number][] = [
  ['fewer than a chunk', { rows: 7, keyHeads: 2, heads: 2, keySize: 16, size: 16 }, null, 1],
  ['one token', { batches: 2, rows: 1, keyHeads: 1, heads: 2, keySize: 8, size: 4 }, null, 1],
  ['shared key heads, unequal sizes', { batches: 2, rows: 150, keyHeads: 2, heads: 6, keySize: 24, size: 40 }, null, 1],
  ['the published sizes', { rows: 200, keyHeads: 2, heads: 2, keySize: 128, size: 128 }, null, 0.3],
  ['packed', { rows: 300, keyHeads: 2, heads: 4, keySize: 32, size: 16 }, [64, 1, 129, 3, 103], 0.1],
  ['gates that close', { rows: 130, keyHeads: 1, heads: 2, keySize: 16, size: 20 }, null, 2000],
];

/** Sums of up to 200 numbers of both signs, some ten of them one after another. */
const EXACT = roundings(30 * Math.sqrt(200));

describe('gatedDeltaRule', () => {
  it.each(CASES)('is the recurrence and has its gradient: %s', (_, sizes, lengths, scale) => {
    manualSeed(1);
    scope(() => {
      const inputs = random(sizes, scale);
      const gradient = ops.randn(inputs[2]!.shape, { dtype: 'float64' });
      const plain = lengths === null ? recurrence : separately(recurrence, lengths);
      const expected = both(plain, inputs, gradient, 'float64');
      expectClose(both(delta(lengths), inputs, gradient, 'float64'), expected, 1e-10);
      expectClose(both(delta(lengths), inputs, gradient, 'float32'), expected, EXACT);
    });
  });
});
