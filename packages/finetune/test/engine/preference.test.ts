/**
 * Preference tuning in a step: losses, gradients and ten steps as TRL's formulas give them in PyTorch (fixtures/preference.json, written by
 * packages/lab/python/preference_fixtures.py with both answers encoded whole), whatever the micro-batches; prompts shared without a trace.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { type MiniCPMV, trainableParameters } from '@minicpm-finetune/minicpm-v';
import type { EncodedSample } from '@minicpm-finetune/processor';
import type { PreferenceLoss } from '@minicpm-finetune/run';
import {
  type DType,
  liveTensors,
  resetTensorPeak,
  type Tensor,
  tensorBytes,
  tuneAllocator,
} from '@minicpm-finetune/torch';
import { describe, expect, it } from 'vitest';
import { distance, hashed, hashedModel, type Probe, probe } from '../../../minicpm-v/test/support/reference.js';
import { LONG } from '../../../torch/test/support/long.js';
import { type Batch, collate, disposeBatch } from '../../src/engine/collate.js';
import { Optimizer, withoutDecay } from '../../src/engine/optimizer.js';
import { answerLogProbs, type ObjectiveParts, PreferenceStep } from '../../src/engine/preference.js';
import { NO_REWARDS, type PreferenceOptions, type RewardMean } from '../../src/engine/preference-loss.js';
import { type Gradients, lossAndGradients, trainStep } from '../../src/engine/step.js';
import { tuneFully } from '../../src/engine/trainables.js';

interface Fixture {
  readonly config: { readonly query_num: number; readonly vocab_size: number };
  readonly other: readonly number[];
  readonly start: readonly number[];
  readonly losses: Readonly<
    Record<
      string,
      {
        readonly kind: PreferenceLoss;
        readonly options: Readonly<Record<string, number>>;
        readonly loss: number;
        readonly gradients: Readonly<Record<string, Probe>>;
        /** Values of these gradients at some places each, one parameter after the other: float32 in base64. */
        readonly sampled: string;
        readonly steps: readonly number[];
      }
    >
  >;
}

const FIXTURE = JSON.parse(
  readFileSync(join(import.meta.dirname, '..', 'fixtures', 'preference.json'), 'utf8'),
) as Fixture;

/** The records of the script: pictures in patches, tokens around them, tokens of either answer. */
const RECORDS: readonly [pictures: [number, number][], around: number[], answers: [number, number]][] = [
  [[[3, 5]], [2, 4], [5, 7]],
  [
    [
      [4, 2],
      [3, 5],
    ],
    [3, 1, 2],
    [6, 3],
  ],
  [[], [9], [4, 8]],
  [[[2, 9]], [1, 6], [1, 2]],
];
const DESIRABLE = [true, false, false, true];

const tokens = (name: string, count: number): number[] =>
  Array.from(hashed(name, count), (u) => Math.floor((u + 0.5) * FIXTURE.config.vocab_size));

/** A record of the script; `whole`: without tokens that both answers share. */
function sampleOf(b: number, { whole = false, labelled = false } = {}): EncodedSample {
  const [sizes, around, lengths] = RECORDS[b]!;
  const q = FIXTURE.config.query_num;
  let at = 0;
  const bounds = sizes.map((_, i): [number, number] => {
    const start = at + around[i]!;
    at = start + q;
    return [start, at];
  });
  const prompt = tokens(`prompt.${b}`, at + around.at(-1)!);
  const sequences = lengths.map((length, k) => {
    const ids = [...prompt, ...tokens(`answer.${b}.${k}`, length)];
    return { ids, labels: ids.map((_, i) => (i >= prompt.length - 1 && i < ids.length - 1 ? ids[i + 1]! : -100)) };
  });
  const [x, y] = [sequences[0]!, sequences[1]!];
  const shared = whole ? 0 : prompt.length - 1;
  const pictures = sizes.map(([rows, cols], i) => {
    const shape: [number, number, number] = [3, 14, 14 * rows * cols];
    const pixels = Uint8Array.from(hashed(`picture.${b}.${i}`, 3 * 14 * 14 * rows * cols), (u) =>
      Math.floor((u + 0.5) * 256),
    );
    return { pixels, shape, rows, cols };
  });
  const moved = bounds.map(([start, end]): [number, number] => [start + x.ids.length, end + x.ids.length]);
  return {
    inputIds: Int32Array.from([...x.ids, ...y.ids.slice(shared)]),
    labels: Int32Array.from([...x.labels, ...y.labels.slice(shared)]),
    imageBounds: whole ? [...bounds, ...moved] : bounds,
    pictures: whole ? [...pictures, ...pictures] : pictures,
    answers: { shared, first: x.ids.length, ...(labelled ? { desirable: DESIRABLE[b]! } : {}) },
  };
}

function optionsOf(name: string): PreferenceOptions {
  const { kind, options } = FIXTURE.losses[name]!;
  const camel = Object.entries(options).map(([key, value]) => [
    key.replaceAll(/_(\w)/g, (_, letter: string) => letter.toUpperCase()),
    value,
  ]);
  return {
    ...{ loss: kind, beta: 0.1, labelSmoothing: 0, rpoAlpha: 0, simpoGamma: 0 },
    ...{ desirableWeight: 1, undesirableWeight: 1 },
    ...Object.fromEntries(camel),
  };
}

const pairs = (flat: readonly number[]): [number, number][] =>
  Array.from({ length: flat.length / 2 }, (_, i) => [flat[2 * i]!, flat[2 * i + 1]!]);

/** Batches of the script's records; `split`: the records of each. */
function batchesOf(split: readonly number[][], reference: readonly number[], how: Parameters<typeof sampleOf>[1] = {}) {
  return split.map((records) =>
    collate(
      records.map((b) => sampleOf(b, how)),
      'cpu',
      null,
      records.map((b) => pairs(reference)[b]!),
    ),
  );
}

function openModel(dtype: DType = 'float32'): MiniCPMV {
  const model = hashedModel(FIXTURE, dtype) as unknown as MiniCPMV; // of the sources, which is the same class
  tuneFully(model, { tuneVision: true, tuneLlm: true });
  return model;
}

const ALL = [[0, 1, 2, 3]];
const SPLIT = [[0], [1, 2], [3]];
const SPLITS = [
  SPLIT,
  [[3], [2, 1, 0]],
  [[0], [1], [2], [3]],
  [
    [0, 1],
    [2, 3],
  ],
];

const PLACES = 16;

/** The values of gradients at the places of the script; of a table's rows, those of the whole table. */
function sampled({ gradients, rows }: Gradients, parameters: ReadonlyMap<string, Pick<Tensor, 'shape'>>): Float64Array {
  return Float64Array.from(
    [...parameters].flatMap(([name, { shape }]) => {
      const numel = shape.reduce((product, size) => product * size, 1);
      const own = gradients.get(name)!.toNumbers();
      const there = rows.get(name);
      const width = numel / shape[0]!;
      return Array.from(hashed(`places.${name}`, PLACES), (u) => {
        const place = Math.floor((u + 0.5) * numel);
        const row = there?.indexOf(BigInt(Math.floor(place / width)));
        return row === undefined ? own[place]! : row < 0 ? 0 : own[row * width + (place % width)]!;
      });
    }),
  );
}

const expectedSample = (name: string): Float64Array => {
  const bytes = Buffer.from(FIXTURE.losses[name]!.sampled, 'base64');
  return Float64Array.from({ length: bytes.length / 4 }, (_, i) => bytes.readFloatLE(4 * i));
};

const dot = (a: Float64Array, b: Float64Array): number => a.reduce((sum, x, i) => sum + x * b[i]!, 0);
const cosine = (a: Float64Array, b: Float64Array): number => dot(a, b) / Math.sqrt(dot(a, a) * dot(b, b));

/** The difference of two lists of gradients as a share of the first: of all numbers as one vector. */
function apart(a: Gradients, b: Gradients): number {
  let [difference, whole] = [0, 0];
  for (const [name, gradient] of a.gradients) {
    expect(b.rows.get(name)).toEqual(a.rows.get(name));
    const other = b.gradients.get(name)!.toNumbers();
    for (const [i, x] of gradient.toNumbers().entries()) {
      difference += (x - other[i]!) ** 2;
      whole += x ** 2;
    }
  }
  return Math.sqrt(difference / whole);
}

const step = (name: string, rewards: RewardMean = NO_REWARDS, reference: ObjectiveParts['reference'] = null) =>
  new PreferenceStep({ options: optionsOf(name), reference, rewards });

/** Loss and gradients of a step with the other model of the script as its reference. */
function gradientsOf(model: MiniCPMV, name: string, split: readonly number[][]): Gradients {
  const batches = batchesOf(split, FIXTURE.other, { labelled: FIXTURE.losses[name]!.kind === 'kto' });
  return lossAndGradients(model, batches, { recompute: false, perMicroBatch: false, objective: step(name) });
}

describe('preference tuning', () => {
  it('gives the log-probabilities of answers that share their prompt as if each were alone', () => {
    const model = openModel();
    for (const how of [{}, { whole: true }]) {
      const [batch] = batchesOf(ALL, FIXTURE.start, how);
      const found = answerLogProbs(model, batch!, {})!.flat();
      for (const [i, value] of found.entries()) expect(value).toBeCloseTo(FIXTURE.start[i]!, 3);
      disposeBatch(batch!);
    }
    model.dispose();
  });

  it.each(Object.keys(FIXTURE.losses))('%s: any split into micro-batches gives the same step', (name) => {
    for (const [dtype, most] of [
      ['float32', 2e-6], // of the gradients: rounding, which depends on the sizes of products
      ['float64', 1e-6],
    ] as const) {
      const model = openModel(dtype);
      const whole = gradientsOf(model, name, ALL);
      for (const split of LONG ? SPLITS : SPLITS.slice(1, 2)) {
        const other = gradientsOf(model, name, split);
        expect(Math.abs(other.loss / whole.loss - 1), JSON.stringify(split)).toBeLessThan(1e-6);
        expect(apart(whole, other), JSON.stringify(split)).toBeLessThan(most);
        other.dispose();
      }
      whole.dispose();
      model.dispose();
    }
  });

  it.each(Object.keys(FIXTURE.losses))('%s: loss, gradients and ten steps are those of PyTorch', (name) => {
    const expected = FIXTURE.losses[name]!;
    const labelled = expected.kind === 'kto';
    const model = openModel();
    const parameters = trainableParameters(model);
    for (const split of LONG ? [ALL, SPLIT] : [SPLIT]) {
      const result = gradientsOf(model, name, split);
      expect(Math.abs(result.loss / expected.loss - 1)).toBeLessThan(1e-5);
      for (const [parameter, gradient] of result.gradients) {
        if (result.rows.has(parameter)) continue; // of some rows of the table
        expect(distance(probe(gradient), expected.gradients[parameter]!, 1e-2), parameter).toBeLessThan(1e-4);
      }
      const named = new Map(Object.keys(expected.gradients).map((key) => [key, parameters.get(key)!]));
      expect(named.size).toBe(parameters.size);
      const [found, wanted] = [sampled(result, named), expectedSample(name)];
      expect(found).toHaveLength(wanted.length);
      expect(cosine(found, wanted)).toBeGreaterThan(0.99999);
      for (const part of ['llm.', 'vpm.', 'resampler.']) {
        const own = [...named.keys()].flatMap((key) => new Array<boolean>(PLACES).fill(key.startsWith(part)));
        const [a, b] = [found, wanted].map((all) => all.filter((_, i) => own[i]!)) as [Float64Array, Float64Array];
        expect(dot(b, b), part).toBeGreaterThan(0);
        expect(cosine(a, b), part).toBeGreaterThan(0.99999);
      }
      result.dispose();
    }
    const optimizer = new Optimizer(parameters, withoutDecay(model), {
      ...{ learningRate: 1e-3, visionLearningRate: null, resamplerLearningRate: null, embeddingLearningRate: null },
      ...{ loraPlusRatio: null, weightDecay: 0, beta1: 0.9, beta2: 0.999, eps: 1e-8, masterWeights: true },
    });
    let rewards = NO_REWARDS;
    const live: number[] = [];
    for (const [i, wanted] of expected.steps.entries()) {
      const objective = step(name, rewards);
      const batches = batchesOf(i % 4 === 1 ? SPLIT : ALL, FIXTURE.start, { labelled });
      const options = { recompute: i % 4 === 1, perMicroBatch: false, maxGradNorm: 0, objective };
      const { loss } = trainStep(model, batches, optimizer, 1, options);
      rewards = objective.rewards;
      expect(Math.abs(loss - wanted), `step ${i}`).toBeLessThan(1e-5 * Math.max(1, wanted) * (1 + i));
      live.push(liveTensors().tensors);
    }
    expect(live.at(-1)).toBe(live[1]);
    optimizer.dispose();
    model.dispose();
  });

  it('takes the memory of supervised training of both answers, and less where they share their prompt', () => {
    tuneAllocator(); // it counts
    const model = openModel();
    const peakOf = (batches: readonly Batch[], objective?: PreferenceStep): number => {
      const options = { recompute: false, perMicroBatch: false, ...(objective && { objective }) };
      const before = tensorBytes().inUse;
      resetTensorPeak();
      lossAndGradients(model, batches, options).dispose(); // it disposes of the batches, too
      return tensorBytes().peak - before;
    };
    const alone = (b: number, k: 0 | 1): EncodedSample => {
      const { inputIds, labels, imageBounds, pictures, answers } = sampleOf(b, { whole: true });
      const [from, to] = k === 0 ? [0, answers!.first] : [answers!.first, inputIds.length];
      const half = pictures.length / 2;
      return {
        inputIds: inputIds.slice(from, to),
        labels: labels.slice(from, to),
        imageBounds: imageBounds.slice(k * half, (k + 1) * half).map(([start, end]) => [start - from, end - from]),
        pictures: pictures.slice(k * half, (k + 1) * half),
      };
    };
    const supervised = (): Batch[] => [collate([alone(1, 0), alone(1, 1)], 'cpu', null)];
    peakOf(supervised()); // the first time, memory is made that stays
    const both = peakOf(supervised());
    const pair = (how: Parameters<typeof sampleOf>[1]): number =>
      peakOf(batchesOf([[1]], FIXTURE.other, how), step('dpo'));
    expect(pair({ whole: true })).toBeLessThan(1.02 * both);
    expect(pair({})).toBeLessThan(both);
    model.dispose();
  });
});
