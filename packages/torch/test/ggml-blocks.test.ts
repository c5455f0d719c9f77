/** GGUF blocks have the bytes of llama.cpp's own quantizer (v0.5.0), on any processor and in any number of threads. */
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import {
  type DType,
  fromTypedArray,
  manualSeed,
  openSafetensors,
  ops,
  scope,
  setThreads,
  type Tensor,
  tensor,
} from '../src/index.js';

beforeEach(() => manualSeed(1)); // otherwise other numbers each time, of which some would be rare

const FIXTURES = join(import.meta.dirname, 'fixtures');
/** SHA-256 of the tensors of ggml-blocks.safetensors in each type, as llama.cpp wrote them. */
const EXPECTED: Record<string, Record<string, string>> = JSON.parse(
  readFileSync(join(FIXTURES, 'ggml-blocks.json'), 'utf8'),
);
const source = openSafetensors(FIXTURES, 'ggml-blocks');
const PLAIN: Readonly<Record<string, DType>> = { f16: 'float16', bf16: 'bfloat16' };

beforeAll(() => setThreads(2));
afterAll(() => setThreads(1));

const bytes = (x: Tensor): Uint8Array => new Uint8Array(ops.contiguous(x).toTypedArray().buffer);
const sha256 = (x: Tensor): string => createHash('sha256').update(bytes(x)).digest('hex');

describe.each(Object.entries(EXPECTED))('%s', (name, types) => {
  it.each(Object.entries(types))('in %s', (type, digest) => {
    scope(() => {
      const x = source.tensor(name);
      expect(sha256(PLAIN[type] ? ops.to(x, PLAIN[type]) : ops.ggmlQuantize(x, type))).toBe(digest);
    });
  });
});

it.each(['avx2', 'default'])('the same on a processor with %s', (capability) => {
  const program = `
    import { createHash } from 'node:crypto';
    import { openSafetensors, ops } from ${JSON.stringify(join(import.meta.dirname, '../dist/index.js'))};
    const source = openSafetensors(${JSON.stringify(FIXTURES)}, 'ggml-blocks');
    const results = {};
    for (const [name, types] of Object.entries(${JSON.stringify(EXPECTED)}))
      for (const type of Object.keys(types).filter((type) => !type.endsWith('f16')))
        (results[name] ??= {})[type] = createHash('sha256').update(ops.ggmlQuantize(source.tensor(name), type).toTypedArray()).digest('hex');
    console.log(JSON.stringify(results));`;
  const env = { ...process.env, ATEN_CPU_CAPABILITY: capability };
  const results = execFileSync(process.execPath, ['--input-type=module', '-e', program], { env }).toString();
  const expected = Object.entries(EXPECTED).map(([name, types]) => [
    name,
    Object.fromEntries(Object.entries(types).filter(([type]) => PLAIN[type] === undefined)),
  ]);
  expect(JSON.parse(results)).toEqual(Object.fromEntries(expected));
});

it('rows of any number of blocks, and many of them, have the bytes that each has alone', () => {
  scope(() => {
    const x = ops.randn([37, 768], { dtype: 'float32' });
    for (const type of ['q5_0', 'q8_0', 'q4_k', 'q6_k']) {
      const together = ops.ggmlQuantize(x, type);
      const size = type.endsWith('k') ? 256 : 32;
      for (const [row, column] of [
        [0, 0],
        [17, 256],
        [36, 512],
      ] as const) {
        const alone = bytes(ops.ggmlQuantize(ops.narrow(ops.narrow(x, 0, row, 1), 1, column, size), type));
        const start = (column / size) * alone.length;
        expect(bytes(ops.narrow(together, 0, row, 1)).subarray(start, start + alone.length)).toEqual(alone);
      }
    }
  });
});

it('blocks of zeros, of one number, and of numbers too small for a scale', () => {
  scope(() => {
    for (const type of ['q5_0', 'q8_0', 'q4_k', 'q6_k'])
      expect(new Set(bytes(ops.ggmlQuantize(ops.zeros([1, 256]), type)))).toEqual(
        new Set(type === 'q5_0' ? [0, 128, 255] : [0]),
      );
    const tiny = ops.ggmlQuantize(fromTypedArray(new Float32Array(256).fill(1e-20), [1, 256]), 'q6_k');
    expect(new Set(bytes(tiny))).toEqual(new Set([0]));
    // 127 with a scale of one: each number is stored as it is
    const whole = Float32Array.from({ length: 32 }, (_, i) => (i === 0 ? 127 : i - 16.5));
    const levels = new Int8Array(bytes(ops.ggmlQuantize(fromTypedArray(whole, [1, 32]), 'q8_0')).buffer, 2);
    expect([...levels]).toEqual([...whole].map((value) => Math.sign(value) * Math.round(Math.abs(value)))); // halves away from zero
  });
});

it('refuses rows that are no whole blocks, other types and other numbers', () => {
  scope(() => {
    expect(() => ops.ggmlQuantize(ops.zeros([2, 128]), 'q4_k')).toThrow(/rows of a multiple of 256/);
    expect(() => ops.ggmlQuantize(ops.zeros([2, 256]), 'q3_k')).toThrow(/q5_0, q8_0, q4_k or q6_k but received q3_k/);
    expect(() => ops.ggmlQuantize(ops.to(tensor([[1]]), 'bfloat16'), 'q8_0')).toThrow(/float32/);
  });
});
