/** A sequence gets the same numbers, bit by bit, whatever batch it is in and whatever was kept of earlier prompts. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { countTokens, type EncodedPrompt, readConfig, type VersionName } from '@minicpm-finetune/processor';
import { type DType, liveTensors, noGrad, ops, scope, setThreads } from '@minicpm-finetune/torch';
import { afterAll, describe, expect, it } from 'vitest';
import { LONG } from '../../../torch/test/support/long.js';
import { applyLora, loraAdapters, removeLora } from '../../src/adapters/lora.js';
import { type QuantizationType, quantizeLayers } from '../../src/adapters/quantize.js';
import { loadWeights } from '../../src/checkpoint/weights.js';
import { type NewToken, RunningBatch } from '../../src/generation/running-batch.js';
import type { SequenceOptions } from '../../src/generation/sequence.js';
import { TensorCache } from '../../src/generation/tensor-cache.js';
import { MiniCPMV } from '../../src/model/minicpm-v.js';
import { tinyCheckpoint } from '../support/tiny.js';

setThreads(2); // shares of threads must not show in the numbers
const work = mkdtempSync(join(tmpdir(), 'running-batch-'));
afterAll(() => rmSync(work, { recursive: true }));

const PIECE = 16;
const LORA = '.*\\.layers\\..*\\.(q_proj|v_proj|in_proj_qkv|in_proj_a|out_proj|down_proj)';

interface Kind {
  readonly dtype: DType;
  readonly quantized?: QuantizationType;
  readonly lora?: boolean;
  readonly version?: VersionName;
}

function load({ dtype, quantized, lora, version = 'minicpm-v-2_6' }: Kind): MiniCPMV {
  const folder = tinyCheckpoint(mkdtempSync(join(work, 'x-')), version, 1, dtype);
  const model = new MiniCPMV(readConfig(folder));
  loadWeights(model, folder);
  if (lora) {
    applyLora(model, { r: 4, alpha: 12, targetModules: LORA }, { seed: 3 });
    noGrad(() => {
      for (const [, , { loraB }] of loraAdapters(model)) scope(() => ops.normal_(loraB.weight.data, 0, 0.1));
    });
  }
  if (quantized) quantizeLayers(model, quantized);
  return model;
}

/** A prompt of `length` tokens, the first ones the same for every `seed`, with a picture in them. */
function prompt(model: MiniCPMV, seed: number, length: number, pictures = 1): EncodedPrompt {
  const { llm } = model.config;
  const grid = model.config.merger === null ? { rows: 2, cols: 3 } : { rows: 8, cols: 4 };
  const tokens = countTokens(model.config.pictureTokens, grid);
  const patches = grid.rows * grid.cols;
  const ids = Array.from({ length }, (_, i) => (i * 31 + (i < 34 ? 0 : seed * 17) + 5) % llm.vocabSize);
  return {
    inputIds: Int32Array.from(ids),
    ...(model.config.canvas && {
      positionIds: Int32Array.from([0, 1, 2].flatMap((axis) => ids.map((__, i) => i + (i % 5) * axis))),
    }),
    imageBounds: Array.from({ length: pictures }, (_, i) => [2 + 14 * i, 2 + 14 * i + tokens]),
    pictures: Array.from({ length: pictures }, (_, p) => ({
      pixels: Uint8Array.from({ length: 3 * 14 * 14 * patches }, (_, i) => (i * 37 + p) % 256),
      shape: [3, 14, 14 * patches],
      ...grid,
    })),
  };
}

const OPTIONS: SequenceOptions = {
  sampling: { temperature: 1.2, topP: 0.95, repetitionPenalty: 1.1, seed: 7 },
  maxNewTokens: 10,
  stopTokens: new Set(),
  logProbs: 12,
};

/** All tokens of `prompt`, with log-probabilities, in a batch in which others join and leave; `before` steps pass until it joins. */
function inCompany(
  model: MiniCPMV,
  own: EncodedPrompt,
  others: number,
  caches: Pick<SequenceOptions, 'pictures' | 'prefixes'> = {},
): { tokens: Omit<NewToken, 'sequence'>[]; cached: number } {
  const batch = new RunningBatch(model, { pieceLength: PIECE });
  const first = Math.floor(others / 2);
  const join = (k: number): number =>
    batch.add(prompt(model, k + 1, 5 + ((k * 13) % 60), 0), {
      ...OPTIONS,
      ...caches,
      maxNewTokens: 3 + ((k * 5) % 17),
      stream: k,
    });
  const joined = Array.from({ length: first }, (_, k) => join(k));
  for (let i = 0; i < first; i++) batch.step();
  const id = batch.add(own, { ...OPTIONS, ...caches, stream: 5 });
  const tokens: Omit<NewToken, 'sequence'>[] = [];
  let cached = 0;
  for (let step = 0; tokens.at(-1)?.end == null; step++) {
    if (step < others - first) join(first + step);
    if (step === 4 && joined.length > 0) batch.remove(joined[0]!);
    cached = Math.max(cached, batch.cachedTokens(id));
    for (const { sequence, ...token } of batch.step()) if (sequence === id) tokens.push(token);
  }
  batch.dispose();
  return { tokens, cached };
}

const KINDS: [string, Kind][] = [
  ['float32', { dtype: 'float32' }],
  ['bfloat16', { dtype: 'bfloat16' }],
  ['float16', { dtype: 'float16' }],
  ['int8 in bfloat16', { dtype: 'bfloat16', quantized: 'int8' }],
  ['int8 in float32', { dtype: 'float32', quantized: 'int8' }],
  ['NF4 in bfloat16', { dtype: 'bfloat16', quantized: 'nf4' }],
  ['LoRA on bfloat16', { dtype: 'bfloat16', lora: true }],
  ['LoRA on float32', { dtype: 'float32', lora: true }],
  ['pictures that see each other', { dtype: 'bfloat16', version: 'minicpm-llama3-v-2_5' }],
  ['linear attention in float32', { dtype: 'float32', version: 'minicpm-v-4_6' }],
  ['linear attention in bfloat16', { dtype: 'bfloat16', version: 'minicpm-v-4_6', lora: true }],
  ['linear attention in int8', { dtype: 'bfloat16', version: 'minicpm-v-4_7', quantized: 'int8' }],
  ['norms on queries and keys', { dtype: 'bfloat16', version: 'minicpm-v-4_5' }],
  ['LongRoPE', { dtype: 'float32', version: 'minicpm-v-4' }],
];

/** With these, batches of several sizes are in the short part, too: one of floats, one of integers. */
const SIZES = new Set(['bfloat16', 'int8 in bfloat16']);

describe.each(KINDS)('%s', (name, kind) => {
  const model = load(kind);
  afterAll(() => {
    removeLora(model);
    model.dispose();
  });
  const own = prompt(model, 0, 45, 2);
  const { tokens: alone } = inCompany(model, own, 0);

  it.each(LONG ? [1, 2, 5, 15] : SIZES.has(name) ? [1, 15] : [5])(
    'beside %i others gives the bits that it gives alone',
    (others) => {
      expect(inCompany(model, own, others).tokens).toEqual(alone);
      expect(new Set(alone.map(({ id }) => id)).size).toBeGreaterThan(3);
    },
  );

  it('with the beginning taken over from another prompt gives the same bits', () => {
    const pictures = new TensorCache({ maxBytes: 1e7 });
    const prefixes = new TensorCache({ maxBytes: 1e7 });
    const caches = { pictures, prefixes };
    expect(inCompany(model, prompt(model, 9, 60, 2), 0, caches).cached).toBe(0);
    const again = inCompany(model, own, 3, caches);
    expect(again.cached).toBe(2 * PIECE);
    expect(again.tokens).toEqual(alone);
    pictures.dispose();
    prefixes.dispose();
  });
});

const TOGETHER = new Set([
  ...['bfloat16', 'int8 in bfloat16', 'float32'],
  ...(LONG ? ['norms on queries and keys', 'LoRA on bfloat16'] : []),
]);

describe.each(KINDS.filter(([name]) => TOGETHER.has(name)))('short prompts, %s', (name, kind) => {
  const model = load(kind);
  afterAll(() => {
    removeLora(model);
    model.dispose();
  });

  it('are read in one step where rows do not depend on each other, with the bits that each has alone', () => {
    const prompts = [5, 9, 3, 20, 12, 17].map((length, seed) => prompt(model, seed, length, 0));
    const run = (some: readonly EncodedPrompt[]): { steps: number[]; tokens: Omit<NewToken, 'sequence'>[][] } => {
      const batch = new RunningBatch(model, { pieceLength: 64 });
      const steps: number[] = [];
      const tokens: Omit<NewToken, 'sequence'>[][] = some.map(() => []);
      for (const own of some) batch.add(own, { ...OPTIONS, stream: own.inputIds.length });
      while (batch.size > 0) {
        const step = batch.step();
        steps.push(step.length);
        for (const { sequence, ...token } of step) tokens[sequence]!.push(token);
      }
      batch.dispose();
      return { steps, tokens };
    };
    const all = run(prompts);
    expect(all.tokens).toEqual(prompts.flatMap((own) => run([own]).tokens));
    const { readsTogether } = model.llm.model;
    if (readsTogether)
      expect(all.steps.slice(0, 2)).toEqual([5, 6]); // 49 of 64 positions, then the last prompt beside 5 tokens
    else expect(all.steps.slice(0, 2)).toEqual([1, 2]);
    if (name === 'float32' || kind.lora) expect(readsTogether).toBe(false);
  });

  it('are up to 512 positions, with the bits of each alone; 512 of one prompt are alone', () => {
    const tokensOf = (lengths: readonly number[], seed: number): { first: number; tokens: NewToken[] } => {
      const batch = new RunningBatch(model);
      for (const [i, length] of lengths.entries())
        batch.add(prompt(model, seed + i, length, 0), { ...OPTIONS, logProbs: 0 });
      const tokens = [...batch.step()];
      const first = tokens.length;
      while (batch.size > 0) tokens.push(...batch.step());
      batch.dispose();
      return { first, tokens };
    };
    const lengths = [128, 128, 128, 128, 128];
    const all = tokensOf(lengths, 0);
    expect(all.first).toBe(model.llm.model.readsTogether ? 4 : 1);
    lengths.forEach((length, i) => {
      const own = all.tokens.filter(({ sequence }) => sequence === i);
      expect(own.map((token) => ({ ...token, sequence: 0 }))).toEqual(tokensOf([length], i).tokens);
    });
    expect(tokensOf([560, 10], 0).first).toBe(0);
  });
});

describe('a batch', () => {
  const model = load({ dtype: 'float32' });

  it('keeps pictures and prefixes apart by content', () => {
    const caches = { pictures: new TensorCache({ maxBytes: 1e7 }), prefixes: new TensorCache({ maxBytes: 1e7 }) };
    const own = prompt(model, 0, 45, 2);
    const other = { ...own, pictures: [own.pictures[1]!, own.pictures[1]!] };
    const { tokens: alone } = inCompany(model, other, 0);
    inCompany(model, own, 0, caches);
    const again = inCompany(model, other, 0, caches);
    expect(again.cached).toBe(0); // the first picture is another one
    expect(again.tokens).toEqual(alone);
    caches.pictures.dispose();
    caches.prefixes.dispose();
  });

  it('frees what was used longest ago beyond the size of a cache, and everything with it', () => {
    const before = liveTensors();
    const prefixes = new TensorCache({ maxBytes: 40_000 });
    for (let seed = 0; seed < 4; seed++) {
      inCompany(
        model,
        { ...prompt(model, seed, 45, 0), inputIds: prompt(model, seed, 80, 0).inputIds.map((id) => id + seed) },
        0,
        { prefixes },
      );
      expect(prefixes.bytes).toBeLessThanOrEqual(40_000);
    }
    expect(prefixes.bytes).toBeGreaterThan(0);
    prefixes.dispose();
    expect(liveTensors()).toEqual(before);
  });

  it('reads one piece a step while others go on, and keeps live tensors flat', () => {
    const batch = new RunningBatch(model, { pieceLength: PIECE });
    const options = { maxNewTokens: 500, stopTokens: new Set<number>() };
    const first = batch.add(prompt(model, 1, 10, 0), options);
    expect(batch.step().map(({ sequence }) => sequence)).toEqual([first]);
    const second = batch.add(prompt(model, 2, 3 * PIECE, 0), options);
    for (const _ of [1, 2]) expect(batch.step().map(({ sequence }) => sequence)).toEqual([first]);
    expect(
      batch
        .step()
        .map(({ sequence }) => sequence)
        .sort(),
    ).toEqual([first, second]);
    const counts = Array.from({ length: 100 }, () => {
      batch.step();
      return liveTensors().tensors;
    });
    expect(new Set(counts).size).toBe(1);
    batch.remove(first);
    batch.remove(first); // harmless
    expect(batch.step().map(({ sequence }) => sequence)).toEqual([second]);
    batch.dispose();
    expect(batch.size).toBe(0);
  });

  it('follows the weights between steps', () => {
    const options = { maxNewTokens: 8, stopTokens: new Set<number>(), logProbs: 3 };
    const plain = new RunningBatch(model);
    plain.add(prompt(model, 1, 10, 0), options);
    plain.step();
    const [expected] = plain.step();
    const switched = new RunningBatch(model);
    switched.add(prompt(model, 1, 10, 0), options);
    switched.step();
    applyLora(model, { r: 4, alpha: 12, targetModules: 'llm.*\\.(q_proj|down_proj)' }, { seed: 3 });
    for (const [, , { loraB }] of loraAdapters(model))
      noGrad(() => scope(() => ops.normal_(loraB.weight.data, 0, 0.5)));
    const [other] = switched.step();
    removeLora(model);
    expect(other!.top).not.toEqual(expected!.top);
    plain.dispose();
    switched.dispose();
  });
});
