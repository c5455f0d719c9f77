/** Training over ranks: the bits of one rank, whatever their number, the stage, and where the pictures are. */
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { LONG } from '../../../torch/test/support/long.js';
import { stageOf } from '../../src/parallel/sharding.js';
import { runRanks } from '../support/rank-processes.js';

interface Outcome {
  readonly steps: readonly unknown[];
  readonly evaluated: unknown;
  readonly hash: string;
  /** Parts of the first step of which a gradient was not finite, on whatever rank. */
  readonly overflowed: readonly number[];
  /** Most bytes of large tensors on any rank. */
  readonly peak: number;
  /** Numbers of the model, and of its largest unit. */
  readonly numbers: number;
  readonly unit: number;
  readonly seconds: number;
}

const raw = JSON.parse(
  readFileSync(join(import.meta.dirname, '..', 'fixtures', 'data', 'model', 'config.json'), 'utf8'),
) as object;
/** Trains three steps of four micro-batches on `size` ranks. */
async function train(size: number, settings: object): Promise<Outcome> {
  const model = { ...raw, initializer_range: 0.15, query_num: 4 };
  const started = performance.now();
  const argument = JSON.stringify({ model, ...settings });
  const ranks = await runRanks(size, '../parallel/step-ranks.mjs', () => [argument]);
  const seconds = (performance.now() - started) / 1000;
  for (const { code, stderr } of ranks) expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
  const lines = ranks.map((rank) => rank.lines as Record<string, unknown>[]);
  for (const own of lines) {
    expect(own.filter((line) => 'wrong' in line)).toEqual([]);
    const shown = (all: Record<string, unknown>[]) => all.filter((line) => !('peak' in line)); // but what is its own
    expect(shown(own)).toEqual(shown(lines[0]!)); // every rank says the same
  }
  const [first] = lines;
  return {
    steps: first!.filter((line) => 'step' in line),
    evaluated: first!.find((line) => 'evaluated' in line)!.evaluated,
    hash: first!.at(-1)!.hash as string,
    numbers: first!.at(-1)!.numbers as number,
    unit: first!.at(-1)!.unit as number,
    overflowed: lines.flatMap((own) => own.at(-1)!.overflowed as number[]),
    peak: Math.max(...lines.map((own) => own.at(-1)!.peak as number)),
    seconds,
  };
}

/** Ranks and stage, after settings. */
type Case = [name: string, settings: object, ...others: [size: number, stage: number][]];

/** What is in the long part of the tests alone. */
const long = <T>(...more: T[]): T[] => (LONG ? more : []);

const LORA = { r: 4, alpha: 8, dropout: 0.3, targetModules: ['q_proj', 'v_proj'], modulesToSave: ['resampler'] };
const DORA = { r: 4, alpha: 8, dropout: 0.3, useDora: true, targetModules: 'all-linear' };

/** The gradients of part 0 alone are too large for float16. */
const OVERFLOW = { dtype: 'float16', lossScale: 9e4 };

describe('training over ranks has the bits of one', () => {
  it.each([
    ['full, every stage', {}, [2, 0], [3, 2], [4, 3]],
    ['full in bfloat16 with masters, the graph kept', { dtype: 'bfloat16', recompute: false }, [2, 3], ...long([3, 0])],
    ['stochastic rounding', { dtype: 'bfloat16', masters: false }, [2, 3], ...long([3, 2])],
    ['a tied head', { tied: true }, [3, 2], ...long([2, 3])],
    ['LoRA with dropout and a trained module', { lora: LORA }, [4, 2], [3, 3]],
    ['DoRA', { lora: DORA }, [2, 3]],
    ['LoRA over NF4', { lora: LORA, quantized: 'nf4' }, [3, 3], ...long([2, 3], [2, 2])],
    ['LoRA over int8 in bfloat16', { lora: LORA, quantized: 'int8', dtype: 'bfloat16' }, [3, 3]],
    ['noise on embeddings', { noise: 5 }, [2, 3]],
    ['float16 with a loss scale', { dtype: 'float16', lossScale: 64 }, [3, 3]],
    ['packed records', { records: 3 }, [4, 2], ...long([2, 3])],
    ['five parts of eight', { parts: 5, steps: 2 }, [8, 3]],
  ] as Case[])('%s', async (_name, settings, ...others) => {
    const { steps, evaluated, hash } = await train(1, settings);
    for (const [size, stage] of others)
      expect(await train(size, { ...settings, stage })).toMatchObject({ steps, evaluated, hash });
  });

  it.each([
    ['no picture anywhere', { pictures: [[]] }],
    ['pictures on the last rank alone', { pictures: [[], [], [], [[3, 4]]] }],
    ['one record', { parts: 1 }],
  ])('%s, and does not wait', async (_name, settings) => {
    const { steps, evaluated, hash } = await train(1, settings);
    const four = await train(4, { ...settings, stage: 3 });
    expect(four).toMatchObject({ steps, evaluated, hash });
    expect(four.seconds).toBeLessThan(30);
  });

  it('leaves a step out on all ranks where gradients overflow on one', async () => {
    const { steps, hash, overflowed } = await train(1, OVERFLOW);
    expect(overflowed).toEqual([0]);
    expect(steps[0]).toMatchObject({ updated: false });
    for (const [size, stage] of [[2, 3], [4, 2]]) // biome-ignore format: one line
      expect(await train(size!, { ...OVERFLOW, stage })).toMatchObject({ steps, hash, overflowed });
  });

  it.each([0, 2, 3])('updates in the backward pass under stage %i', async (stage) => {
    const settings = { parts: 3, maxGradNorm: 0 };
    const { hash } = await train(1, settings);
    expect((await train(3, { ...settings, stage, fused: true })).hash).toBe(hash);
  });
});

describe('offloaded training has the same bits', () => {
  let folder: string;
  beforeAll(() => {
    folder = mkdtempSync(join(tmpdir(), 'offload-step-'));
  });
  afterAll(() => rmSync(folder, { recursive: true }));

  it.each([
    ['full, on one rank and on three', {}, [1, 3], [3, 3]],
    ['bfloat16 with masters', { dtype: 'bfloat16' }, [1, 3], [2, 3]],
    ['stochastic rounding', { dtype: 'bfloat16', masters: false }, [2, 3], ...long([1, 3])],
    ...long(['a tied head', { tied: true }, [1, 3]]),
    ['LoRA with dropout and a trained module', { lora: LORA }, [2, 3], ...long([1, 3])],
    ...long(['float16 with a loss scale', { dtype: 'float16', lossScale: 64 }, [1, 3]]),
    ['updates in the backward pass, clipped', { fused: true, parts: 1, maxGradNorm: 0.3 }, [1, 3]],
    ['the same in bfloat16', { fused: true, parts: 1, maxGradNorm: 0.3, dtype: 'bfloat16' }, [1, 3]],
  ] as Case[])('%s', async (_name, settings, ...others) => {
    const { steps, evaluated, hash } = await train(1, settings);
    for (const [size, stage] of others) {
      const offload = { optimizer: folder, params: folder };
      const outcome = await train(size, { ...settings, stage, shared: true, offload });
      expect(outcome).toMatchObject({ steps, evaluated, hash });
      expect(readdirSync(folder)).toEqual([]);
    }
  });

  it.each([
    ['files', (path: string) => path],
    ['host memory', () => 'cpu'],
  ])('of the optimizer alone in %s, on one rank that shares with nobody', async (_name, of) => {
    const settings = { dtype: 'bfloat16' };
    const { steps, hash } = await train(1, settings);
    expect(await train(1, { ...settings, offload: { optimizer: of(folder) } })).toMatchObject({ steps, hash });
  });
});

describe.runIf(LONG)('every number of ranks under every stage', { timeout: 1_200_000 }, () => {
  const kinds: readonly (readonly [string, object])[] = [
    ['full', {}],
    ['full, the graph kept', { recompute: false }],
    ['bfloat16 with masters', { dtype: 'bfloat16' }],
    ['bfloat16 with stochastic rounding, the graph kept', { dtype: 'bfloat16', masters: false, recompute: false }],
    ['float16', { dtype: 'float16', lossScale: 64 }],
    ['float16 with an overflow in one part', OVERFLOW],
    ['a tied head', { tied: true }],
    ['LoRA with dropout and a trained module', { lora: LORA }],
    ['LoRA in bfloat16, the graph kept', { lora: LORA, dtype: 'bfloat16', recompute: false }],
    ['DoRA', { lora: DORA }],
    ['noise on embeddings', { noise: 5 }],
    ['packed records', { records: 3 }],
    ['packed records, LoRA', { records: 3, lora: LORA }],
  ];
  // 1 x 4 = 2 x 2 = 4 x 1, and 1 x 12 = 3 x 4 = 8 x 1.5
  const sizes = [[4, [2, 4]], [12, [3, 8]]] as const; // biome-ignore format: one line

  it.each(kinds)('%s', async (_name, settings) => {
    for (const [parts, others] of sizes) {
      const { steps, evaluated, hash } = await train(1, { ...settings, parts });
      for (const size of others)
        for (const stage of [0, 2, 3]) {
          const outcome = await train(size, { ...settings, parts, stage });
          expect(outcome, `${size} ranks, stage ${stage}`).toMatchObject({ steps, evaluated, hash });
        }
    }
  });
});

it('stage 1 is stage 2', () => {
  for (const lora of [true, false]) expect(stageOf('1', { size: 2, lora })).toBe(stageOf('2', { size: 2, lora }));
});

it('holds a share of the states under stage 3, two units, and activations', async () => {
  const config = { intermediate_size: 1024, hidden_size: 256, num_hidden_layers: 8, vocab_size: 300 };
  for (const size of [1, 2, 4, 8]) {
    const { peak, numbers, unit } = await train(1, { config, stage: 3, steps: 2, shared: true, dry: size });
    // A weight, two moments and a sum of gradients, float32 each; of two units, weights and gradients. 4.5 MB: activations
    // of 52 tokens and three pictures, and what shares are rounded up by.
    expect(peak).toBeGreaterThan((16 * numbers) / size);
    expect(peak).toBeLessThan((16 * numbers) / size + 2 * 8 * unit + 4.5e6);
  }
});
