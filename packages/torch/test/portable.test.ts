/** Processors without AVX-512, or without oneDNN's bfloat16 products: libtorch's operators take the place of our kernels. */
import { execFileSync } from 'node:child_process';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { roundings } from './precision.js';

type Results = Record<
  'attention' | 'windows' | 'gelu' | 'swiglu' | 'rmsNorm' | 'dropout',
  [output: number[], gradient: number[]]
>;

function results(environment: NodeJS.ProcessEnv): Results {
  const program = join(import.meta.dirname, 'own-operators.mjs');
  return JSON.parse(
    execFileSync(process.execPath, [program], {
      env: { ...process.env, ...environment },
      maxBuffer: 16 << 20,
    }).toString(),
  );
}

const norm = (values: readonly number[]): number => Math.hypot(...values);

/** Roundings of two ways to a result: of both outputs, and of probabilities and products that one of them keeps in bfloat16. */
const ROUNDINGS = { attention: 3, windows: 3, gelu: 1.5, swiglu: 1.5, rmsNorm: 1.5, dropout: 0 } as const;

const own = results({});

it.each<[string, NodeJS.ProcessEnv]>([
  ['oneDNN without AVX-512', { ONEDNN_MAX_CPU_ISA: 'AVX2' }],
  ['libtorch without AVX-512', { ATEN_CPU_CAPABILITY: 'avx2' }],
  ['both without AVX-512', { ONEDNN_MAX_CPU_ISA: 'AVX2', ATEN_CPU_CAPABILITY: 'avx2' }],
  ['no AVX at all', { ONEDNN_MAX_CPU_ISA: 'SSE41', ATEN_CPU_CAPABILITY: 'default' }],
])('operators of our own give the same: %s', (_, environment) => {
  const portable = results(environment);
  for (const [name, count] of Object.entries(ROUNDINGS) as [keyof Results, number][])
    for (const i of [0, 1] as const) {
      const [a, b] = [portable[name][i], own[name][i]];
      expect(a).toHaveLength(4 * 70 * 32);
      const distance = norm(a.map((x, j) => x - b[j]!)) / norm(b);
      expect(distance, `${name} ${i === 0 ? 'output' : 'gradient'}`).toBeLessThanOrEqual(roundings(count, 'bfloat16'));
    }
});
