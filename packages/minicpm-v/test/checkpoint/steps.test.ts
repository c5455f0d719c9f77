/** What a server does before it answers is done in steps, of a tensor each at most. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { readConfig } from '@minicpm-finetune/processor';
import type { Steps } from '@minicpm-finetune/run';
import { liveTensors, scope } from '@minicpm-finetune/torch';
import { afterAll, expect, it } from 'vitest';
import { quantizingLayers } from '../../src/adapters/quantize.js';
import { fingerprinting, weightsFingerprint } from '../../src/checkpoint/content.js';
import { loadingWeights, openCheckpoint } from '../../src/checkpoint/weights.js';
import { holdingWeights } from '../../src/generation/hold-weights.js';
import { MiniCPMV } from '../../src/model/minicpm-v.js';
import { tinyCheckpoint } from '../support/tiny.js';

const work = mkdtempSync(join(tmpdir(), 'steps-'));
afterAll(() => rmSync(work, { recursive: true }));

function counted<T>(steps: Steps<T>): { count: number; result: T } {
  for (let count = 0; ; count++) {
    const step = steps.next();
    if (step.done) return { count, result: step.value };
  }
}

it('hashing, loading, quantizing and copying', () => {
  const folder = tinyCheckpoint(work, 'minicpm-v-4_6');
  const source = openCheckpoint(folder);
  const hashed = counted(fingerprinting(source));
  expect(hashed.count).toBeGreaterThanOrEqual(source.infos.size);
  expect(hashed.result).toBe(weightsFingerprint(source));
  const before = liveTensors().tensors;
  const model = new MiniCPMV(readConfig(folder));
  try {
    const parameters = [...model.namedParameters()].length;
    expect(counted(loadingWeights(model, folder)).count).toBe(parameters);
    const quantized = counted(quantizingLayers(model, 'int8', { head: true }));
    expect(quantized.count).toBe(quantized.result.tensors);
    expect(quantized.count).toBeGreaterThan(5);
    const plain = counted(holdingWeights(model));
    expect(plain.count).toBeGreaterThan(0);
  } finally {
    model.dispose();
  }
  expect(liveTensors().tensors).toBe(before);
});

it.each(['plain', 'int8'])(
  'weights that every token reads are one block of memory, and the same numbers: %s',
  (form) => {
    const folder = tinyCheckpoint(mkdtempSync(join(work, form)), 'minicpm-v-2_6');
    const before = liveTensors().tensors;
    const [held, mapped] = [0, 1].map(() => {
      const model = new MiniCPMV(readConfig(folder));
      counted(loadingWeights(model, folder));
      if (form === 'int8') counted(quantizingLayers(model, 'int8', { head: true }));
      return model;
    }) as [MiniCPMV, MiniCPMV];
    try {
      const before = liveTensors().tensors;
      counted(holdingWeights(held));
      expect(liveTensors().tensors).toBe(before);
      const others = new Map(mapped.namedParameters());
      const matrices = held.llm.model.layers.flatMap((layer) =>
        [...layer.namedParameters()].filter(([, { shape }]) => shape.length === 2).map(([, parameter]) => parameter),
      );
      const read = matrices.map((parameter) => parameter.compact?.tensors[0] ?? parameter.data);
      expect(read[0]!.dtype).toBe(form === 'int8' ? 'int8' : 'float32');
      for (const tensor of read) expect(tensor.sharesStorage(read[0]!)).toBe(true);
      for (const [name, parameter] of held.namedParameters())
        scope(() => expect(parameter.data.toNumbers()).toEqual(others.get(name)!.data.toNumbers()));
    } finally {
      held.dispose();
      mapped.dispose();
    }
    expect(liveTensors().tensors).toBe(before);
  },
);
