import { describe, expect, it } from 'vitest';
import {
  blockBytes,
  type DType,
  enableGrad,
  grad,
  keep,
  liveTensors,
  manualSeed,
  ops,
  scope,
  setThreads,
  type Tensor,
  threads,
  tuneAllocator,
} from '../src/index.js';
import { expectNear, roundings } from './precision.js';

/** Random numbers that bfloat16 has, so that both types compute from the same. */
const random = (shape: readonly number[]): Tensor => ops.to(ops.to(ops.randn(shape), 'bfloat16'), 'float32');

/** Output and gradients of `f` at inputs of a type, in float32. */
function both(f: (...inputs: Tensor[]) => Tensor, inputs: readonly Tensor[], gradient: Tensor, dtype: DType): Tensor[] {
  const leaves = inputs.map((input) => {
    const leaf = ops.detach(ops.to(input, dtype, false, true));
    leaf.requiresGrad = true;
    return leaf;
  });
  const y = enableGrad(() => f(...leaves));
  const gradients = grad([y], leaves, { gradOutputs: [ops.to(gradient, dtype)] });
  return [ops.detach(y), ...gradients.map((g) => g!)].map((x) => ops.to(x, 'float32'));
}

/** ‖a - b‖ / ‖b‖ */
const distance = (a: Tensor, b: Tensor): number =>
  ops.linalgVectorNorm(ops.sub(a, b)).item() / ops.linalgVectorNorm(b).item();

/** Attention written out: every sequence for itself, all scores at once. */
function plainAttention(lengths: readonly number[] | null, causal: boolean) {
  return (q: Tensor, k: Tensor, v: Tensor): Tensor => {
    const group = q.size(1) / k.size(1);
    const parts = [q, ops.repeatInterleave(k, group, 1), ops.repeatInterleave(v, group, 1)].map((x) =>
      ops.splitWithSizes(x, lengths ?? [x.size(2)], 2),
    ) as [Tensor[], Tensor[], Tensor[]];
    const outputs = parts[0].map((query, i) => {
      const scores = ops.divScalar(ops.matmul(query, ops.transpose(parts[1][i]!, 2, 3)), Math.sqrt(q.size(3)));
      const future = ops.triu(ops.ones([query.size(2), parts[1][i]!.size(2)], { dtype: 'bool' }), 1);
      const seen = causal ? ops.maskedFill(scores, future, Number.NEGATIVE_INFINITY) : scores;
      return ops.matmul(ops.softmax(seen, -1), parts[2][i]!);
    });
    return ops.cat(outputs, 2);
  };
}

const attention = (lengths: readonly number[] | null, causal: boolean) => (q: Tensor, k: Tensor, v: Tensor) =>
  ops.attention(q, k, v, { lengths, is_causal: causal });

const CASES: [string, number[], number[], number[] | null, boolean][] = [
  ['causal, shared keys', [2, 6, 150, 64], [2, 2, 150, 64], null, true],
  ['packed sequences', [1, 4, 333, 128], [1, 2, 333, 128], [100, 1, 64, 168], true],
  ['more keys than are scored at a time', [1, 2, 700, 32], [1, 1, 700, 32], null, true],
  ['all see all, heads of 72', [3, 4, 130, 72], [3, 4, 130, 72], null, false],
  ['few queries, many keys', [2, 4, 64, 80], [2, 4, 600, 80], null, false],
  ['short rows', [1, 2, 3, 16], [1, 1, 3, 16], null, true],
  ['wide heads', [1, 2, 70, 256], [1, 1, 70, 256], null, true],
  ['windows of patches, heads of 72', [300, 4, 4, 72], [300, 4, 4, 72], null, false],
  ['packed sequences of up to sixteen, shared keys', [1, 4, 46, 34], [1, 2, 46, 34], [16, 1, 2, 7, 15, 5], true],
  ['few queries, sixteen keys', [2, 4, 3, 24], [2, 4, 16, 24], null, false],
];

/** Three products one after another (scores, outputs or their gradients, gradients of the operands), each of sums of up to 700 numbers. */
const EXACT = roundings(3 * Math.sqrt(700));
/** The probabilities, their gradients, the output (of which the gradient is computed) and the result are rounded. */
const ROUNDED = roundings(2, 'bfloat16');

describe('attention', () => {
  it.each(CASES)('is what it says and has its gradient: %s', (_, shape, keyShape, lengths, causal) => {
    manualSeed(1);
    scope(() => {
      const inputs = [random(shape), random(keyShape), random(keyShape)];
      const gradient = random(shape);
      const expected = both(plainAttention(lengths, causal), inputs, gradient, 'float32');
      const exact = both(attention(lengths, causal), inputs, gradient, 'float32');
      const rounded = both(attention(lengths, causal), inputs, gradient, 'bfloat16');
      for (let i = 0; i < 4; i++) {
        expect(distance(exact[i]!, expected[i]!)).toBeLessThan(EXACT);
        expect(distance(rounded[i]!, expected[i]!)).toBeLessThan(ROUNDED);
      }
    });
  });

  it('gives the same bits twice, and reads views', () => {
    manualSeed(2);
    scope(() => {
      const stacked = ops.to(random([1, 90, 3, 4, 32]), 'bfloat16');
      const [q, k, v] = ops.unbind(ops.permute(stacked, [2, 0, 3, 1, 4]), 0) as [Tensor, Tensor, Tensor];
      const once = ops.attention(q, k, v, { is_causal: true });
      expect(ops.equal(once, ops.attention(q, k, v, { is_causal: true }))).toBe(true);
      const copies = ops.attention(ops.contiguous(q), ops.contiguous(k), ops.contiguous(v), { is_causal: true });
      // libtorch may multiply other strides in another order; probabilities and outputs are rounded
      expect(distance(ops.to(once, 'float32'), ops.to(copies, 'float32'))).toBeLessThan(roundings(1, 'bfloat16'));
    });
  });

  it('does not hide what is not finite', () => {
    scope(() => {
      const x = ops.ones([1, 1, 80, 32], { dtype: 'bfloat16' });
      ops.fill_(ops.narrow(x, 2, 40, 1), Number.NaN);
      const y = ops.attention(x, x, x, { is_causal: true });
      for (const row of [40, 79]) expect(ops.select(ops.select(y, 2, row), 2, 0).toNumbers()).toEqual([Number.NaN]);
    });
  });

  it('says what does not fit', () => {
    scope(() => {
      const x = ops.ones([1, 2, 8, 16], { dtype: 'bfloat16' });
      const more = ops.ones([1, 2, 9, 16], { dtype: 'bfloat16' });
      expect(() => ops.attention(more, x, x, { is_causal: true })).toThrow(
        /as many keys as queries, or more of one sequence, but received 8 and 9/,
      );
      expect(() => ops.attention(x, x, x, { lengths: [3, 4] })).toThrow(/lengths \[3, 4\].*\[1, 2, 8, 16\]/);
      expect(() => ops.attention(x, x, more)).toThrow(/minicpm::attention.*key and value of one shape/);
    });
  });
});

describe('gelu', () => {
  it.each(['tanh', 'none'])('is rounded once, and has its gradient: %s', (approximate) => {
    manualSeed(4);
    scope(() => {
      const inputs = [ops.mulScalar(random([3, 20_001]), 4)];
      const gelu = (x: Tensor): Tensor => ops.gelu(x, { approximate });
      const gradient = random([3, 20_001]);
      const expected = both(gelu, inputs, gradient, 'float32');
      const rounded = both(gelu, inputs, gradient, 'bfloat16');
      for (const i of [0, 1]) expect(distance(rounded[i]!, expected[i]!)).toBeLessThan(roundings(1, 'bfloat16'));
    });
  });

  it('ends where its operand does: far from zero', () => {
    scope(() => {
      const x = ops.to(ops.mulScalar(ops.arange(-4, 4, 1, { dtype: 'float32' }), 100), 'bfloat16');
      const y = ops.gelu(x, { approximate: 'tanh' });
      expect(y.toNumbers()).toEqual([0, 0, 0, 0, 0, 100, 200, 300].map((n) => (n === 0 ? expect.closeTo(0) : n)));
    });
  });
});

describe('swiglu', () => {
  it('is silu(gate) · up, with its gradient, in float32 to the bit', () => {
    manualSeed(3);
    scope(() => {
      const shape = [3, 1001];
      const inputs = [ops.mulScalar(random(shape), 4), random(shape)];
      const gradient = random(shape);
      const expected = both((gate, up) => ops.mul(ops.silu(gate), up), inputs, gradient, 'float32');
      const exact = both(ops.swiglu, inputs, gradient, 'float32');
      const rounded = both(ops.swiglu, inputs, gradient, 'bfloat16');
      for (let i = 0; i < 3; i++) {
        expect(ops.equal(exact[i]!, expected[i]!)).toBe(true);
        // the kernel rounds its result; libtorch's operators also round what lies between
        expect(distance(rounded[i]!, expected[i]!)).toBeLessThan(roundings(1, 'bfloat16'));
      }
    });
  });

  it('ends where its operands do: far from zero', () => {
    scope(() => {
      const gate = ops.to(ops.mulScalar(ops.arange(-4, 4, 1, { dtype: 'float32' }), 100), 'bfloat16');
      const [y, dGate] = both(ops.swiglu, [gate, ops.onesLike(gate)], ops.ones([8]), 'bfloat16') as [Tensor, Tensor];
      expect(y.toNumbers()).toEqual([0, 0, 0, 0, 0, 100, 200, 300].map((x) => (x === 0 ? expect.closeTo(0) : x)));
      expect(dGate.toNumbers()).toEqual([0, 0, 0, 0, 0.5, 1, 1, 1].map((x) => expect.closeTo(x)));
    });
  });
});

describe('rmsNorm', () => {
  const plain = (x: Tensor, weight: Tensor): Tensor =>
    ops.mul(ops.mul(x, ops.rsqrt(ops.addScalar(ops.mean(ops.square(x), [-1], true), 1e-6))), weight);

  // The kernel rounds its result; libtorch's operators, in some versions, the normalised numbers too.
  const ROUNDED = roundings(1, 'bfloat16');

  it.each([1536, 77])('is what it says and has its gradient: rows of %i', (size) => {
    manualSeed(4);
    scope(() => {
      const inputs = [random([2, 33, size]), random([size])];
      const gradient = random([2, 33, size]);
      const normed = (x: Tensor, weight: Tensor) => ops.rmsNorm(x, weight, 1e-6);
      const expected = both(plain, inputs, gradient, 'float32');
      const exact = both(normed, inputs, gradient, 'float32');
      const rounded = both(normed, inputs, gradient, 'bfloat16');
      for (let i = 0; i < 3; i++) {
        expect(distance(exact[i]!, expected[i]!)).toBeLessThan(roundings(Math.sqrt(size)));
        expect(distance(rounded[i]!, expected[i]!)).toBeLessThan(ROUNDED);
      }
    });
  });
});

describe('dropout', () => {
  const dropped = (seed: number, size: number, dtype: DType, share = 0.25): Tensor => {
    manualSeed(seed);
    return ops.dropout(ops.ones([size], { dtype }), share);
  };

  it('drops the share asked for and scales what stays, without a pattern', () => {
    scope(() => {
      const count = 1_000_000;
      const y = dropped(5, count, 'float32');
      const zero = ops.to(ops.eqScalar(y, 0), 'float32');
      expect(Math.abs(ops.sumAll(zero).item() / count - 0.25)).toBeLessThan(4 * Math.sqrt((0.25 * 0.75) / count));
      expectNear(ops.maxAll(y).item(), 4 / 3, roundings(1));
      for (const distance of [1, 2, 16, 1024]) {
        const together = ops.mul(ops.slice(zero, 0, 0, count - distance), ops.slice(zero, 0, distance));
        expect(Math.abs(ops.sumAll(together).item() / count - 0.0625)).toBeLessThan(0.001);
      }
    });
  });

  it('makes one choice for a state of the generator, whatever the type, the threads and the length', () => {
    scope(() => {
      const isZero = (x: Tensor): number[] => ops.to(ops.eqScalar(x, 0), 'float32').toNumbers();
      const float = isZero(dropped(6, 70_001, 'float32'));
      expect(isZero(dropped(6, 70_001, 'bfloat16'))).toEqual(float);
      const before = threads();
      setThreads(1);
      expect(isZero(dropped(6, 70_001, 'bfloat16'))).toEqual(float);
      setThreads(before);
      expect(isZero(dropped(6, 35, 'bfloat16'))).toEqual(float.slice(0, 35));
      expect(isZero(dropped(7, 70_001, 'float32'))).not.toEqual(float);
      manualSeed(6);
      const x = ops.ones([100]);
      expect(isZero(ops.dropout(x, 0.5))).not.toEqual(isZero(ops.dropout(x, 0.5)));
    });
  });

  it.each(['float32', 'bfloat16'] as const)('sends the gradient where the numbers went: %s', (dtype) => {
    manualSeed(8);
    scope(() => {
      const x = ops.ones([3, 77], { dtype });
      x.requiresGrad = true;
      const y = enableGrad(() => ops.dropout(x, 0.4));
      const [gradient] = grad([y], [x], { gradOutputs: [ops.onesLike(y)] });
      expect(ops.equal(gradient!, ops.detach(y))).toBe(true);
      expect(ops.equal(ops.dropout(x, 0), x)).toBe(true);
      expect(() => ops.dropout(x, 1)).toThrow(/minicpm::dropout.*below 1 but received 1/);
    });
  });
});

/** The gradient of the sum of squares of `f`'s gradient. */
function secondDerivative(f: (x: Tensor) => Tensor, dtype: DType): Tensor {
  manualSeed(9);
  const x = ops.detach(ops.to(random([1, 1, 20, 32]), dtype, false, true));
  x.requiresGrad = true;
  const squares = (y: Tensor) => ops.sumAll(ops.square(y), { dtype: 'float32' });
  return enableGrad(() => {
    const [first] = grad([squares(f(x))], [x], { createGraph: true });
    return ops.to(grad([squares(first!)], [x])[0]!, 'float32');
  });
}

it.each<[string, (x: Tensor) => Tensor]>([
  ['attention', (x) => ops.attention(x, x, x)],
  ['rmsNorm', (x) => ops.rmsNorm(x, ops.arange(1, 33, 1, { dtype: x.dtype }), 1e-6)],
  ['swiglu', (x) => ops.swiglu(x, x)],
  ['dropout', (x) => ops.dropout(x, 0.5)],
  ['gelu', (x) => ops.gelu(x, { approximate: 'tanh' })],
])('%s has a right second derivative or refuses it', (_, f) => {
  scope(() => {
    let second: Tensor;
    try {
      second = secondDerivative(f, 'bfloat16');
    } catch (error) {
      expect((error as Error).message).toMatch(/first derivative only|derivative for .* is not implemented/);
      return;
    }
    // put together from libtorch's operators: in each of four passes the result and two numbers on the way are rounded
    expect(distance(second, secondDerivative(f, 'float32'))).toBeLessThan(roundings(6, 'bfloat16'));
  });
});

it('operators of our own keep no tensor: the count stays flat', () => {
  scope(() => {
    const x = keep(ops.to(random([1, 4, 70, 32]), 'bfloat16'));
    x.requiresGrad = true;
    const weight = keep(ops.ones([32], { dtype: 'bfloat16' }));
    const step = () =>
      scope(() => {
        const y = enableGrad(() =>
          ops.swiglu(ops.attention(x, x, x), ops.gelu(ops.rmsNorm(x, weight, 1e-6), { approximate: 'tanh' })),
        );
        grad([y], [x], { gradOutputs: [ops.onesLike(y)] });
      });
    step();
    const before = liveTensors();
    for (let i = 0; i < 5; i++) step();
    expect(liveTensors()).toEqual(before);
    x.dispose();
    weight.dispose();
  });
});

describe('attention of packed queries over packed keys', () => {
  it.each([
    ['float32', 1e-5],
    ['bfloat16', 0.02],
  ] as const)('is that of each sequence alone, in %s', (dtype, tolerance) => {
    scope(() => {
      manualSeed(5);
      const [keys, queries] = [
        [30, 7, 12],
        [4, 4, 4],
      ] as const;
      const inputs = [random([1, 2, 12, 32]), random([1, 2, 49, 32]), random([1, 2, 49, 32])];
      const gradient = random([1, 2, 12, 32]);
      const alone = (q: Tensor, k: Tensor, v: Tensor): Tensor => {
        const [own, of, values] = [
          ops.splitWithSizes(q, queries, 2),
          ...[k, v].map((x) => ops.splitWithSizes(x, keys, 2)),
        ];
        return ops.cat(
          own!.map((query, i) => plainAttention(null, false)(query, of![i]!, values![i]!)),
          2,
        );
      };
      const packed = (q: Tensor, k: Tensor, v: Tensor): Tensor =>
        ops.attention(q, k, v, { lengths: keys, query_lengths: queries });
      const expected = both(alone, inputs, gradient, 'float32');
      both(packed, inputs, gradient, dtype).forEach((x, i) => {
        expect(distance(x, expected[i]!), `number ${i}`).toBeLessThan(tolerance);
      });
    });
  });

  it('refuses lengths that do not fit', () => {
    scope(() => {
      const [q, k] = [ops.zeros([1, 2, 8, 16]), ops.zeros([1, 2, 9, 16])];
      expect(() => ops.attention(q, k, k, { lengths: [4, 5], query_lengths: [8] })).toThrow(/as many queries as keys/);
      expect(() => ops.attention(q, k, k, { lengths: [9], query_lengths: [7] })).toThrow(/lengths \[7\]/);
      expect(() => ops.attention(q, k, k, { query_lengths: [8] })).toThrow(/lengths of keys/);
    });
  });
});

describe('geluMlp', () => {
  const written =
    (approximate: string) =>
    (...[x, scale, shift, w1, b1, w2, b2]: Tensor[]): Tensor => {
      const hidden = ops.linear(ops.layerNorm(x!, [24], scale!, shift!, 1e-6), w1!, b1!);
      return ops.add(x!, ops.linear(ops.gelu(hidden, { approximate }), w2!, b2!));
    };
  const fused =
    (approximate: string) =>
    (...[x, scale, shift, w1, b1, w2, b2]: Tensor[]): Tensor =>
      ops.geluMlp(x!, scale!, shift!, w1!, b1!, w2!, b2!, 1e-6, approximate === 'tanh');
  const shapes = [[2, 5, 24], [24], [24], [40, 24], [40], [24, 40], [24]];

  it.each(['tanh', 'none'])('is what it says and has its gradients: gelu %s', (approximate) => {
    scope(() => {
      manualSeed(6);
      const [inputs, gradient] = [shapes.map(random), random([2, 5, 24])];
      const expected = both(written(approximate), inputs, gradient, 'float32');
      both(fused(approximate), inputs, gradient, 'float32').forEach((x, i) => {
        expect(distance(x, expected[i]!), `number ${i}`).toBeLessThan(1e-5);
      });
    });
  });

  it('has the gradient of its input alone where the weights are frozen', () => {
    scope(() => {
      manualSeed(7);
      const [x, ...weights] = shapes.map(random) as [Tensor, ...Tensor[]];
      const gradient = random([2, 5, 24]);
      const own = both((leaf) => fused('tanh')(leaf!, ...weights), [x], gradient, 'float32');
      const expected = both((leaf) => written('tanh')(leaf!, ...weights), [x], gradient, 'float32');
      own.forEach((value, i) => {
        expect(distance(value, expected[i]!), `number ${i}`).toBeLessThan(1e-5);
      });
    });
  });

  it('keeps less than the layers one by one', () => {
    tuneAllocator(); // which counts
    const kept = (f: (...inputs: Tensor[]) => Tensor): number =>
      scope(() => {
        const inputs = [[1 << 16, 24], ...shapes.slice(1)].map(random);
        for (const input of inputs) input.requiresGrad = true;
        const before = blockBytes().inUse;
        enableGrad(() => f(...inputs));
        return blockBytes().inUse - before;
      });
    expect(kept(fused('tanh'))).toBeLessThan(kept(written('tanh')) * 0.7);
  });
});
