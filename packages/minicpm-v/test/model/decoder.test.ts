import { type LlmConfig, parseConfig, VERSIONS, type VersionName } from '@minicpm-finetune/processor';
import { fromTypedArray, liveTensors, noGrad, ops, scope, type Tensor } from '@minicpm-finetune/torch';
import { describe, expect, it } from 'vitest';
import { expectNear, FORWARD, roundings } from '../../../torch/test/precision.js';
import { KVCache } from '../../src/model/kv-cache.js';
import type { MiniCPMV } from '../../src/model/minicpm-v.js';
import { runPlan } from '../../src/model/plan.js';
import { inverseFrequencies, rotaryTable, rotate } from '../../src/model/rope.js';
import { hashedModel, readReference, relativeDifference } from '../support/reference.js';

const VERSION_NAMES = Object.keys(VERSIONS) as VersionName[];
const int64 = (rows: number[][]): Tensor =>
  fromTypedArray(BigInt64Array.from(rows.flat(), BigInt), [rows.length, rows[0]!.length]);
const count = (from: number, to: number): number[] => Array.from({ length: to - from }, (_, i) => from + i);
const tokens = (length: number, seed: number): number[] => count(0, length).map((i) => (i * 37 + seed * 11) % 90);

/** Hidden states (1, L, D) of a whole sequence without a cache. */
function whole(model: MiniCPMV, ids: number[]): Tensor {
  const inputs = {
    inputIds: int64([ids]),
    positionIds: int64([count(0, ids.length)]),
    pictures: [[]],
    imageBounds: [[]],
  };
  return runPlan(model.plan(inputs, { train: false }));
}

/** Hidden states of positions `from` to `to` of a sequence. */
function step(model: MiniCPMV, ids: number[], from: number, to: number, cache: KVCache): Tensor {
  const decoder = model.llm.model;
  const embeds = ops.select(decoder.embed(int64([ids.slice(from, to)])), 0, 0);
  return decoder.prefill([{ embeds, cache, length: ids.length }]);
}

const cacheFor = (model: MiniCPMV): KVCache =>
  new KVCache(model.config.llm, { dtype: model.llm.model.norm.weight.data.dtype, device: 'cpu' });

describe.each(VERSION_NAMES)('the decoder of %s with a cache', (version) => {
  const reference = readReference(version);
  // one set of rotary frequencies: a sequence that outgrows the short ones changes its past, with or without a cache
  const config = version === 'minicpm-v-4' ? { ...reference.config, rope_scaling: null } : reference.config;

  it('continues as if it saw everything at once, in parts of any size', () => {
    const model = hashedModel({ ...reference, config });
    const ids = tokens(300, 1);
    const cache = cacheFor(model);
    noGrad(() =>
      scope(() => {
        const expected = whole(model, ids);
        const bounds = [0, 7, 8, 9, 200, 290, 291, 300]; // beyond the first capacity
        const parts = bounds.slice(1).map((to, i) => step(model, ids, bounds[i]!, to, cache));
        expect(cache.length).toBe(300);
        expect(relativeDifference(ops.cat(parts, 1), expected)).toBeLessThan(FORWARD);
        const [again, other] = [cacheFor(model), cacheFor(model)];
        for (const [from, to] of [
          [0, 100],
          [100, 290],
        ] as const) {
          step(model, ids, from, to, again);
          other.append(again.copyFrom(from));
        }
        again.dispose();
        expect(relativeDifference(step(model, ids, 290, 300, other), ops.narrow(expected, 1, 290, 10))).toBeLessThan(
          FORWARD,
        );
        other.dispose();
      }),
    );
    cache.dispose();
    model.dispose();
  });

  it('decodes sequences of unequal length side by side as it reads them', () => {
    const model = hashedModel({ ...reference, config });
    const lengths = [12, 5, 280];
    const rows = lengths.map((length, b) => tokens(length + 3, b));
    const caches = rows.map(() => cacheFor(model));
    noGrad(() =>
      scope(() => {
        rows.forEach((row, b) => {
          step(model, row, 0, lengths[b]!, caches[b]!);
        });
        const { model: decoder } = model.llm;
        const steps = count(0, 3).map((i) => {
          const newest = rows.map((row, b) => row[lengths[b]! + i]!);
          return decoder.finishRows(decoder.decode(decoder.embedRows(newest), caches));
        });
        rows.forEach((row, b) => {
          const alone = ops.narrow(whole(model, row), 1, lengths[b]!, 3);
          const own = ops.unsqueeze(ops.stack(steps.map((hidden) => ops.select(hidden, 0, b))), 0);
          expect(relativeDifference(own, alone)).toBeLessThan(FORWARD);
        });
      }),
    );
    for (const cache of caches) cache.dispose();
    model.dispose();
  });
});

/** Numbers in the states of all layers of linear attention. */
function statesOf({ linearAttention, linearLayers }: LlmConfig): number {
  const { numKeyHeads, numValueHeads, keyHeadDim, valueHeadDim, convKernel } = linearAttention!;
  const channels = 2 * numKeyHeads * keyHeadDim + numValueHeads * valueHeadDim;
  return linearLayers.size * ((convKernel - 1) * channels + numValueHeads * keyHeadDim * valueHeadDim);
}

describe('KVCache', () => {
  it.each(['minicpm-v-2_6', 'minicpm-v-4_6'] as const)('owns its tensors until it is disposed of, %s', (version) => {
    const before = liveTensors().tensors;
    const { llm } = parseConfig(JSON.stringify(readReference(version).config), 'config.json');
    const layers = llm.numLayers - llm.linearLayers.size;
    const states = 2 * llm.linearLayers.size;
    const cache = new KVCache(llm, { dtype: 'float32', device: 'cpu' });
    scope(() => {
      const keyValues = ops.ones([layers, 2, llm.numKeyValueHeads, 200, llm.headDim]);
      const numbers = states === 0 ? 0 : statesOf(llm);
      const part = { keyValues, states: states === 0 ? null : ops.ones([numbers]) };
      cache.append(part);
      cache.append(part);
    });
    expect(cache.length).toBe(400);
    expect(liveTensors().tensors).toBe(before + layers + states);
    cache.dispose();
    expect(liveTensors().tensors).toBe(before);
  });
});

describe('positions on a canvas', () => {
  const { llm } = parseConfig(JSON.stringify(readReference('minicpm-v-4_7').config), 'config.json');

  it('turn frequencies by time, row and column in turns; equal ones turn as one', () => {
    scope(() => {
      const table = (ids: Tensor): number[][] => {
        const [cosines] = ops.unbind(rotaryTable(llm, ids, ops.zeros([1])), 0);
        return [ops.select(ops.reshape(cosines!, [-1, llm.rotaryDim / 2]), 0, 0).toNumbers()];
      };
      const three = (...ids: number[]): Tensor => fromTypedArray(BigInt64Array.from(ids, BigInt), [3, 1, 1]);
      const [time, row, column] = [2, 5, 9];
      const mixed = table(three(time, row, column))[0]!;
      const all = [time, row, column].map((id) => table(int64([[id]]))[0]!);
      expect(mixed).toEqual(mixed.map((_, j) => all[j < 3 * llm.mropeSection![j % 3]! ? j % 3 : 0]![j]!));
      expect(table(three(row, row, row))).toEqual(table(int64([[row]])));
    });
  });
});

describe('rotary positions', () => {
  const { llm } = parseConfig(JSON.stringify(readReference('minicpm-v-4').config), 'config.json');

  it('turn the first half of a head with the second', () => {
    scope(() => {
      const plain = { ...llm, headDim: 2, rotaryDim: 2, ropeTheta: 10_000, longRope: null };
      const table = rotaryTable(plain, int64([[0, 1]]), ops.zeros([1]));
      const turned = rotate(ops.ones([1, 1, 2, 2]), table).toNumbers();
      const [c, s] = [Math.cos(1), Math.sin(1)];
      expectNear(turned, [1, 1, c - s, c + s], roundings(4));
    });
  });

  it('use the long factors for sequences beyond the original length only', () => {
    scope(() => {
      const { longRope, headDim, ropeTheta } = llm;
      const expected = (factors: readonly number[]): number[] =>
        factors.map((f, j) => 1 / (f * ropeTheta ** ((2 * j) / headDim)));
      const close = (length: number, factors: readonly number[]): void =>
        expectNear(inverseFrequencies(llm, length).toNumbers(), expected(factors), roundings(8));
      close(16, longRope!.shortFactor);
      close(17, longRope!.longFactor);
      const table = (length: number): number =>
        ops.maxAll(rotaryTable(llm, int64([count(0, length)]), ops.zeros([1]))).item();
      expectNear(table(16), longRope!.attentionFactor, roundings(2));
    });
  });
});
