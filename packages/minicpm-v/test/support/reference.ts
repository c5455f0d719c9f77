/**
 * Models whose weights and inputs follow from a hash of names, and what PyTorch and transformers compute from them (fixtures/models, written
 * by packages/lab/python/model_fixtures.py, whose `hashed`, `weight`, `inputs_of` and `probe` these functions equal).
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { crc32 } from 'node:zlib';
import type { VersionName } from '@minicpm-finetune/processor';
import { countTokens, parseConfig } from '@minicpm-finetune/processor';
import { type DType, fromTypedArray, keep, noGrad, ops, scope, setThreads, type Tensor } from '@minicpm-finetune/torch';
import type { ModelInputs } from '../../src/model/inputs.js';
import { MiniCPMV } from '../../src/model/minicpm-v.js';
import type { Picture } from '../../src/model/patches.js';

setThreads(1); // the models are tiny: a second thread costs more than it gives

export type Probe = readonly [norm: number, product: number];

export interface Reference {
  readonly config: object;
  readonly vision: readonly Probe[];
  readonly tokens: readonly Probe[];
  /** Not of models that run no zero picture. */
  readonly dummy_tokens?: Probe;
  /** Of the first sample's pictures as a group of frames, where frames form groups. */
  readonly group_tokens?: Probe;
  readonly inputs_embeds: readonly Probe[];
  readonly logits: readonly Probe[];
  readonly loss: number;
  readonly gradients: Readonly<Record<string, Probe>>;
}

export function readReference(version: VersionName): Reference {
  return JSON.parse(readFileSync(join(import.meta.dirname, '..', 'fixtures', 'models', `${version}.json`), 'utf8'));
}

/** Numbers in [-0.5, 0.5) that follow from a name. */
export function hashed(name: string, count: number): Float64Array {
  const seed = crc32(name);
  return Float64Array.from({ length: count }, (_, i) => {
    let h = Math.imul(i + 1, 0x9e3779b1) ^ seed;
    h = Math.imul(h ^ (h >>> 16), 0x85ebca6b);
    h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35);
    return ((h ^ (h >>> 16)) >>> 0) / 2 ** 32 - 0.5;
  });
}

const product = (sizes: readonly number[]): number => sizes.reduce((a, b) => a * b, 1);

function weight(name: string, shape: readonly number[]): Float32Array {
  const u = hashed(name, product(shape));
  if (name.endsWith('bias')) return Float32Array.from(u, (x) => x * 0.4);
  if (shape.length === 1) return Float32Array.from(u, (x) => 1 + x * 0.4);
  if ((name.includes('embed') && !name.includes('patch')) || name === 'resampler.query') return Float32Array.from(u);
  const factor = 4 / Math.sqrt(product(shape.slice(1)));
  return Float32Array.from(u, (x) => x * factor);
}

/** The model of a reference. */
export function hashedModel(reference: Pick<Reference, 'config'>, dtype: DType = 'float32'): MiniCPMV {
  const model = new MiniCPMV(parseConfig(JSON.stringify(reference.config), 'config.json'));
  noGrad(() => {
    for (const [name, parameter] of model.namedParameters()) {
      const { shape } = parameter;
      parameter.data = scope(() => keep(ops.to(fromTypedArray(weight(name, shape), shape), dtype)));
    }
  });
  return model;
}

const PICTURES: [rows: number, cols: number][][] = [
  [
    [3, 5],
    [4, 2],
    [3, 5],
  ],
  [[2, 9]],
];
/** The grids of a sample's pictures, whose sides are what the model asks for. */
const gridsOf = (model: MiniCPMV, b: number): [rows: number, cols: number][] =>
  PICTURES[b]!.map(([rows, cols]) => [rows * model.version.sliceMultiple, cols * model.version.sliceMultiple]);

const TEXT: [before: number[], after: number][] = [
  [[2, 1, 3], 7],
  [[4], 5],
];

export interface Sample {
  readonly ids: readonly number[];
  readonly labels: readonly number[];
  readonly pictures: readonly Picture[];
  readonly bounds: [number, number][];
}

function sample(model: MiniCPMV, b: number): Sample {
  const { pictureTokens, llm, batchVision } = model.config;
  const grids = gridsOf(model, b);
  const [before, after] = TEXT[b]!;
  let length = 0;
  const bounds = before.map((gap, i): [number, number] => {
    const [rows, cols] = grids[i]!;
    const start = length + gap;
    length = start + countTokens(pictureTokens, { rows, cols });
    return [start, length];
  });
  length += after;
  const token = (u: number): number => Math.floor((u + 0.5) * llm.vocabSize);
  const ids = Array.from(hashed(`ids.${b}`, length), token);
  const labels = Array.from({ length }, (_, i) =>
    i < length - 5 ? -100 : token(hashed(`labels.${b}`, 5)[i - length + 5]!),
  );
  const pictures = grids.map(([rows, cols], i) => {
    const shape = batchVision ? [3, 14, 14 * rows * cols] : [3, 14 * rows, 14 * cols];
    const values = Float32Array.from(hashed(`pixels.${b}.${i}`, product(shape)), (u) => u * 2);
    return { pixels: fromTypedArray(values, shape), rows, cols };
  });
  return { ids, labels, pictures, bounds };
}

const int64 = (rows: readonly (readonly number[])[]): Tensor =>
  fromTypedArray(BigInt64Array.from(rows.flat(), BigInt), [rows.length, rows[0]!.length]);

/** One position a token, or three that lie around it, for models with a canvas. */
function positionsOf(model: MiniCPMV, rows: readonly (readonly number[])[]): Tensor {
  if (model.config.canvas === null) return int64(rows);
  const count = rows.length * rows[0]!.length;
  const plain = rows.flat();
  const all = [0, 1, 2].flatMap((axis) =>
    Array.from(hashed(`axis.${axis}`, count), (u, i) => BigInt(plain[i]! + Math.floor((u + 0.5) * 9))),
  );
  return fromTypedArray(BigInt64Array.from(all), [3, rows.length, rows[0]!.length]);
}

/** The batch of the references: tensors of the caller's scope. */
export function hashedInputs(model: MiniCPMV): { inputs: ModelInputs; labels: Tensor; samples: Sample[] } {
  const samples = [sample(model, 0), sample(model, 1)];
  const longest = Math.max(...samples.map(({ ids }) => ids.length));
  const pad = (list: readonly number[], value: number): number[] => [
    ...list,
    ...new Array<number>(longest - list.length).fill(value),
  ];
  const inputs = {
    inputIds: int64(samples.map(({ ids }) => pad(ids, 0))),
    positionIds: positionsOf(
      model,
      samples.map(({ ids }) => pad([...ids.keys()], 0)),
    ),
    pictures: samples.map(({ pictures }) => pictures),
    imageBounds: samples.map(({ bounds }) => bounds),
  };
  return { inputs, labels: int64(samples.map(({ labels }) => pad(labels, -100))), samples };
}

/** The largest difference of two tensors, relative to the largest number of the second. */
export function relativeDifference(a: Tensor, b: Tensor): number {
  return scope(() => {
    const [x, y] = [ops.to(a, 'float32'), ops.to(b, 'float32')];
    const most = ops.maxAll(ops.abs(ops.sub(x, y))).item();
    return most === 0 ? 0 : most / ops.maxAll(ops.abs(y)).item();
  });
}

/** Norm of a tensor, and its product with a fixed vector. */
export function probe(x: Tensor): Probe {
  return scope(() => {
    const wide = ops.reshape(ops.to(ops.detach(x), 'float64'), [-1]);
    const fixed = fromTypedArray(hashed('probe', wide.numel), [wide.numel]);
    return [ops.linalgVectorNorm(wide).item(), ops.sumAll(ops.mul(wide, fixed)).item()];
  });
}

/** How far two probes are apart, relative to the norm where that is above `floor`. */
export function distance(actual: Probe, expected: Probe, floor = 1): number {
  return Math.max(Math.abs(actual[0] - expected[0]), Math.abs(actual[1] - expected[1])) / Math.max(floor, expected[0]);
}
