/** Training over ranks: the bits of one rank, whatever their number, the stage, and where the pictures are. */
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
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

/** Trains two steps of four micro-batches with each of the settings, one after the other on the same `size` ranks. */
async function trainEach(size: number, settings: readonly object[]): Promise<Outcome[]> {
  const model = { ...raw, initializer_range: 0.15, query_num: 4 };
  const ranks = await runRanks(size, '../parallel/step-ranks.mjs', () =>
    settings.map((own) => JSON.stringify({ model, ...own })),
  );
  for (const { code, stderr } of ranks) expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
  return settings.map((_, number) => {
    const lines = ranks.map((rank) => (rank.lines as Record<string, unknown>[]).filter((l) => l.number === number));
    return outcomeOf(lines);
  });
}

/** Of what the ranks said of one training. */
function outcomeOf(lines: readonly Record<string, unknown>[][]): Outcome {
  for (const own of lines) {
    expect(own.filter((line) => 'wrong' in line)).toEqual([]);
    const shown = (all: Record<string, unknown>[]) => all.filter((line) => !('peak' in line)); // but what is its own
    expect(shown(own)).toEqual(shown(lines[0]!)); // every rank says the same
  }
  const [first] = lines;
  const of = <T>(key: string): T[] => lines.map((own) => own.at(-1)![key] as T);
  return {
    steps: first!.filter((line) => 'step' in line).map(({ number, ...step }) => step),
    evaluated: first!.find((line) => 'evaluated' in line)!.evaluated,
    hash: of<string>('hash')[0]!,
    numbers: of<number>('numbers')[0]!,
    unit: of<number>('unit')[0]!,
    overflowed: of<number[]>('overflowed').flat(),
    peak: Math.max(...of<number>('peak')),
    seconds: Math.max(...of<number>('seconds')),
  };
}

const train = async (size: number, settings: object): Promise<Outcome> => (await trainEach(size, [settings]))[0]!;

/** Settings by number of ranks. */
const planned = new Map<number, object[]>();
const trained = new Map<number, Promise<Outcome[]>>();

/** Plans a training, which then shares its processes with all others that are planned for as many ranks. Returns what gives its outcome. */
function plan(size: number, settings: object): () => Promise<Outcome> {
  const all = planned.get(size) ?? [];
  planned.set(size, all);
  const number = all.push(settings) - 1;
  return async () => {
    const outcomes = trained.get(size) ?? trainEach(size, all);
    trained.set(size, outcomes);
    return (await outcomes)[number]!;
  };
}

type Ranks = [size: number, stage: number];
type Case = [name: string, settings: object, ...others: Ranks[]];

/** What is in the long part of the tests alone. */
const long = (...more: Ranks[]): Ranks[] => (LONG ? more : []);
const longCases = (...more: Case[]): Case[] => (LONG ? more : []);

const LORA = { r: 4, alpha: 8, dropout: 0.3, targetModules: ['q_proj', 'v_proj'], modulesToSave: ['resampler'] };
const DORA = { r: 4, alpha: 8, dropout: 0.3, useDora: true, targetModules: 'all-linear' };

/** The gradients of part 0 alone are too large for float16. */
const OVERFLOW = { dtype: 'float16', lossScale: 9e4, steps: 3 };

describe('training over ranks has the bits of one', () => {
  const cases: Case[] = [
    ['full, every stage', {}, [2, 0], [3, 2], [4, 3]],
    ['full in bfloat16 with masters, the graph kept', { dtype: 'bfloat16', recompute: false }, [2, 3], ...long([3, 0])],
    ['stochastic rounding', { dtype: 'bfloat16', masters: false }, [2, 3], ...long([3, 2])],
    ['a tied head', { tied: true }, [3, 2], ...long([2, 3])],
    ['LoRA with dropout and a trained module', { lora: LORA }, [3, 3], ...long([4, 2])],
    ['DoRA', { lora: DORA }, [2, 3]],
    ['LoRA over NF4', { lora: LORA, quantized: 'nf4' }, [3, 3], ...long([2, 3], [2, 2])],
    ['LoRA over int8 in bfloat16', { lora: LORA, quantized: 'int8', dtype: 'bfloat16' }, [3, 3]],
    ['noise on embeddings', { noise: 5 }, [2, 3]],
    ['float16 with a loss scale', { dtype: 'float16', lossScale: 64 }, [3, 3]],
    ['packed records', { records: 3 }, [2, 3], ...long([4, 2])],
    ['five parts', { parts: 5 }, [3, 3], ...long([8, 3])],
  ];
  for (const [name, settings, ...others] of cases) {
    const alone = plan(1, settings);
    const together = others.map(([size, stage]) => plan(size, { ...settings, stage }));
    it(name, async () => {
      const { steps, evaluated, hash } = await alone();
      for (const outcome of together) expect(await outcome()).toMatchObject({ steps, evaluated, hash });
    });
  }

  const uneven: [string, object][] = [
    ['no picture anywhere', { pictures: [[]] }],
    ['pictures on the last rank alone', { pictures: [[], [], [[3, 4]]] }],
    ['one record', { parts: 1 }],
  ];
  for (const [name, settings] of uneven) {
    const [alone, together] = [plan(1, { parts: 3, ...settings }), plan(3, { parts: 3, ...settings, stage: 3 })];
    it(`${name}, and does not wait`, async () => {
      const { steps, evaluated, hash } = await alone();
      const three = await together();
      expect(three).toMatchObject({ steps, evaluated, hash });
      expect(three.seconds).toBeLessThan(30);
    });
  }

  const sizes: Ranks[] = [[1, 0], [2, 3], ...long([4, 2])]; // biome-ignore format: one line
  const overflowing = sizes.map(([size, stage]) => plan(size, { ...OVERFLOW, stage }));
  it('leaves a step out on all ranks where gradients overflow on one', async () => {
    const [alone, ...together] = overflowing;
    const { steps, hash, overflowed } = await alone!();
    expect(overflowed).toEqual([0]);
    expect(steps[0]).toMatchObject({ updated: false });
    for (const outcome of together) expect(await outcome()).toMatchObject({ steps, hash, overflowed });
  });

  const unclipped = { parts: 3, maxGradNorm: 0 };
  const afterwards = plan(1, unclipped);
  for (const stage of [0, 2, 3]) {
    const fused = plan(3, { ...unclipped, stage, fused: true });
    it(`updates in the backward pass under stage ${stage}`, async () => {
      expect((await fused()).hash).toBe((await afterwards()).hash);
    });
  }
});

describe('offloaded training has the same bits', () => {
  const folder = mkdtempSync(join(tmpdir(), 'offload-step-'));
  afterAll(() => rmSync(folder, { recursive: true }));

  const cases: Case[] = [
    ['full, on one rank and on three', {}, [1, 3], [3, 3]],
    ['bfloat16 with masters', { dtype: 'bfloat16' }, [1, 3], [2, 3]],
    ['stochastic rounding', { dtype: 'bfloat16', masters: false }, [2, 3], ...long([1, 3])],
    ...longCases(['a tied head', { tied: true }, [1, 3]]),
    ['LoRA with dropout and a trained module', { lora: LORA }, [2, 3], ...long([1, 3])],
    ...longCases(['float16 with a loss scale', { dtype: 'float16', lossScale: 64 }, [1, 3]]),
    ['updates in the backward pass, clipped', { fused: true, parts: 1, maxGradNorm: 0.3 }, [1, 3]],
    ['the same in bfloat16', { fused: true, parts: 1, maxGradNorm: 0.3, dtype: 'bfloat16' }, [1, 3]],
  ];
  for (const [name, settings, ...others] of cases) {
    const alone = plan(1, settings);
    const offload = { optimizer: folder, params: folder };
    const offloaded = others.map(([size, stage]) => plan(size, { ...settings, stage, shared: true, offload }));
    it(name, async () => {
      const { steps, evaluated, hash } = await alone();
      for (const outcome of offloaded) {
        expect(await outcome()).toMatchObject({ steps, evaluated, hash });
        expect(readdirSync(folder)).toEqual([]);
      }
    });
  }

  const inMemory = plan(1, { dtype: 'bfloat16' });
  for (const [name, place] of [
    ['files', folder],
    ['host memory', 'cpu'],
  ]) {
    const offloaded = plan(1, { dtype: 'bfloat16', offload: { optimizer: place } });
    it(`of the optimizer alone in ${name}, on one rank that shares with nobody`, async () => {
      const { steps, hash } = await inMemory();
      expect(await offloaded()).toMatchObject({ steps, hash });
    });
  }
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
  for (const size of LONG ? [1, 2, 4, 8] : [1, 4]) {
    const { peak, numbers, unit } = await train(1, { config, stage: 3, steps: 2, shared: true, dry: size });
    // A weight, two moments and a sum of gradients, float32 each; of two units, weights and gradients. 4.5 MB: activations
    // of 52 tokens and three pictures, and what shares are rounded up by.
    expect(peak).toBeGreaterThan((16 * numbers) / size);
    expect(peak).toBeLessThan((16 * numbers) / size + 2 * 8 * unit + 4.5e6);
  }
});
