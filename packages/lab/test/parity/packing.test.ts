/** Records packed into one row train like records padded into a batch, with and without recompute, and leave nothing behind. */
import {
  applyLora,
  createModel,
  type MiniCPMV,
  type ModelInputs,
  type Picture,
  setLoraTraining,
} from '@minicpm-finetune/minicpm-v';
import { type EncodedSample, parseConfig } from '@minicpm-finetune/processor';
import { fromTypedArray, keep, liveTensors, noGrad, ops, scope } from '@minicpm-finetune/torch';
import { type Batch, collate, denseRows, type Gradients, lossAndGradients, tuneFully } from 'minicpm-finetune/internal';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { largestDifference, modelInMemory, noiseSample } from '../../../finetune/test/support/model-in-memory.js';
import { readReference } from '../../../minicpm-v/test/support/reference.js';
import { BACKWARD, expectNear, FORWARD } from '../../../torch/test/precision.js';
import { padBatch } from '../../src/parity/pad.js';

let model: MiniCPMV;
beforeEach(() => {
  model = modelInMemory();
});
afterEach(() => model.dispose());

const records = (): EncodedSample[] => [
  noiseSample(model, model.config.merger ? 29 : 12, [[4, 4]], 1),
  noiseSample(
    model,
    model.config.merger ? 71 : 31, // beyond a chunk of linear attention
    [
      [2, 6],
      [4, 4],
    ],
    2,
  ),
  noiseSample(model, 7, [], 3),
];

/** The batch that a collator with padding makes: (B, L) and a causal mask. */
function padded(samples: readonly EncodedSample[]): Batch {
  const { inputIds, positionIds, labels, length } = padBatch(samples);
  const shape = [samples.length, length];
  const int64 = (values: Int32Array) => keep(fromTypedArray(BigInt64Array.from(values, BigInt), shape));
  return scope(() => {
    const inputs: ModelInputs = {
      inputIds: int64(inputIds),
      positionIds: int64(positionIds),
      pictures: samples.map(({ pictures }) =>
        pictures.map(
          ({ pixels, shape: own, rows, cols }): Picture => ({ pixels: keep(fromTypedArray(pixels, own)), rows, cols }),
        ),
      ),
      imageBounds: samples.map(({ imageBounds }) => imageBounds),
    };
    const supervisedTokens = labels.filter((label) => label !== -100).length;
    return { inputs, labels, samples: samples.length, tokens: inputIds.length, supervisedTokens, answers: null };
  });
}

const compute = (batches: readonly Batch[], recompute = false, seed = 0): Gradients =>
  lossAndGradients(model, batches, { recompute, perMicroBatch: false, seed });

const lora = (dropout: number) => ({
  r: 4,
  alpha: 8,
  dropout,
  targetModules: ['q_proj', 'v_proj', 'up_proj'],
  modulesToSave: ['embed_tokens', 'resampler', 'vpm'],
});

describe('collate', () => {
  it('puts records behind each other, each with positions from 0 and bounds moved along', () => {
    const samples = records();
    const batch = collate(samples);
    expect(batch).toMatchObject({ samples: 3, tokens: 50 });
    expect(batch.inputs.lengths).toEqual([12, 31, 7]);
    expect(batch.inputs.inputIds.shape).toEqual([1, 50]);
    const positions = [...(batch.inputs.positionIds.toTypedArray() as BigInt64Array)].map(Number);
    expect(positions).toEqual([12, 31, 7].flatMap((length) => Array.from({ length }, (_, i) => i)));
    const bounds = [samples[0]!.imageBounds, samples[1]!.imageBounds.map(([a, b]) => [a + 12, b + 12])].flat();
    expect(batch.inputs.imageBounds).toEqual([bounds]);
    expect([...batch.labels]).toEqual(samples.flatMap(({ labels }) => [...labels]));
    expect(batch.supervisedTokens).toBe(batch.labels.filter((label) => label !== -100).length);
    compute([batch]).dispose();
  });
});

describe('packed records', () => {
  it('have the loss and gradients of padded ones', () => {
    tuneFully(model, { tuneVision: true, tuneLlm: true });
    const packed = compute([collate(records())]);
    const reference = compute([padded(records())]);
    expect(packed.supervisedTokens).toBe(reference.supervisedTokens);
    expectNear(packed.loss, reference.loss, FORWARD);
    expect(packed.gradients.size).toBeGreaterThan(30);
    const whole = ({ gradients, rows }: Gradients) =>
      new Map(
        [...gradients].map(
          ([name, x]) =>
            [name, rows.has(name) ? denseRows(x, rows.get(name)!, model.config.llm.vocabSize) : x] as const,
        ),
      );
    expect(packed.rows.size).toBe(1);
    scope(() => expect(largestDifference(whole(reference), whole(packed))).toBeLessThan(BACKWARD));
    packed.dispose();
    reference.dispose();
  });

  it('do not see each other', () => {
    tuneFully(model, { tuneVision: false, tuneLlm: true });
    const [first, second, third] = records() as [EncodedSample, EncodedSample, EncodedSample];
    const silent = { ...second, labels: second.labels.map(() => -100) };
    const one = compute([collate([silent, first])]);
    const other = compute([collate([{ ...third, labels: third.labels.map(() => -100) }, first])]);
    const alone = compute([collate([first])]);
    for (const among of [one, other]) {
      expectNear(among.loss, alone.loss, FORWARD);
      const name = 'llm.model.layers.0.self_attn.q_proj.weight';
      const pick = ({ gradients }: Gradients) => new Map([[name, gradients.get(name)!]]);
      expect(largestDifference(pick(alone), pick(among))).toBeLessThan(BACKWARD);
      among.dispose();
    }
    alone.dispose();
  });
});

describe.each(['minicpm-v-4_5', 'minicpm-v-4_6', 'minicpm-v-4_7'] as const)('packed records of %s', (version) => {
  beforeEach(() => {
    model.dispose();
    model = createModel(parseConfig(JSON.stringify(readReference(version).config), 'config.json'), { seed: 1 });
  });

  it('have the loss and gradients that they have one by one', () => {
    tuneFully(model, { tuneVision: true, tuneLlm: true });
    const packed = compute([collate(records())]);
    const alone = compute(records().map((record) => collate([record])));
    expect(Math.abs(packed.loss - alone.loss)).toBeLessThan(1e-5);
    const whole = ({ gradients, rows }: Gradients) =>
      new Map(
        [...gradients].map(
          ([name, x]) =>
            [name, rows.has(name) ? denseRows(x, rows.get(name)!, model.config.llm.vocabSize) : x] as const,
        ),
      );
    const noise = model.config.llm.linearAttention ? 20 : 1; // of linear attention, whose norm divides by small outputs
    scope(() => expect(largestDifference(whole(alone), whole(packed))).toBeLessThan(noise * BACKWARD));
    packed.dispose();
    alone.dispose();
  });

  it('change no bit of loss and gradients when they are recomputed, and leave nothing behind', () => {
    tuneFully(model, { tuneVision: true, tuneLlm: true });
    const kept = compute([collate(records())]);
    const before = liveTensors().tensors;
    const again = compute([collate(records())], true);
    expect(again.loss).toBe(kept.loss);
    expect(largestDifference(kept.gradients, again.gradients)).toBe(0);
    again.dispose();
    expect(liveTensors().tensors).toBe(before);
    kept.dispose();
  });
});

describe('recompute', () => {
  it('changes no bit of loss and gradients, with dropout', () => {
    applyLora(model, lora(0.3), { seed: 1 });
    setLoraTraining(model, true);
    for (const [name, { data }] of model.namedParameters())
      if (name.includes('lora_B')) noGrad(() => ops.uniform_(data, -0.1, 0.1)); // new adapters add nothing, so dropout neither
    const kept = compute([collate(records())]);
    const again = compute([collate(records())], true);
    const otherwise = compute([collate(records())], true, 5);
    expect(again.loss).toBe(kept.loss);
    expect(largestDifference(kept.gradients, again.gradients)).toBe(0);
    expect(otherwise.loss).not.toBe(kept.loss); // dropout is at work
    for (const gradients of [kept, again, otherwise]) gradients.dispose();
  });
});

describe('a step', () => {
  it('leaves no tensor behind', () => {
    applyLora(model, lora(0.1), { seed: 1 });
    setLoraTraining(model, true);
    compute([collate(records())]).dispose(); // the model makes its constants
    const before = liveTensors().tensors;
    for (const recompute of [false, true, false])
      compute([collate(records()), collate(records())], recompute).dispose();
    expect(liveTensors().tensors).toBe(before);
  });
});
