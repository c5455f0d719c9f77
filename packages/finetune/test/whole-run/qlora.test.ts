/** Training adapters on a quantized base: the same gradients as on the dequantized one, falling loss, adapters for the base as it was. */
import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import {
  applyLora,
  loadAdapter,
  loadWeights,
  MiniCPMV,
  quantizeLayers,
  trainableParameters,
} from '@minicpm-finetune/minicpm-v';
import { Int8Tensor, Nf4Tensor } from '@minicpm-finetune/minicpm-v/internal';
import { readConfig } from '@minicpm-finetune/processor';
import { keep, liveTensors, noGrad, ops, scope } from '@minicpm-finetune/torch';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import { type Batch, collate } from '../../src/engine/collate.js';
import { evaluateBatch } from '../../src/engine/micro-batch.js';
import { lossAndGradients } from '../../src/engine/step.js';
import { train } from '../../src/train/train.js';
import { configOf, eventsOf, lossesOf, makePlace, type Place } from '../support/run-place.js';

let place: Place;
beforeAll(() => {
  place = makePlace(4);
});
afterAll(() => rmSync(place.folder, { recursive: true }));

const TYPES = ['nf4', 'int8'] as const;
const LORA = { r: 4, alpha: 8, targetModules: 'all-linear' };
/** Few numbers that train, many steps over four records. */
const TRAIN = { use_lora: true, q_lora: true, lora_r: 4, lora_modules_to_save: '', max_steps: 12, learning_rate: 1e-2 };

/** Text alone: 2 rows of 24 tokens, half of them supervised. */
function batch(): Batch {
  const rows = [3, 11].map((seed) => {
    const inputIds = Int32Array.from({ length: 24 }, (_, i) => 10 + ((i * seed) % 40));
    const labels = Int32Array.from({ length: 24 }, (_, i) => (i < 12 || i === 23 ? -100 : inputIds[i + 1]!));
    return { inputIds, labels, imageBounds: [], pictures: [] };
  });
  return collate(rows);
}

/** The tiny model with random adapters. */
function adapted(): MiniCPMV {
  const model = new MiniCPMV(readConfig(place.model));
  loadWeights(model, place.model);
  applyLora(model, LORA, { seed: 1 });
  noGrad(() =>
    scope(() => {
      for (const [name, { data }] of trainableParameters(model))
        if (name.includes('lora_B')) ops.add_(data, ops.fill_(ops.emptyLike(data), 0.01));
    }),
  );
  return model;
}

const OPTIONS = { recompute: false, perMicroBatch: false };

function gradientsOf(model: MiniCPMV): { loss: number; gradients: Map<string, number[]> } {
  const { loss, gradients, dispose } = lossAndGradients(model, [batch()], OPTIONS);
  const numbers = new Map([...gradients].map(([name, x]) => [name, scope(() => ops.reshape(x, [-1]).toNumbers())]));
  dispose();
  return { loss, gradients: numbers };
}

describe.each(TYPES)('a step on a base in %s', (type) => {
  it('is that on the dequantized base, to the bit, with the layers computed again and nothing left behind', () => {
    const model = adapted();
    const { tensors } = quantizeLayers(model, type);
    expect(tensors).toBeGreaterThan(7); // more than one layer
    gradientsOf(model); // makes the tables that a model keeps
    const before = liveTensors();
    const expand = vi.spyOn(type === 'nf4' ? Nf4Tensor.prototype : Int8Tensor.prototype, 'expand');
    const quantized = gradientsOf(model);
    expect(expand).toHaveBeenCalledTimes(2 * tensors); // forward, and again behind a graph of its own layer alone
    expand.mockRestore();
    expect(liveTensors()).toEqual(before);
    for (const [, parameter] of model.namedParameters())
      if (parameter.compact !== undefined) parameter.data = scope(() => keep(parameter.data));
    const plain = gradientsOf(model);
    expect(quantized.loss).toBe(plain.loss);
    expect(quantized.gradients).toEqual(plain.gradients);
    expect(quantized.gradients.size).toBeGreaterThan(14);
    model.dispose();
  });
});

describe.each(TYPES)('a run with --q_lora_type %s', (type) => {
  const flags = { ...TRAIN, q_lora_type: type };

  it('learns, says what it saves, and its adapter fits the base as it was', async () => {
    const base = readFileSync(join(place.model, 'model.safetensors'));
    const config = configOf(place, type, flags);
    await train(config);
    const folder = join(place.folder, type);
    const losses = lossesOf(folder);
    expect(losses).toHaveLength(12);
    expect(losses.at(-1)!).toBeLessThan(0.8 * losses[0]!);
    const [start] = eventsOf(folder, 'run_start');
    const [notice] = start!.notices.filter((line) => line.startsWith('q_lora: '));
    expect(notice).toMatch(
      new RegExp(
        `^q_lora: \\d+ linear weights of the language model are kept in ${type}, .*B instead of .*B; each layer`,
      ),
    );
    expect(readFileSync(join(place.model, 'model.safetensors')).equals(base)).toBe(true);

    const model = new MiniCPMV(readConfig(place.model));
    loadWeights(model, place.model);
    const loss = (): number => {
      const { sum, count } = evaluateBatch(model, batch());
      return sum / count;
    };
    const untrained = loss();
    loadAdapter(folder, model, { trainable: false });
    const unquantized = loss();
    expect(unquantized).not.toBe(untrained);
    quantizeLayers(model, type);
    expect(Math.abs(loss() - unquantized)).toBeLessThan(0.1 * unquantized);
    model.dispose();
  });

  it('resumes from a checkpoint with the same bytes', async () => {
    const more = { ...flags, max_steps: 3, use_dora: true, lora_dropout: 0.2, bf16: true, bf16_master_weights: false };
    const weights = (name: string): Buffer => readFileSync(join(place.folder, name, 'adapter_model.safetensors'));
    await train(configOf(place, `${type} whole`, more));
    const pieces = join(place.folder, `${type} pieces`);
    mkdirSync(pieces);
    writeFileSync(join(pieces, 'STOP'), '');
    expect((await train(configOf(place, `${type} pieces`, more))).steps).toBe(1);
    const rest = { ...more, resume_from_checkpoint: 'latest' };
    expect((await train(configOf(place, `${type} pieces`, rest))).steps).toBe(3);
    expect(weights(`${type} pieces`).equals(weights(`${type} whole`))).toBe(true);
  });
});

describe('a base without frozen weights to quantize', () => {
  it('is refused', async () => {
    const flags = { ...TRAIN, lora_modules_to_save: 'llm.model', lora_target_modules: 'vpm.*fc1' };
    await expect(train(configOf(place, 'whole', flags))).rejects.toThrow(
      'Expected frozen linear weights in the language model for --q_lora but received none.',
    );
  });
});
