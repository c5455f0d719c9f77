/** Operators of generation: right, and the same bits for a row whatever rows are beside it. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type DType, fromTypedArray, manualSeed, ops, scope, setThreads, type Tensor } from '../src/index.js';
import { roundings } from './precision.js';

beforeAll(() => setThreads(2));
afterAll(() => setThreads(1));

const random = (shape: readonly number[], dtype: DType): Tensor =>
  ops.to(ops.randn(shape, { dtype: 'float32' }), dtype);
const wide = (x: Tensor): Tensor => ops.to(x, 'float64');
const row = (x: Tensor, i: number): Tensor => ops.narrow(x, 0, i, 1);
const bits = (x: Tensor): string => Buffer.from(ops.contiguous(x).toTypedArray().buffer).toString('base64');

/** Distance of `x` to what it should be, over the latter's norm. */
function distance(x: Tensor, expected: Tensor): number {
  const norm = (t: Tensor): number => ops.linalgVectorNorm(t).item();
  return norm(ops.sub(wide(x), expected)) / norm(expected);
}

/** Roundings of a sum of `count` numbers in float32 inside, and of its result. */
const tolerance = (count: number, dtype: DType): number =>
  dtype === 'bfloat16' ? roundings(6, dtype) : roundings(4 + Math.sqrt(count));

/** [inputs, outputs]: whole vectors and parts, one output, blocks and what is left of them, more than a thread's share, more than the nearest cache holds. */
const SIZES = [
  [1, 1],
  [31, 7],
  [64, 24],
  [100, 53],
  [520, 301],
  [4200, 61],
] as const;
const ROWS = [1, 2, 3, 4, 5, 8, 16, 33, 70];

describe.each(['float32', 'bfloat16'] as const)('rowsLinear in %s', (dtype) => {
  it.each(SIZES)(
    'is x Wᵀ + b for %i inputs and %i outputs, each row with the bits that it has alone',
    (width, outputs) => {
      manualSeed(1);
      scope(() => {
        const [x, weight, bias] = [
          random([70, width], dtype),
          random([outputs, width], dtype),
          random([outputs], dtype),
        ];
        const expected = ops.add(ops.mm(wide(x), ops.t(wide(weight))), wide(bias));
        const alone = Array.from({ length: 70 }, (_, i) => bits(ops.rowsLinear(row(x, i), weight, bias)));
        for (const count of ROWS) {
          const y = ops.rowsLinear(ops.narrow(x, 0, 0, count), weight, bias);
          expect(y.shape).toEqual([count, outputs]);
          expect(distance(y, ops.narrow(expected, 0, 0, count))).toBeLessThan(tolerance(width, dtype));
          expect(Array.from({ length: count }, (_, i) => bits(row(y, i)))).toEqual(alone.slice(0, count));
        }
        const together = ops.rowsLinear(x, weight, bias, { together: true });
        expect(distance(together, expected)).toBeLessThan(tolerance(width, dtype));
        const float32 = ops.rowsLinear(x, weight, bias, { wide: true });
        expect(bits(float32)).toBe(bits(ops.to(ops.rowsLinear(x, weight, bias), 'float32')));
      });
    },
  );

  it.each(SIZES)('takes int8 weights with a scale a row for %i inputs and %i outputs', (width, outputs) => {
    manualSeed(2);
    scope(() => {
      const x = random([70, width], dtype);
      const values = Int8Array.from({ length: width * outputs }, (_, i) => ((i * 89 + 3) % 255) - 127);
      const codes = fromTypedArray(values, [outputs, width]);
      const scales = ops.addScalar(ops.rand([outputs, 1], { dtype: 'float32' }), 0.1);
      const weight = ops.mul(wide(codes), ops.divScalar(wide(scales), 127));
      const expected = ops.mm(wide(x), ops.t(weight));
      const alone = Array.from({ length: 70 }, (_, i) => bits(ops.rowsLinear(row(x, i), codes, null, { scales })));
      for (const count of ROWS) {
        const y = ops.rowsLinear(ops.narrow(x, 0, 0, count), codes, null, { scales });
        expect(distance(y, ops.narrow(expected, 0, 0, count))).toBeLessThan(tolerance(width, dtype));
        expect(Array.from({ length: count }, (_, i) => bits(row(y, i)))).toEqual(alone.slice(0, count));
      }
      const together = ops.rowsLinear(x, codes, null, { scales, together: true });
      expect(distance(together, expected)).toBeLessThan(tolerance(width, dtype));
    });
  });

  it('takes each int8 weight as the integer that it is', () => {
    scope(() => {
      const values = Int8Array.from({ length: 255 }, (_, i) => i - 127);
      const codes = fromTypedArray(values, [255, 1]);
      const scales = ops.full([255, 1], 127, { dtype: 'float32' });
      for (const count of [1, 2, 5, 40]) {
        const y = ops.rowsLinear(ops.ones([count, 1], { dtype }), codes, null, { scales });
        expect(row(y, count - 1).toNumbers()).toEqual([...values]);
      }
    });
  });

  it('a row alone keeps its bits however often it is computed', () => {
    manualSeed(5);
    scope(() => {
      const [x, weight] = [random([1, 512], dtype), random([2048, 512], dtype)]; // large enough for threads to share the outputs anew each time
      const first = bits(ops.rowsLinear(x, weight));
      for (let i = 0; i < 150; i++) scope(() => expect(bits(ops.rowsLinear(x, weight))).toBe(first));
    });
  });

  it('carries NaN and refuses what does not fit', () => {
    scope(() => {
      const weight = random([8, 40], dtype);
      const x = ops.mulScalar(random([2, 40], dtype), Number.NaN);
      expect(ops.any(ops.isfinite(ops.rowsLinear(x, weight))).item()).toBe(0);
      expect(() => ops.rowsLinear(random([2, 39], dtype), weight)).toThrow('rows of its inputs');
      expect(() => ops.rowsLinear(x, weight, random([7], dtype))).toThrow('a bias');
      expect(() => ops.rowsLinear(x, weight, null, { scales: ops.ones([8]) })).toThrow("weight of the input's type");
    });
  });

  it('norm, SwiGLU and sum: right, and alone the same bits', () => {
    manualSeed(3);
    scope(() => {
      for (const width of [1, 15, 16, 100, 1536]) {
        const [x, y, weight] = [random([5, width], dtype), random([5, width], dtype), random([width], dtype)];
        const inverse = ops.rsqrt(ops.addScalar(ops.mean(ops.square(wide(x)), [1], true), 1e-6));
        const pairs: [(x: Tensor, y: Tensor) => Tensor, Tensor][] = [
          [(a) => ops.rowsRmsNorm(a, weight, 1e-6), ops.mul(ops.mul(wide(x), inverse), wide(weight))],
          [ops.rowsSwiglu, ops.mul(ops.silu(wide(x)), wide(y))],
          [(a, b) => ops.rowsAdd(a, b, 0.3), ops.add(wide(x), wide(y), { alpha: 0.3 })],
        ];
        for (const [compute, expected] of pairs) {
          const all = compute(x, y);
          expect(distance(all, expected)).toBeLessThan(tolerance(width, dtype));
          for (let i = 0; i < 5; i++) expect(bits(compute(row(x, i), row(y, i)))).toBe(bits(row(all, i)));
        }
      }
      const large = ops.mulScalar(ops.ones([1, 4], { dtype }), 200);
      expect(ops.rowsSwiglu(ops.neg(large), large).toNumbers()).toEqual([0, 0, 0, 0].map(() => expect.closeTo(0, 5)));
      const nan = ops.mulScalar(large, Number.NaN);
      expect(ops.any(ops.isfinite(ops.rowsSwiglu(nan, large))).item()).toBe(0);
    });
  });
});

describe.each(['float32', 'bfloat16', 'float64'] as const)('decodeAttention in %s', (dtype) => {
  const [heads, keyHeads, size] = [6, 2, 24];

  /** The operator over fresh copies of the caches. */
  function attend(inputs: readonly Tensor[], table: Tensor, caches: readonly Tensor[], lengths: readonly number[]) {
    const own = caches.map((cache) => ops.clone(cache));
    const [q, k, v] = inputs as [Tensor, Tensor, Tensor];
    return { output: ops.decodeAttention(q, k, v, table, own, lengths), own };
  }

  it('attends over each sequence’s own cache and the new position, which it writes', () => {
    manualSeed(4);
    scope(() => {
      const lengths = [0, 3, 255, 256, 600]; // keys are worked on in blocks of 256
      const count = lengths.length;
      const inputs = [heads, keyHeads, keyHeads].map((own) => random([count, own * size], dtype));
      const caches = lengths.map((length) => random([2, keyHeads, length + 5, size], dtype));
      const angles = ops.randn([1, count, size / 2], { dtype: 'float32' });
      const table = ops.to(ops.to(ops.cat([ops.cos(angles), ops.sin(angles)]), dtype), 'float32');
      const { output, own } = attend(inputs, table, caches, lengths);
      lengths.forEach((length, i) => {
        const turns = ops.to(ops.reshape(ops.narrow(table, 1, i, 1), [2, 1, 1, 1, size / 2]), dtype);
        const heads4 = (x: Tensor, own: number): Tensor => ops.reshape(row(x, i), [1, own, 1, size]);
        const [q, k] = [ops.rotary(heads4(inputs[0]!, heads), turns), ops.rotary(heads4(inputs[1]!, keyHeads), turns)];
        const part = (which: number): Tensor => ops.narrow(ops.narrow(own[i]!, 0, which, 1), 2, 0, length + 1);
        const written = (which: number): Tensor => ops.narrow(part(which), 2, length, 1);
        expect(distance(written(0), wide(k))).toBeLessThan(roundings(2, dtype === 'float64' ? 'float32' : dtype));
        expect(bits(written(1))).toBe(bits(heads4(inputs[2]!, keyHeads)));
        const before = ops.narrow(own[i]!, 2, 0, length);
        expect(bits(before)).toBe(bits(ops.narrow(caches[i]!, 2, 0, length)));
        const expected = ops.scaledDotProductAttention(wide(q), wide(part(0)), wide(part(1)), null, 0, false, {
          enable_gqa: true,
        });
        const got = ops.reshape(row(output, i), [1, heads, 1, size]);
        expect(distance(got, expected)).toBeLessThan(tolerance(length + 1 + size, dtype));
        const alone = attend(
          inputs.map((x) => row(x, i)),
          ops.contiguous(ops.narrow(table, 1, i, 1)),
          [caches[i]!],
          [length],
        );
        expect(bits(alone.output)).toBe(bits(row(output, i)));
      });
    });
  });

  it('refuses a cache without room and shapes that do not fit', () => {
    scope(() => {
      const [q, k] = [random([1, heads * size], dtype), random([1, keyHeads * size], dtype)];
      const [table, cache] = [ops.ones([2, 1, size / 2], { dtype: 'float32' }), random([2, keyHeads, 4, size], dtype)];
      expect(() => ops.decodeAttention(q, k, k, table, [cache], [4])).toThrow('with room after 4 positions');
      expect(() => ops.decodeAttention(q, k, k, table, [cache], [0, 1])).toThrow('a cache and a length for each row');
      expect(() => ops.decodeAttention(q, q, k, table, [cache], [0])).toThrow('heads of 24');
    });
  });
});

it.each(['float32', 'bfloat16'] as const)('decodeLayers and rowsMlp in %s give the bits of their parts', (dtype) => {
  manualSeed(6);
  scope(() => {
    const [rows, width, heads, keyHeads, size, inner, eps] = [3, 40, 4, 2, 16, 72, 1e-6];
    const shapes = [heads * size, keyHeads * size, keyHeads * size, width, inner, inner, width];
    const inputs = [width, width, width, heads * size, width, width, inner];
    const weights = shapes.map((outputs, i) => ops.mulScalar(random([outputs, inputs[i]!], dtype), 0.2));
    const biases = shapes.map((outputs, i) => (i < 3 ? random([outputs], dtype) : null));
    const none = shapes.map(() => null);
    const [x, first, second] = [random([rows, width], dtype), random([width], dtype), random([width], dtype)];
    const [queryNorm, keyNorm] = [random([size], dtype), random([size], dtype)];
    const lengths = [0, 3, 300];
    const caches = lengths.map((length) => random([2, keyHeads, length + 1, size], dtype));
    const table = ops.randn([2, rows, size / 2], { dtype: 'float32' });
    for (const [qn, kn, offset, scale] of [
      [null, null, 0, 1],
      [queryNorm, keyNorm, 1, 0.3],
    ] as const) {
      const normed = (y: Tensor, norm: Tensor | null): Tensor =>
        norm === null ? y : ops.view(ops.rowsRmsNorm(ops.view(y, [-1, size]), norm, eps, offset), y.shape);
      const linear = (y: Tensor, i: number): Tensor => ops.rowsLinear(y, weights[i]!, biases[i]!);
      const added = (y: Tensor, z: Tensor): Tensor => ops.add(y, scale === 1 ? z : ops.mulScalar(z, scale));
      const own = caches.map((cache) => ops.clone(cache));
      const mlp = [weights.slice(4), biases.slice(4), none.slice(4)] as const;
      const layer = (from: Tensor): Tensor => {
        const y = ops.rowsRmsNorm(from, first, eps, offset);
        const [q, k] = [normed(linear(y, 0), qn), normed(linear(y, 1), kn)];
        const attended = added(from, linear(ops.decodeAttention(q, k, linear(y, 2), table, own, lengths), 3));
        const z = ops.rowsRmsNorm(attended, second, eps, offset);
        const result = added(attended, linear(ops.rowsSwiglu(linear(z, 4), linear(z, 5)), 6));
        expect(bits(ops.rowsMlp(attended, second, eps, offset, ...mlp, scale, [], [], []))).toBe(bits(result));
        return result;
      };
      const others = caches.map((cache) => ops.clone(cache));
      for (const layers of [1, 2]) {
        const expected = layers === 1 ? layer(x) : layer(layer(x));
        const many = <T>(values: readonly T[]): T[] => Array.from({ length: layers }, () => values).flat();
        const [norms, headNorms, all] = [
          many([first, second]),
          many([qn, kn]),
          [many(weights), many(biases), many(none)] as const,
        ];
        const got = ops.decodeLayers(
          x,
          table,
          many(others),
          lengths,
          norms,
          headNorms,
          eps,
          offset,
          ...all,
          scale,
          [],
          [],
          [],
        );
        expect(bits(got)).toBe(bits(expected));
        expect(others.map(bits)).toEqual(own.map(bits));
      }
      expect(() =>
        ops.decodeLayers(
          x,
          table,
          others,
          lengths,
          [first],
          [qn, kn],
          eps,
          offset,
          weights,
          biases,
          none,
          scale,
          [],
          [],
          [],
        ),
      ).toThrow('two norms');
      expect(() => ops.rowsMlp(x, second, eps, offset, weights, biases, none, scale, [], [], [])).toThrow(
        'of 3 layers',
      );
    }
  });
});

describe.each(['float32', 'bfloat16'] as const)('low-rank factors in %s', (dtype) => {
  const factors = (inputs: number, outputs: number, r: number): [down: Tensor, up: Tensor] => [
    random([r, inputs], dtype),
    random([outputs, r], dtype),
  ];
  const added = (y: Tensor, x: Tensor, [down, up]: readonly [Tensor, Tensor], scaling: number): Tensor =>
    ops.rowsAdd(y, ops.rowsLinear(ops.rowsLinear(x, down), up), scaling);

  it('of each group change its rows, with the bits of products one by one, and no others', () => {
    manualSeed(7);
    scope(() => {
      const [x, y] = [random([7, 70], dtype), random([7, 37], dtype)];
      const [a, b, c] = [factors(70, 37, 3), factors(70, 37, 16), factors(70, 37, 5)];
      const rows = (all: Tensor, from: number, count: number): Tensor => ops.narrow(all, 0, from, count);
      const expected = ops.cat([
        added(rows(y, 0, 2), rows(x, 0, 2), a, 0.3),
        rows(y, 2, 1),
        added(rows(y, 3, 3), rows(x, 3, 3), b, -2),
        added(rows(y, 6, 1), rows(x, 6, 1), c, 1),
      ]);
      const places = [0, 0, 2, 0, 3, 3, 0, 6, 1];
      const result = ops.rowsLowRank_(y, x, places, [...a, ...b, ...c], [0.3, -2, 1]);
      expect(result).toBe(y);
      expect(bits(y)).toBe(bits(expected));
      expect(() => ops.rowsLowRank_(y, x, [0, 5, 3], a, [1])).toThrow('some of the rows');
      expect(() => ops.rowsLowRank_(y, x, [1, 0, 1], a, [1])).toThrow('one of 1 layers');
      expect(() => ops.rowsLowRank_(y, x, [0, 0, 1], [...a, ...b], [1])).toThrow('two factors for each of 1');
      expect(() => ops.rowsLowRank_(y, x, [0, 0, 1], factors(70, 36, 2), [1])).toThrow('some of the rows');
    });
  });

  it('in rowsMlp and decodeLayers give the bits of their parts', () => {
    manualSeed(8);
    scope(() => {
      const [rows, width, heads, keyHeads, size, inner, eps] = [3, 40, 4, 2, 16, 72, 1e-6];
      const outputs = [heads * size, keyHeads * size, keyHeads * size, width, inner, inner, width];
      const inputs = [width, width, width, heads * size, width, width, inner];
      const weights = outputs.map((count, i) => ops.mulScalar(random([count, inputs[i]!], dtype), 0.2));
      const none = outputs.map(() => null);
      const norms = [random([width], dtype), random([width], dtype)] as const;
      const caches = [0, 5, 300].map((length) => random([2, keyHeads, length + 1, size], dtype));
      const table = ops.randn([2, rows, size / 2], { dtype: 'float32' });
      const x = random([rows, width], dtype);
      for (const adapted of [[4], [0, 3], [1, 2, 5, 6], [0, 1, 2, 3, 4, 5, 6]]) {
        const own = adapted.map((i) => factors(inputs[i]!, outputs[i]!, 4));
        const linear = (z: Tensor, i: number): Tensor => {
          const y = ops.rowsLinear(z, weights[i]!);
          const at = adapted.indexOf(i);
          if (at < 0) return y;
          const some = (all: Tensor): Tensor => ops.narrow(all, 0, 1, 2); // the first row has none
          return ops.cat([ops.narrow(y, 0, 0, 1), added(some(y), some(z), own[at]!, 0.5)]);
        };
        const places = adapted.flatMap((i) => [i, 1, 2]);
        const scalings = adapted.map(() => 0.5);
        const [copies, others] = [0, 1].map(() => caches.map((cache) => ops.clone(cache))) as [Tensor[], Tensor[]];
        const y = ops.rowsRmsNorm(x, norms[0], eps);
        const attended = ops.decodeAttention(linear(y, 0), linear(y, 1), linear(y, 2), table, copies, [0, 5, 300]);
        const middle = ops.add(x, linear(attended, 3));
        const z = ops.rowsRmsNorm(middle, norms[1], eps);
        const expected = ops.add(middle, linear(ops.rowsSwiglu(linear(z, 4), linear(z, 5)), 6));
        const all = [weights, none, none, 1, places, own.flat(), scalings] as const;
        const got = ops.decodeLayers(x, table, others, [0, 5, 300], norms, [null, null], eps, 0, ...all);
        expect(bits(got)).toBe(bits(expected));
        expect(others.map(bits)).toEqual(copies.map(bits));
        const inMlp = adapted.map((i, at) => [i - 4, at] as const).filter(([i]) => i >= 0);
        const [mlp, nothing] = [weights.slice(4), none.slice(4)];
        const changes = [
          inMlp.flatMap(([i]) => [i, 1, 2]),
          inMlp.flatMap(([, at]) => own[at]!),
          inMlp.map(() => 0.5),
        ] as const;
        expect(bits(ops.rowsMlp(middle, norms[1], eps, 0, mlp, nothing, nothing, 1, ...changes))).toBe(bits(expected));
      }
    });
  });
});

it('causal attention with keys before the queries lets the last query see the last key', () => {
  manualSeed(5);
  scope(() => {
    for (const dtype of ['float32', 'bfloat16'] as const)
      for (const [queries, keys] of [
        [1, 40],
        [7, 40],
        [70, 600],
        [64, 65],
      ] as const) {
        const [q, k, v] = [
          random([1, 4, queries, 32], dtype),
          random([1, 2, keys, 32], dtype),
          random([1, 2, keys, 32], dtype),
        ];
        const mask = ops.tril(ops.ones([queries, keys], { dtype: 'bool' }), keys - queries);
        const expected = ops.scaledDotProductAttention(wide(q), wide(k), wide(v), mask, 0, false, { enable_gqa: true });
        expect(distance(ops.attention(q, k, v, { is_causal: true }), expected)).toBeLessThan(tolerance(keys, dtype));
      }
  });
});
