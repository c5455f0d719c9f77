/** Sequences of several adapters in one batch get the bits that each gets alone. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { countTokens, type EncodedPrompt, readConfig, type VersionName } from '@minicpm-finetune/processor';
import { type DType, Linear, liveTensors, noGrad, ops, scope, setThreads } from '@minicpm-finetune/torch';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { LONG } from '../../../torch/test/support/long.js';
import { AdapterSet, type HeldAdapter } from '../../src/adapters/adapter-set.js';
import { loadAdapter } from '../../src/adapters/folder.js';
import { removeLora } from '../../src/adapters/lora.js';
import type { LoraOptions } from '../../src/adapters/lora-config.js';
import { type QuantizationType, quantizeLayers } from '../../src/adapters/quantize.js';
import { loadWeights } from '../../src/checkpoint/weights.js';
import { passesOf } from '../../src/generation/decode-groups.js';
import { type NewToken, RunningBatch } from '../../src/generation/running-batch.js';
import type { Sequence, SequenceOptions } from '../../src/generation/sequence.js';
import { TensorCache } from '../../src/generation/tensor-cache.js';
import { MiniCPMV } from '../../src/model/minicpm-v.js';
import { randomAdapter } from '../support/random-adapter.js';
import { tinyCheckpoint } from '../support/tiny.js';

setThreads(2); // shares of threads must not show in the numbers
const work = mkdtempSync(join(tmpdir(), 'decode-groups-'));
afterAll(() => rmSync(work, { recursive: true }));

interface Kind {
  readonly dtype: DType;
  readonly quantized?: QuantizationType;
  readonly version?: VersionName;
}

const KINDS: [string, Kind][] = [
  ['float32', { dtype: 'float32' }],
  ['bfloat16', { dtype: 'bfloat16' }],
  ['int8 in bfloat16', { dtype: 'bfloat16', quantized: 'int8' }],
  ['linear attention and one table for both ends', { dtype: 'bfloat16', version: 'minicpm-v-4_6' }],
  ...(LONG
    ? ([
        ['float16', { dtype: 'float16' }],
        ['int8 in float32', { dtype: 'float32', quantized: 'int8' }],
      ] satisfies [string, Kind][])
    : []),
];

/** Layers of attention of either kind; where the vision tower and the decoder's MLP are. */
const ATTENTION = '(llm|model\\.language_model)\\..*\\.(q_proj|v_proj|in_proj_qkv|in_proj_a)';

/** What each kind of adapter has; the names say what is special. */
const adaptersOf = (model: MiniCPMV): Record<string, Partial<LoraOptions>> => {
  const { llm, decoder, connector, vision } = model.parts;
  const mlp = `${llm.replace('.', '\\.')}.*\\.(gate_proj|down_proj|o_proj)`;
  return {
    plain: { targetModules: ATTENTION, modulesToSave: [] },
    other: { r: 2, alpha: 8, useRslora: true, targetModules: mlp, modulesToSave: [] },
    dora: { targetModules: '.*\\.(q_proj|down_proj|gate_proj|out_proj)', useDora: true, modulesToSave: [] },
    official: { targetModules: ATTENTION, modulesToSave: ['embed_tokens', connector, vision] },
    head: {
      targetModules: ATTENTION,
      modulesToSave: [`${decoder}.norm`, ...(model.config.llm.tieWordEmbeddings ? [] : ['lm_head'])],
    },
    layers: { targetModules: ATTENTION, modulesToSave: ['post_attention_layernorm'] },
  };
};

const OPTIONS: SequenceOptions = {
  sampling: { temperature: 1.2, topP: 0.95, repetitionPenalty: 1.1, seed: 7 },
  maxNewTokens: 9,
  stopTokens: new Set(),
  logProbs: 8,
};

/** A prompt of `length` tokens with a picture. */
function prompt(model: MiniCPMV, seed: number, length: number): EncodedPrompt {
  const { llm, merger, pictureTokens } = model.config;
  const grid = merger === null ? { rows: 2, cols: 3 } : { rows: 8, cols: 4 };
  const patches = grid.rows * grid.cols;
  const tokens = countTokens(pictureTokens, grid);
  return {
    inputIds: Int32Array.from({ length }, (_, i) => (i * 31 + seed * 17 + 5) % llm.vocabSize),
    ...(model.config.canvas && { positionIds: Int32Array.from({ length: 3 * length }, (_, i) => i % length) }),
    imageBounds: [[2, 2 + tokens]],
    pictures: [
      {
        pixels: Uint8Array.from({ length: 3 * 14 * 14 * patches }, (_, i) => (i * 37) % 256),
        shape: [3, 14, 14 * patches],
        ...grid,
      },
    ],
  };
}

type Token = Omit<NewToken, 'sequence'>;

function open(folder: string, { quantized }: Kind): MiniCPMV {
  const model = new MiniCPMV(readConfig(folder));
  loadWeights(model, folder);
  if (quantized) quantizeLayers(model, quantized);
  return model;
}

/** What the adapter of a folder (null: the base) gives, alone on its model. */
function alone(base: string, kind: Kind, adapter: string | null, prompts: readonly EncodedPrompt[]): Token[][] {
  const model = open(base, kind);
  if (adapter !== null) loadAdapter(adapter, model, { trainable: false });
  const results = prompts.map((own) => {
    const batch = new RunningBatch(model, { pieceLength: 16 });
    batch.add(own, OPTIONS);
    const tokens: Token[] = [];
    while (batch.size > 0) for (const { sequence: _, ...token } of batch.step()) tokens.push(token);
    return tokens;
  });
  removeLora(model);
  model.dispose();
  return results;
}

describe.each(KINDS)('several adapters, %s', (name, kind) => {
  const base = tinyCheckpoint(mkdtempSync(join(work, 'x-')), kind.version ?? 'minicpm-v-2_6', 1, kind.dtype);
  const model = open(base, kind);
  const set = new AdapterSet(model);
  const folders = new Map<string, string | null>([['base', null]]);
  const held = new Map<string, HeldAdapter | null>([['base', null]]);
  const wanted = new Map<string, Token[][]>();
  const prompts = [prompt(model, 1, 21), prompt(model, 2, 40)];

  beforeAll(() => {
    Object.entries(adaptersOf(model)).forEach(([one, options], i) => {
      const folder = randomAdapter(base, mkdtempSync(join(work, `${one}-`)), i + 1, { ...options });
      folders.set(one, folder);
      held.set(one, set.load(folder));
    });
    for (const [one, folder] of folders) wanted.set(one, alone(base, kind, folder, prompts));
  });
  afterAll(() => {
    set.dispose();
    model.dispose();
  });

  /** Runs sequences that join at given steps; some leave early. Gives the tokens of each. */
  function together(some: readonly { adapter: string; prompt: number; at: number; leaves?: number }[]): Token[][] {
    const batch = new RunningBatch(model, { adapters: set, pieceLength: 16 });
    const ids = new Map<number, number>();
    const tokens: Token[][] = some.map(() => []);
    for (let step = 0; step < 200; step++) {
      some.forEach(({ adapter, prompt: p, at, leaves }, i) => {
        if (at === step) ids.set(batch.add(prompts[p]!, { ...OPTIONS, adapter: held.get(adapter)! }), i);
        if (leaves === step) for (const [id, own] of ids) if (own === i) batch.remove(id);
      });
      for (const { sequence, ...token } of batch.step()) tokens[ids.get(sequence)!]!.push(token);
    }
    expect(batch.size).toBe(0);
    return tokens;
  }

  it('differ from each other and from the base', () => {
    const texts = [...wanted.values()].map((tokens) => JSON.stringify(tokens));
    expect(new Set(texts).size).toBe(7);
    const whole = [...held].map(([one, adapter]) => [one, adapter?.whole]);
    const nothing = { table: false, layers: false, head: false };
    const tied = model.config.llm.tieWordEmbeddings;
    expect(Object.fromEntries(whole)).toEqual({
      base: undefined,
      plain: nothing,
      other: nothing,
      dora: nothing,
      official: { ...nothing, table: true, head: tied },
      head: { ...nothing, head: true },
      layers: { ...nothing, layers: true },
    });
    expect(held.get('official')!.changesVision).toBe(true);
    expect(held.get('plain')!.changesVision).toBe(false);
  });

  it('all at once give what each gives alone', () => {
    const names = [...wanted.keys()];
    const some = [...names, ...names].map((adapter, i) => ({ adapter, prompt: Math.floor(i / names.length), at: 0 }));
    const all = together(some);
    some.forEach(({ adapter, prompt: p }, i) => {
      expect(all[i], `${name} ${adapter}`).toEqual(wanted.get(adapter)![p]);
    });
  });

  it('that join and leave at different steps do so, too', () => {
    const some = [
      { adapter: 'official', prompt: 0, at: 3 },
      { adapter: 'base', prompt: 1, at: 0 },
      { adapter: 'plain', prompt: 0, at: 1, leaves: 8 },
      { adapter: 'layers', prompt: 0, at: 2 },
      { adapter: 'plain', prompt: 1, at: 9 },
      { adapter: 'dora', prompt: 0, at: 5 },
      { adapter: 'head', prompt: 1, at: 4 },
      { adapter: 'dora', prompt: 1, at: 6, leaves: 15 },
      { adapter: 'other', prompt: 0, at: 11 },
      { adapter: 'base', prompt: 0, at: 12 },
    ];
    const all = together(some);
    some.forEach(({ adapter, prompt: p, leaves }, i) => {
      const own = wanted.get(adapter)![p]!;
      const what = `${name} ${adapter}`;
      if (leaves === undefined) expect(all[i], what).toEqual(own);
      else expect(all[i], what).toEqual(own.slice(0, all[i]!.length));
    });
  });
});

describe('a batch of several adapters', () => {
  const base = tinyCheckpoint(mkdtempSync(join(work, 'x-')), 'minicpm-v-2_6', 1, 'bfloat16');
  const model = open(base, { dtype: 'bfloat16' });
  const folders = Object.entries(adaptersOf(model)).map(([name, options], i) =>
    randomAdapter(base, join(work, `own-${name}`), i + 1, { ...options }),
  );
  afterAll(() => model.dispose());
  const endless = { maxNewTokens: 400, stopTokens: new Set<number>() };

  it('gives each sequence a token every step, holds live tensors flat, and frees everything', () => {
    const before = liveTensors();
    const set = new AdapterSet(model);
    const held = [null, ...folders.map((folder) => set.load(folder))];
    const batch = new RunningBatch(model, { adapters: set });
    for (const adapter of [...held, ...held]) batch.add(prompt(model, 1, 12), { ...endless, adapter });
    while (batch.step().length < 14);
    const counts = Array.from({ length: LONG ? 60 : 20 }, () => {
      expect(batch.step()).toHaveLength(14);
      return liveTensors().tensors;
    });
    expect(new Set(counts).size).toBe(1);
    batch.dispose();
    set.dispose();
    expect(liveTensors()).toEqual(before);
    expect([...model.namedModules()].some(([, one]) => one instanceof Linear && one.adapter !== undefined)).toBe(false);
  });

  it('goes on without an adapter that is freed and one that fails', () => {
    const set = new AdapterSet(model);
    const [plain, other, dora] = folders.map((folder) => set.load(folder)) as [HeldAdapter, HeldAdapter, HeldAdapter];
    const failures: [number, string][] = [];
    const onFailure = (sequence: number, error: unknown): void => {
      failures.push([sequence, (error as Error).message]);
    };
    const run = (batch: RunningBatch, ids: readonly number[], steps: number): string[] => {
      const texts = ids.map(() => '');
      for (let i = 0; i < steps; i++)
        for (const { sequence, id } of batch.step())
          if (ids.includes(sequence)) texts[ids.indexOf(sequence)] += ` ${id}`;
      return texts;
    };
    const add = (batch: RunningBatch, adapter: HeldAdapter | null): number =>
      batch.add(prompt(model, 3, 12), { ...endless, adapter });
    const [expected] = [plain].map((adapter) => {
      const batch = new RunningBatch(model, { adapters: set });
      const text = run(batch, [add(batch, adapter)], 13)[0]!;
      batch.dispose();
      return text;
    });
    const batch = new RunningBatch(model, { adapters: set, onFailure });
    const ids = [plain, other, dora, other].map((adapter) => add(batch, adapter));
    let text = run(batch, ids, 2)[0]!;
    for (const id of [ids[1]!, ids[3]!]) batch.remove(id);
    set.free(other); // in the midst of the others
    set.activate(dora);
    noGrad(() =>
      scope(() => {
        for (const [name, { data }] of model.namedParameters())
          if (name.endsWith('lora_B.weight')) ops.mulScalar_(data, Number.NaN);
      }),
    );
    text += run(batch, ids, 11)[0]!;
    expect(text.trim().split(' ').slice(0, 12).join(' ')).toBe(expected!.trim().split(' ').slice(0, 12).join(' '));
    expect(failures.map(([sequence]) => sequence)).toEqual([ids[2]]);
    expect(failures[0]![1]).toContain('NaN');
    expect(batch.size).toBe(1);
    const whole = prompt(model, 4, 12);
    const damaged = { ...whole, pictures: [{ ...whole.pictures[0]!, pixels: new Uint8Array(3) }] };
    const bad = batch.add(damaged, { ...endless, adapter: plain });
    const good = batch.add(whole, { ...endless, adapter: plain });
    expect(run(batch, [ids[0]!, good], 3).map((words) => words.trim().split(' ').length)).toEqual([3, 1]);
    expect(failures.map(([sequence]) => sequence)).toEqual([ids[2], bad]);
    const strict = new RunningBatch(model, { adapters: set });
    add(strict, dora);
    expect(() => run(strict, [], 9)).toThrow('NaN');
    strict.dispose();
    batch.dispose();
    set.dispose();
  });

  it('keeps what belongs to an adapter in the caches of its sequence', () => {
    const set = new AdapterSet(model);
    const official = set.load(folders[3]!);
    const caches = [0, 1].map(() => ({
      pictures: new TensorCache({ maxBytes: 1e7 }),
      prefixes: new TensorCache({ maxBytes: 1e7 }),
    }));
    const texts = [false, true].map(() => {
      const batch = new RunningBatch(model, { adapters: set, pieceLength: 16 });
      const ids = [null, official].map((adapter, i) =>
        batch.add(prompt(model, 1, 40), { ...OPTIONS, maxNewTokens: 4, adapter, ...caches[i] }),
      );
      const tokens: string[] = ids.map(() => '');
      const cached = ids.map(() => 0);
      while (batch.size > 0) {
        for (const { sequence, id } of batch.step()) tokens[ids.indexOf(sequence)] += ` ${id}`;
        ids.forEach((id, i) => {
          cached[i] = Math.max(cached[i]!, batch.cachedTokens(id));
        });
      }
      return { tokens, cached };
    });
    expect(texts.map(({ cached }) => cached)).toEqual([
      [0, 0],
      [32, 32],
    ]);
    expect(texts[1]!.tokens).toEqual(texts[0]!.tokens);
    expect(texts[0]!.tokens[0]).not.toBe(texts[0]!.tokens[1]);
    for (const { pictures, prefixes } of caches) {
      pictures.dispose();
      prefixes.dispose();
    }
    set.dispose();
  });
});

it('groups of one pass are in an order in which those that share a part are neighbours', () => {
  const adapter = (table: boolean, layers: boolean, head: boolean): HeldAdapter =>
    ({ whole: { table, layers, head } }) as HeldAdapter;
  const flags = [false, true];
  const adapters = flags.flatMap((a) => flags.flatMap((b) => flags.map((c) => adapter(a, b, c))));
  const sequences = [...adapters, null, ...adapters].map((one) => ({ adapter: one }));
  const passes = passesOf(sequences as unknown as Sequence[]);
  expect(passes.map(({ length }) => length)).toEqual([5, 1, 1, 1, 1]);
  for (const part of ['table', 'head'] as const) {
    const shared = passes[0]!.map((group) => !group.adapter?.whole[part]);
    expect(shared.lastIndexOf(true) - shared.indexOf(true)).toBe(2);
  }
});
