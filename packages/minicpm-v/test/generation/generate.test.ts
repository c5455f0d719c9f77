import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { countTokens, type EncodedPrompt, readConfig } from '@minicpm-finetune/processor';
import { fromTypedArray, liveTensors, noGrad, ops, scope, setThreads, type Tensor } from '@minicpm-finetune/torch';
import { afterAll, describe, expect, it } from 'vitest';
import { loadWeights } from '../../src/checkpoint/weights.js';
import { type GenerationOptions, generate } from '../../src/generation/generate.js';
import type { NewToken } from '../../src/generation/running-batch.js';
import { GREEDY } from '../../src/generation/sampling.js';
import { pictureTensor } from '../../src/generation/sequence.js';
import { MiniCPMV } from '../../src/model/minicpm-v.js';
import { runPlan } from '../../src/model/plan.js';
import { tinyCheckpoint, VERSION_NAMES } from '../support/tiny.js';

setThreads(1);
const work = mkdtempSync(join(tmpdir(), 'generate-'));
afterAll(() => rmSync(work, { recursive: true }));

function load(version: (typeof VERSION_NAMES)[number]): MiniCPMV {
  const folder = tinyCheckpoint(mkdtempSync(join(work, 'x-')), version);
  const model = new MiniCPMV(readConfig(folder));
  loadWeights(model, folder);
  return model;
}

/** Positions (3 * L) that save some where pictures are. */
function canvasLike(length: number, bounds: readonly (readonly [number, number])[]): Int32Array {
  const ids = new Int32Array(3 * length);
  let next = 0;
  for (let i = 0; i < length; i++) {
    const picture = bounds.find(([start, end]) => i >= start && i < end);
    const within = picture === undefined ? 0 : i - picture[0];
    for (let axis = 0; axis < 3; axis++) ids[axis * length + i] = next + axis * (within % 2);
    if (picture === undefined || i + 1 === picture[1]) next++;
  }
  return ids;
}

/** A prompt of `text` arbitrary tokens around pictures of the given sizes in patches. */
function prompt(
  model: MiniCPMV,
  seed: number,
  text: number,
  sizes: readonly [rows: number, cols: number][],
): EncodedPrompt {
  const { pictureTokens, llm, batchVision } = model.config;
  const multiple = model.version.sliceMultiple;
  const grids = sizes.map(([rows, cols]) => ({ rows: rows * multiple, cols: cols * multiple }));
  let at = 2;
  const imageBounds = grids.map((grid): [number, number] => {
    const start = at;
    at += countTokens(pictureTokens, grid);
    return [start, at];
  });
  const ids = Array.from({ length: text + at - 2 }, (_, i) => (i * 31 + seed * 17 + 5) % llm.vocabSize);
  return {
    inputIds: Int32Array.from(ids),
    imageBounds,
    ...(model.config.canvas && { positionIds: canvasLike(ids.length, imageBounds) }),
    pictures: grids.map(({ rows, cols }) => ({
      pixels: Uint8Array.from({ length: 3 * 14 * rows * 14 * cols }, (_, i) => (i * 37 + seed) % 256),
      shape: batchVision ? [3, 14, 14 * rows * cols] : [3, 14 * rows, 14 * cols],
      rows,
      cols,
    })),
  };
}

const OPTIONS: GenerationOptions = { sampling: GREEDY, maxNewTokens: 12, stopTokens: new Set() };

async function ids(
  model: MiniCPMV,
  prompts: readonly EncodedPrompt[],
  options: Partial<GenerationOptions> = {},
): Promise<number[][]> {
  const all = prompts.map((): number[] => []);
  for await (const step of generate(model, prompts, { ...OPTIONS, ...options })) {
    for (const { sequence, id } of step) all[sequence]!.push(id);
  }
  return all;
}

/** Positions of a prompt and what follows it. */
function positionsOf({ inputIds, positionIds }: EncodedPrompt, length: number): Tensor {
  if (positionIds === undefined) return ops.unsqueeze(ops.arange(0, length, 1, { dtype: 'int64' }), 0);
  const [own, next] = [inputIds.length, Math.max(...positionIds) + 1];
  const rows = [0, 1, 2].flatMap((axis) =>
    Array.from({ length }, (_, i) => BigInt(i < own ? positionIds[axis * own + i]! : next + i - own)),
  );
  return fromTypedArray(BigInt64Array.from(rows), [3, 1, length]);
}

/** Greedy generation that computes the whole sequence anew for every token, without cache, with the forward pass of training. */
function recomputed(model: MiniCPMV, one: EncodedPrompt, count: number): number[] {
  const { inputIds, pictures, imageBounds } = one;
  const all = [...inputIds];
  for (let i = 0; i < count; i++) {
    const next = noGrad(() =>
      scope(() => {
        const hidden = runPlan(
          model.plan(
            {
              inputIds: fromTypedArray(BigInt64Array.from(all, BigInt), [1, all.length]),
              positionIds: positionsOf(one, all.length),
              pictures: [pictures.map((picture) => pictureTensor(picture, 'cpu'))],
              imageBounds: [imageBounds],
            },
            { train: false },
          ),
        );
        return ops.argmax(model.logits(ops.select(hidden, 1, all.length - 1)), 1).item();
      }),
    );
    all.push(next);
  }
  return all.slice(inputIds.length);
}

for (const version of VERSION_NAMES) {
  describe(version, () => {
    const model = load(version);
    const prompts = [
      prompt(model, 1, 9, [[2, 3]]),
      prompt(model, 2, 4, []),
      prompt(model, 3, 14, [
        [4, 2],
        [2, 3],
      ]),
    ];

    it('with a cache gives what it gives without', async () => {
      for (const one of prompts) expect(await ids(model, [one])).toEqual([recomputed(model, one, 12)]);
    });

    it('side by side gives what it gives alone', async () => {
      const alone = [];
      for (const one of prompts) alone.push(...(await ids(model, [one])));
      expect(await ids(model, prompts)).toEqual(alone);
      expect(new Set(alone.flat()).size).toBeGreaterThan(6);
    });
  });
}

describe('a generation', () => {
  const model = load('minicpm-v-2_6');
  const prompts = [prompt(model, 1, 9, [[2, 3]]), prompt(model, 2, 4, [])];

  it('draws the same in any batch, and another with another seed', async () => {
    const sampling = { ...GREEDY, temperature: 1.5, topK: 40, topP: 0.95, repetitionPenalty: 1.1, seed: 3 };
    const [first, second] = await ids(model, prompts, { sampling });
    expect(await ids(model, [prompts[1]!], { sampling, streams: [1] })).toEqual([second]);
    expect(await ids(model, [prompts[0]!], { sampling })).toEqual([first]);
    expect(await ids(model, [prompts[0]!], { sampling: { ...sampling, seed: 4 } })).not.toEqual([first]);
    expect(first).not.toEqual((await ids(model, [prompts[0]!]))[0]);
  });

  it('ends each sequence at its stop token, or at the longest answer', async () => {
    const [first, second] = await ids(model, prompts);
    const stop = first![4]!;
    const tokens: NewToken[] = [];
    for await (const step of generate(model, prompts, { ...OPTIONS, stopTokens: new Set([stop]) }))
      tokens.push(...step);
    const of = (sequence: number): NewToken[] => tokens.filter((token) => token.sequence === sequence);
    const cut = (all: readonly number[]): number[] => all.slice(0, all.includes(stop) ? all.indexOf(stop) + 1 : 12);
    expect(of(0).map(({ id }) => id)).toEqual(cut(first!));
    expect(of(1).map(({ id }) => id)).toEqual(cut(second!));
    expect(of(0).map(({ end }) => end)).toEqual([
      ...cut(first!)
        .slice(1)
        .map(() => null),
      'stop',
    ]);
    expect(of(1).at(-1)!.end).toBe(second!.includes(stop) ? 'stop' : 'length');
  });

  it('keeps the number of live tensors and bytes flat, and frees everything at its end', async () => {
    const before = liveTensors();
    const live: { tensors: number; bytes: number }[] = [];
    for await (const _ of generate(model, prompts, { ...OPTIONS, maxNewTokens: 60 })) live.push(liveTensors());
    expect(live.length).toBeGreaterThanOrEqual(60);
    expect(new Set(live.slice(4, 55).map(({ tensors }) => tensors)).size).toBe(1);
    expect(live[55]!.bytes).toBeLessThan(2 * live[4]!.bytes);
    expect(liveTensors()).toEqual(before);
  });

  it('grows its cache beyond the first block', async () => {
    const long = prompt(model, 5, 250, []);
    expect(await ids(model, [long])).toEqual([recomputed(model, long, 12)]);
  });

  it('frees everything when it is left early', async () => {
    const before = liveTensors().tensors;
    for await (const _ of generate(model, prompts, OPTIONS)) break;
    expect(liveTensors().tensors).toBe(before);
    const abort = new AbortController();
    let steps = 0;
    for await (const _ of generate(model, prompts, { ...OPTIONS, signal: abort.signal })) {
      if (++steps === 3) abort.abort();
    }
    expect(steps).toBe(3);
    expect(liveTensors().tensors).toBe(before);
  });

  it('lets the event loop run', async () => {
    let turns = 0;
    const timer = setInterval(() => turns++, 0);
    await ids(model, prompts, { maxNewTokens: 50 });
    clearInterval(timer);
    expect(turns).toBeGreaterThan(2);
  });

  it('refuses prompts without room for an answer, and ends at the last position', async () => {
    const before = liveTensors().tensors;
    await expect(ids(model, [prompt(model, 1, 600, [])])).rejects.toThrow('600 positions');
    await expect(ids(model, [prompt(model, 1, 0, [])])).rejects.toThrow('at least one token');
    expect(await ids(model, [prompt(model, 1, 597, [])])).toHaveProperty('0.length', 3);
    await expect(ids(model, prompts, { sampling: { ...GREEDY, topP: 2 } })).rejects.toThrow('--top_p');
    expect(liveTensors().tensors).toBe(before);
  });
});
