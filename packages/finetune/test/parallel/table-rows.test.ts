/** A token table that no rank has whole: the rows that a rank reads come from their owners. */
import { join } from 'node:path';
import {
  applyLora,
  createModel,
  type MiniCPMV,
  quantizeLayers,
  trainableParameters,
} from '@minicpm-finetune/minicpm-v';
import { readConfig } from '@minicpm-finetune/processor';
import { dryGroup, fromTypedArray, type Group, liveTensors, ops, scope, soloGroup } from '@minicpm-finetune/torch';
import { describe, expect, it } from 'vitest';
import { collate } from '../../src/engine/collate.js';
import { evaluateBatch } from '../../src/engine/micro-batch.js';
import { tuneFully } from '../../src/engine/trainables.js';
import { Sharding } from '../../src/parallel/sharding.js';
import { fetchRows, piecesOf } from '../../src/parallel/table-rows.js';
import { noiseSample } from '../support/model-in-memory.js';

const config = readConfig(join(import.meta.dirname, '..', 'fixtures', 'data', 'model'));

describe('rows of a table', () => {
  it('are with the rank that owns them', () => {
    const rows = BigInt64Array.from([0n, 3n, 4n, 9n]);
    const counts = (size: number, owned: number): number[] => piecesOf(rows, owned, size).map(({ count }) => count);
    expect(counts(1, 10)).toEqual([4]);
    expect(counts(3, 4)).toEqual([2, 1, 1]);
    expect(counts(4, 3)).toEqual([1, 2, 0, 1]);
    expect(piecesOf(new BigInt64Array(), 4, 2)).toEqual([
      { from: 0, count: 0 },
      { from: 0, count: 0 },
    ]);
  });

  it('come in their order', () => {
    const live = liveTensors().tensors;
    const share = fromTypedArray(
      Float32Array.from({ length: 12 }, (_, i) => i),
      [12],
    );
    const table = { group: soloGroup(), share, width: 3, device: 'cpu', label: 'rows' };
    const rows = fetchRows(table, BigInt64Array.from([1n, 3n]));
    expect([rows.shape, rows.toNumbers()]).toEqual([
      [2, 3],
      [3, 4, 5, 9, 10, 11],
    ]);
    const none = fetchRows(table, new BigInt64Array());
    expect(none.shape).toEqual([0, 3]);
    for (const tensor of [share, rows, none]) tensor.dispose();
    expect(liveTensors().tensors).toBe(live);
  });
});

/** A group that notes what is done. */
function noting(inner: Group, done: string[]): Group {
  const note = (what: string): Group => {
    done.push(what);
    return inner;
  };
  return {
    rank: inner.rank,
    size: inner.size,
    gather: (whole, share, label) => note(`gather ${label}`).gather(whole, share, label),
    scatterAdd: (sum, whole, label) => note(`scatterAdd ${label}`).scatterAdd(sum, whole, label),
    alltoall: (outgoing, incoming, label) => note(`alltoall ${label}`).alltoall(outgoing, incoming, label),
    exchange: (values, label) => inner.exchange(values, label),
    sum: (values, label) => inner.sum(values, label),
    max: (values, label) => inner.max(values, label),
    barrier: (label) => inner.barrier(label),
    [Symbol.dispose]: () => {},
  };
}

const models: readonly [string, (model: MiniCPMV) => void][] = [
  ['that trains', (model) => tuneFully(model, { tuneVision: true, tuneLlm: true })],
  ['that is frozen', (model) => void applyLora(model, { r: 4, alpha: 8, targetModules: ['q_proj'] }, { seed: 1 })],
];

describe('under stage 3', () => {
  it.each(models)('a table %s is never gathered', (_, prepare) => {
    const model = createModel(config, { seed: 1 });
    prepare(model);
    const done: string[] = [];
    const group = noting(dryGroup(0, 2), done);
    const sharding = new Sharding(model, { group, stage: 3, trainable: trainableParameters(model), smallUnit: 0 });
    expect(sharding.sharesTable).toBe(true);
    const live = liveTensors().tensors;
    evaluateBatch(model, collate([noiseSample(model, 20, [], 1)]), null, sharding);
    evaluateBatch(model, null, null, sharding);
    expect(liveTensors().tensors).toBe(live);
    const table = done.filter((what) => what.includes('embed_tokens'));
    expect(table[0]).toMatch(/^alltoall ids of rows of llm\.model\.embed_tokens/);
    expect(table.filter((what) => what.startsWith('gather'))).toEqual([]);
    expect(done.some((what) => what.startsWith('gather weights of llm.model.layers.0'))).toBe(true);
    sharding.dispose();
    model.dispose();
  });

  it('weights in a compact form are shared out as bytes, and cannot be read outside of a visit', async () => {
    const model = createModel(config, { seed: 1 });
    applyLora(model, { r: 4, alpha: 8, targetModules: ['q_proj'] }, { seed: 1 });
    quantizeLayers(model, 'nf4');
    const { weight } = model.llm.model.layers[0]!.mlp.gateProj;
    const before = scope(() => weight.data.toNumbers());
    const sharding = new Sharding(model, {
      ...{ group: soloGroup(), stage: 3, trainable: trainableParameters(model), smallUnit: 0 },
    });
    expect(() => scope(() => weight.data)).toThrow(/memory/);
    await sharding.withAllWeights(async () => {
      expect(scope(() => weight.data.toNumbers())).toEqual(before);
    });
    expect(() => scope(() => ops.clone(weight.compact!.tensors[0]!))).toThrow(/memory/);
    sharding.dispose();
    model.dispose();
  });
});
