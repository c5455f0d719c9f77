import { describe, expect, it } from 'vitest';
import {
  type DType,
  enableGrad,
  grad,
  manualSeed,
  ops,
  scope,
  setThreads,
  type Tensor,
  threads,
} from '../src/index.js';
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

/** The result and the gradients of all inputs, in float64. `gates`: the type of decay and beta. */
function both(f: Delta, inputs: readonly Tensor[], gradient: Tensor, dtype: DType, gates: DType = dtype): Tensor[] {
  const leaves = inputs.map((input, i) => {
    const leaf = ops.detach(ops.to(input, i < 3 ? dtype : gates, false, true));
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

/** What is read, the result and its gradient, and the gradients are rounded. */
const ROUNDED = roundings(2, 'bfloat16');

/** The first and the other tokens, one call after another. */
function pieces(f: (parts: Tensor[]) => Tensor, inputs: readonly Tensor[], lengths: readonly number[]): Tensor {
  const parts = inputs.map((x) => ops.splitWithSizes(x, lengths, 1));
  return ops.cat(
    lengths.map((_, i) => f(parts.map((part) => part[i]!))),
    1,
  );
}

describe('gatedDeltaRule', () => {
  it.each(CASES)('is the recurrence and has its gradient: %s', (_, sizes, lengths, scale) => {
    manualSeed(1);
    scope(() => {
      const inputs = random(sizes, scale).map((x) => ops.to(ops.to(x, 'bfloat16'), 'float64'));
      const gradient = ops.to(ops.to(ops.randn(inputs[2]!.shape), 'bfloat16'), 'float64');
      const plain = lengths === null ? recurrence : separately(recurrence, lengths);
      const expected = both(plain, inputs, gradient, 'float64');
      expectClose(both(delta(lengths), inputs, gradient, 'float64'), expected, 1e-10);
      expectClose(both(delta(lengths), inputs, gradient, 'float32'), expected, EXACT);
      expectClose(both(delta(lengths), inputs, gradient, 'bfloat16', 'float32'), expected, ROUNDED);
      expectClose(both(delta(lengths), inputs, gradient, 'float16', 'float32'), expected, ROUNDED);
    });
  });

  it('has the derivative that differences show', () => {
    manualSeed(2);
    scope(() => {
      const inputs = random({ rows: 70, keyHeads: 1, heads: 2, keySize: 3, size: 5 });
      const gradient = ops.randn(inputs[2]!.shape, { dtype: 'float64' });
      const f = delta([67, 3]);
      const gradients = both(f, inputs, gradient, 'float64').slice(1);
      const along = inputs.map((x) => ops.randn(x.shape, { dtype: 'float64' }));
      const value = (step: number) =>
        ops.sumAll(ops.mul(f(...inputs.map((x, i) => ops.add(x, along[i]!, { alpha: step }))), gradient)).item();
      const slope = gradients.reduce((sum, g, i) => sum + ops.sumAll(ops.mul(g, along[i]!)).item(), 0);
      const h = 1e-5; // the third derivative's part is h², that of rounding 1e-16 / h
      expect(Math.abs((value(h) - value(-h)) / (2 * h) - slope)).toBeLessThan(1e-8 * Math.abs(slope) + 1e-8);
    });
  });

  it('goes on from states as if the tokens had come at once', () => {
    manualSeed(3);
    scope(() => {
      for (const dtype of ['float32', 'bfloat16'] as const) {
        const sizes = { batches: 2, rows: 140, keyHeads: 2, heads: 4, keySize: 24, size: 20 };
        const inputs = random(sizes, 0.2).map((x, i) => ops.to(x, i < 3 ? dtype : 'float32'));
        const states = [0, 1].map(() => ops.zeros([4, 24, 20]));
        const whole = ops.to(delta()(...inputs), 'float64');
        const cut = ops.to(
          pieces((parts) => delta(null, states)(...parts), inputs, [70, 1, 1, 66, 1, 1]),
          'float64',
        );
        expectClose([cut], [whole], dtype === 'float32' ? EXACT : roundings(1, 'bfloat16'));
      }
    });
  });

  it('gives a sequence the same bits whatever is beside it and however many threads there are', () => {
    manualSeed(4);
    scope(() => {
      const lengths = [5, 80, 64, 1];
      const inputs = random({ rows: 150, keyHeads: 2, heads: 4, keySize: 16, size: 32 }).map((x) =>
        ops.to(x, 'float32'),
      );
      const gradient = ops.randn(inputs[2]!.shape);
      const before = threads();
      try {
        const results = [1, 2, 3].map((count) => {
          setThreads(count);
          return both(count === 3 ? separately(delta(), lengths) : delta(lengths), inputs, gradient, 'float32');
        });
        for (const other of results.slice(1))
          for (const [i, x] of other.entries()) expect(ops.equal(x, results[0]![i]!), NAMES[i]!).toBe(true);
      } finally {
        setThreads(before);
      }
    });
  });

  it('reads views of one tensor, and does not hide what is not finite', () => {
    manualSeed(5);
    scope(() => {
      const [q, k, v] = ops.splitWithSizes(ops.randn([1, 70, 32 + 32 + 64]), [32, 32, 64], -1);
      const heads = [q!, k!, v!].map((x, i) => ops.view(x, [1, 70, i < 2 ? 2 : 4, 16]));
      const gates = random({ rows: 70, keyHeads: 2, heads: 4, keySize: 16, size: 16 }).slice(3);
      const inputs = [...heads, ...gates.map((x) => ops.to(x, 'float32'))];
      const y = delta()(...inputs);
      expect(ops.equal(y, delta()(...inputs.map((x) => ops.contiguous(x))))).toBe(true);
      ops.fill_(ops.narrow(v!, 1, 20, 1), Number.NaN);
      const parts = ops.splitWithSizes(ops.isfinite(delta([40, 30])(...inputs)), [20, 20, 30], 1) as [
        Tensor,
        Tensor,
        Tensor,
      ];
      expect([ops.any(parts[1]).item(), ops.all(parts[2]).item()]).toEqual([0, 1]);
    });
  });

  it('says what does not fit', () => {
    scope(() => {
      const inputs = random({ rows: 4, keyHeads: 2, heads: 4, keySize: 8, size: 6 });
      const [q, k, v, decay, beta] = inputs as [Tensor, Tensor, Tensor, Tensor, Tensor];
      const run = (...others: Tensor[]) => delta()(...others, ...inputs.slice(others.length));
      expect(() => run(q, q, q)).toThrow(/expected decay and beta \[1, 4, 2\] of type Double but received \[1, 4, 4\]/);
      expect(() => run(q, k, ops.narrow(v, 2, 0, 3))).toThrow(/a divisor of its heads, but received \[1, 4, 2, 8\]/);
      expect(() => run(...[q, k, v].map((x) => ops.to(x, 'float32')))).toThrow(/of type Float but .* of type Double/);
      expect(() => delta([2, 3])(...inputs)).toThrow(/one row of sequences of lengths \[2, 3\]/);
      expect(() => delta([4, 0])(...inputs)).toThrow(/lengths above 0 but received \[4, 0\]/);
      expect(() => delta(null, [decay, beta])(...inputs)).toThrow(/a state for each of 1 sequences but received 2/);
      expect(() => delta(null, [ops.zeros([4, 8, 6])])(...inputs)).toThrow(/dense states \[4, 8, 6\] of type Double/);
    });
  });

  it('has shapes and gradients on the meta device', () => {
    scope(() => {
      const leaves = random({ rows: 70, keyHeads: 2, heads: 4, keySize: 8, size: 6 }).map((x) => {
        const leaf = ops.emptyLike(x, { device: 'meta' });
        leaf.requiresGrad = true;
        return leaf;
      });
      const y = enableGrad(() => delta([30, 40])(...leaves));
      expect(y.shape).toEqual([1, 70, 4, 6]);
      const gradients = grad([y], leaves, { gradOutputs: [ops.emptyLike(y)] });
      for (const [i, leaf] of leaves.entries()) expect(gradients[i]!.shape).toEqual(leaf.shape);
    });
  });
});

type Conv = (x: Tensor, weight: Tensor) => Tensor;
const conv =
  (lengths: readonly number[] | null = null, states: readonly Tensor[] = []): Conv =>
  (x, weight) =>
    ops.causalConv1dSilu(x, weight, states, { lengths });

/** Each sequence between zeros, tap by tap. */
const plainConv =
  (lengths: readonly number[]): Conv =>
  (x, weight) => {
    const taps = weight.size(2);
    const outputs = ops.splitWithSizes(x, lengths, 1).map((part) => {
      const padded = ops.constantPadNd(part, [0, 0, taps - 1, 0]);
      const terms = Array.from({ length: taps }, (_, tap) =>
        ops.mul(ops.narrow(padded, 1, tap, part.size(1)), ops.select(ops.squeeze(weight, 1), 1, tap)),
      );
      return ops.silu(terms.reduce((a, b) => ops.add(a, b)));
    });
    return ops.cat(outputs, 1);
  };

describe('causalConv1dSilu', () => {
  it.each<[string, number[], number, number[] | null]>([
    ['one sequence in each batch', [3, 50, 300], 4, null],
    ['packed, also shorter than the taps', [1, 20, 24], 4, [1, 2, 3, 14]],
    ['more taps than the kernel has', [1, 30, 5], 9, [13, 17]],
  ])('is a convolution inside of each sequence, with its gradient: %s', (_, shape, taps, lengths) => {
    manualSeed(6);
    scope(() => {
      const bf16 = (of: number[]) => ops.to(ops.to(ops.randn(of), 'bfloat16'), 'float64');
      const inputs = [bf16(shape), bf16([shape[2]!, 1, taps])];
      const gradient = bf16(shape);
      const plain = plainConv(lengths ?? [shape[1]!]) as Delta;
      const run = (dtype: DType) => both(conv(lengths) as Delta, inputs, gradient, dtype);
      const expected = both(plain, inputs, gradient, 'float64');
      expectClose(run('float64'), expected, 1e-12);
      expectClose(run('float32'), expected, roundings(10 * Math.sqrt(150)));
      expectClose(run('bfloat16'), expected, roundings(1, 'bfloat16'));
      expectClose(run('float16'), expected, roundings(1, 'bfloat16'));
    });
  });

  it('goes on from states as if the rows had come at once', () => {
    manualSeed(7);
    scope(() => {
      const [x, weight] = [ops.randn([2, 12, 20]), ops.randn([20, 1, 4])];
      const states = [0, 1].map(() => ops.zeros([3, 20]));
      const cut = pieces(([part]) => conv(null, states)(part!, weight), [x], [1, 2, 5, 1, 3]);
      expect(ops.equal(cut, conv()(x, weight))).toBe(true);
      for (const [i, state] of states.entries())
        expect(ops.equal(state, ops.narrow(ops.select(x, 0, i), 0, 9, 3))).toBe(true);
    });
  });

  it('says what does not fit', () => {
    scope(() => {
      const [x, weight] = [ops.randn([1, 6, 5]), ops.randn([5, 1, 4])];
      expect(() => conv()(x, ops.randn([4, 1, 4]))).toThrow(
        /weight \(channels, 1, taps\).*\[1, 6, 5\] and \[4, 1, 4\]/,
      );
      expect(() => conv([5])(x, weight)).toThrow(/one row of sequences of lengths \[5\]/);
      expect(() => conv(null, [ops.randn([4, 5])])(x, weight)).toThrow(/dense states \[3, 5\].*\[4, 5\]/);
      x.requiresGrad = true;
      expect(() => enableGrad(() => conv(null, [ops.randn([3, 5])])(x, weight))).toThrow(/no gradient with states/);
    });
  });
});
