/** Cross entropy that writes its gradient over the logits, beside its formula in float64. */
import { execFileSync } from 'node:child_process';
import { describe, expect, it } from 'vitest';
import { fromTypedArray, ops, scope, type Tensor } from '../src/index.js';
import { roundings } from './precision.js';

const [ROWS, CLASSES] = [5, 4 * 1024 + 27]; // more than one block of the sum, and lanes left over
const TARGETS = [0, 17, CLASSES - 1, 1024, 4096];
const SCALES = [0.25, -1, 2, 0, 1e-3];

const targets = (): Tensor => fromTypedArray(BigInt64Array.from(TARGETS, BigInt), [ROWS], 'int64');
const float32 = (values: number[], shape: number[]): Tensor => fromTypedArray(Float32Array.from(values), shape);
const logitsOf = (dtype: 'float32' | 'bfloat16' | 'float64'): Tensor =>
  ops.to(ops.mulScalar(ops.randn([ROWS, CLASSES]), 12), dtype);

/** Losses and gradients of rows of logits, by the formula. */
function formula(logits: number[], scales: number[]): { losses: number[]; gradient: number[] } {
  const gradient: number[] = [];
  const losses = TARGETS.map((target, i) => {
    const row = logits.slice(i * CLASSES, (i + 1) * CLASSES);
    const most = Math.max(...row);
    const sum = row.reduce((all, x) => all + Math.exp(x - most), 0);
    gradient.push(...row.map((x, j) => scales[i]! * (Math.exp(x - most) / sum - (j === target ? 1 : 0))));
    return Math.log(sum) - (row[target]! - most);
  });
  return { losses, gradient };
}

describe('losses and gradients are those of the formula', () => {
  for (const dtype of ['float32', 'bfloat16', 'float64'] as const) {
    for (const each of [true, false]) {
      it(`${dtype}, ${each ? 'a scale of each row' : 'one scale'}`, () => {
        scope(() => {
          const logits = logitsOf(dtype);
          const scales = each ? SCALES : SCALES.map(() => 0.125);
          const expected = formula(ops.reshape(logits, [-1]).toNumbers(), scales);
          const wide = dtype === 'float64' ? 'float64' : 'float32';
          const scale = ops.to(each ? float32(SCALES, [ROWS]) : float32([0.125], []), wide);
          const losses = ops.crossEntropy_(logits, targets(), { scale });
          expect(losses.dtype).toBe(wide);
          expect(logits.dtype).toBe(dtype);
          // Exponents of up to some 90 are rounded once more than their differences: e^x is off by 90 roundings at most, sums by less.
          losses.toNumbers().forEach((loss, i) => {
            expect(Math.abs(loss - expected.losses[i]!)).toBeLessThanOrEqual(roundings(8) * (1 + expected.losses[i]!));
          });
          const own = dtype === 'bfloat16' ? roundings(1, 'bfloat16') : 0;
          ops
            .reshape(logits, [-1])
            .toNumbers()
            .forEach((value, i) => {
              const wanted = expected.gradient[i]!;
              // 1 - p is as exact as 1 is; numbers below 2^-126 may be zero.
              const most =
                (own + roundings(200)) * Math.abs(wanted) + roundings(4) * (TARGETS.includes(i % CLASSES) ? 2 : 0);
              expect(Math.abs(value - wanted), `number ${i}: ${value}, not ${wanted}`).toBeLessThanOrEqual(
                most + 2 ** -120,
              );
            });
        });
      });
    }
  }

  it('without a scale the logits stay', () => {
    for (const dtype of ['float32', 'bfloat16', 'float64'] as const) {
      scope(() => {
        const logits = logitsOf(dtype);
        const before = ops.reshape(logits, [-1]).toNumbers();
        const expected = formula(before, SCALES).losses;
        const losses = ops.crossEntropy_(logits, targets()).toNumbers();
        losses.forEach((loss, i) => {
          expect(Math.abs(loss - expected[i]!)).toBeLessThanOrEqual(roundings(8) * (1 + expected[i]!));
        });
        expect(ops.reshape(logits, [-1]).toNumbers()).toEqual(before);
      });
    }
  });

  it('on processors with other instructions', () => {
    const program = `import { ops, manualSeed, fromTypedArray } from '${new URL('../dist/index.js', import.meta.url).href}';
      manualSeed(3);
      const targets = fromTypedArray(BigInt64Array.from([1n, 300n, 999n]), [3], 'int64');
      console.log(JSON.stringify(['float32', 'bfloat16'].map((dtype) => {
        const logits = ops.to(ops.mulScalar(ops.sin(ops.reshape(ops.arange(0, 3003, 1, { dtype: 'float32' }), [3, 1001])), 9), dtype);
        const losses = ops.crossEntropy_(logits, targets, { scale: ops.full([], 1000, { dtype: 'float32' }) });
        return [losses.toNumbers(), ops.reshape(logits, [-1]).toNumbers()];
      })));`;
    const run = (env: NodeJS.ProcessEnv): number[][][] =>
      JSON.parse(
        execFileSync(process.execPath, ['--input-type=module', '-e', program], {
          env: { ...process.env, ...env },
        }).toString(),
      );
    const own = run({});
    for (const capability of ['avx2', 'default']) {
      for (const [kind, results] of run({ ATEN_CPU_CAPABILITY: capability }).entries()) {
        for (const [part, values] of results.entries()) {
          // Additions in other groups, and multiplications with and without their addition in one rounding.
          const one = part === 1 && kind === 1 ? roundings(1, 'bfloat16') : roundings(64);
          values.forEach((value, i) => {
            const wanted = own[kind]![part]![i]!;
            expect(Math.abs(value - wanted)).toBeLessThanOrEqual(one * Math.max(Math.abs(wanted), 1e-3));
          });
        }
      }
    }
  });
});

describe('what is no number or no class', () => {
  for (const dtype of ['float32', 'bfloat16', 'float64'] as const) {
    for (const bad of [Number.NaN, Number.POSITIVE_INFINITY]) {
      for (const place of [3, CLASSES - 1]) {
        it(`${dtype}: ${bad} at ${place} spoils its row and no other`, () => {
          scope(() => {
            const logits = logitsOf(dtype);
            ops.fill_(ops.narrow(ops.select(logits, 0, 1), 0, place, 1), bad);
            const scale = ops.to(float32([1], []), dtype === 'float64' ? 'float64' : 'float32');
            const losses = ops.crossEntropy_(logits, targets(), { scale }).toNumbers();
            expect(losses.map(Number.isFinite)).toEqual([true, false, true, true, true]);
            const sums = ops.sum(ops.to(logits, 'float32'), [1]).toNumbers();
            expect(sums.map(Number.isFinite)).toEqual([true, false, true, true, true]);
          });
        });
      }
    }
  }

  it('a target outside of the classes is refused', () => {
    scope(() => {
      for (const wrong of [-1, CLASSES]) {
        const target = fromTypedArray(BigInt64Array.from([0n, 1n, BigInt(wrong), 2n, 3n]), [ROWS], 'int64');
        expect(() => ops.crossEntropy_(logitsOf('bfloat16'), target)).toThrow(
          `expected a target of 0 to ${CLASSES - 1} in row 2 but received ${wrong}`,
        );
      }
    });
  });

  it('other shapes and types are refused', () => {
    scope(() => {
      const target = targets();
      expect(() => ops.crossEntropy_(ops.t(ops.zeros([CLASSES, ROWS])), target)).toThrow(/expected contiguous logits/);
      expect(() => ops.crossEntropy_(logitsOf('bfloat16'), ops.to(target, 'int32'))).toThrow(
        /target \(rows\) of int64/,
      );
      expect(() => ops.crossEntropy_(logitsOf('bfloat16'), target, { scale: ops.ones([2]) })).toThrow(
        /expected a scale/,
      );
    });
  });
});
