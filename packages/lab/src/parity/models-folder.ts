/**
 * Reads a folder of reference results of a model. Cases with their collated inputs and expected values. Layout:
 * `cases/<case>/{inputs,expected}.safetensors` and `meta.json`, see the checks for the rest.
 */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import type { ModelInputs, Picture } from '@minicpm-finetune/minicpm-v';
import {
  type CanvasMarks,
  canvasPositions,
  countTokens,
  type DownsampleMode,
  type ModelConfig,
} from '@minicpm-finetune/processor';
import { copyTo, fromTypedArray, keep, ops, SafetensorsFile, scope, type Tensor } from '@minicpm-finetune/torch';
import type { Batch } from 'minicpm-finetune/internal';
import { onCpu } from './models-report.js';

/** The content of meta.json about a case. */
export interface CaseMeta {
  readonly downsample_mode?: DownsampleMode;
  readonly grad_l2_norm?: Readonly<Record<string, number>>;
  readonly total_grad_norm?: number;
  readonly params_without_grad_eval?: readonly string[];
  readonly train_mode?: {
    readonly loss: number;
    readonly params_without_grad: readonly string[];
    readonly params_with_exactly_zero_grad: readonly string[];
  };
}

function readJson<T>(...path: string[]): T {
  return JSON.parse(readFileSync(join(...path), 'utf8')) as T;
}

export class ReferenceFolder {
  readonly name: string;
  readonly cases: readonly ReferenceCase[];

  readonly path: string;
  readonly device: string;

  /** `device`: where the inputs of the cases go. */
  constructor(path: string, device = 'cpu') {
    this.path = path;
    this.device = device;
    this.name = basename(path);
    const folder = join(path, 'cases');
    const names = existsSync(folder) ? readdirSync(folder).sort() : [];
    this.cases = names.map((name) => new ReferenceCase(join(folder, name), name, device));
  }

  case(name: string): ReferenceCase {
    const found = this.cases.find((one) => one.name === name);
    if (found === undefined) throw new Error(`Expected a case '${name}' in ${this.path} but there is none`);
    return found;
  }

  has(...path: string[]): boolean {
    return existsSync(join(this.path, ...path));
  }

  file(...path: string[]): SafetensorsFile {
    return new SafetensorsFile(join(this.path, ...path));
  }

  json<T>(...path: string[]): T {
    return readJson<T>(this.path, ...path);
  }
}

export class ReferenceCase {
  readonly #inputs: SafetensorsFile;
  readonly expected: SafetensorsFile;
  readonly meta: CaseMeta;

  readonly path: string;
  readonly name: string;
  readonly device: string;

  constructor(path: string, name: string, device: string) {
    this.path = path;
    this.name = name;
    this.device = device;
    this.#inputs = new SafetensorsFile(join(path, 'inputs.safetensors'));
    this.expected = new SafetensorsFile(join(path, 'expected.safetensors'));
    this.meta = existsSync(join(path, 'meta.json')) ? readJson<CaseMeta>(path, 'meta.json') : {};
  }

  /** The positions of x (B, L, width) that are no padding: (valid, width), on the CPU. */
  valid(x: Tensor): Tensor {
    const rows = ops.reshape(ops.nonzero(ops.reshape(this.#inputs.tensor('attention_mask'), [-1])), [-1]);
    return ops.indexSelect(ops.reshape(onCpu(x), [-1, x.size(-1)]), 0, rows);
  }

  /** The names of expected features, `<what>.<sample>.<picture>`, in the order of the pictures; those of frames are counted by themselves. */
  pictureKeys(what: string): string[] {
    return this.#samples().flatMap((sample) =>
      this.#runs(sample).map(({ suffix, index }) => `${what}${suffix}.${sample}.${index}`),
    );
  }

  /** The names of what each range of tokens gets; in a folder of groups of frames there are fewer than pictures. */
  unitKeys(what: string): string[] {
    return this.#samples().flatMap((sample) => {
      const groups = this.#groups(sample);
      return groups
        ? groups.map((_, i) => `${what}.${sample}.${i}`)
        : this.pictureKeys(what).filter((key) => key.split('.')[1] === `${sample}`);
    });
  }

  /** @param config of a model whose tokens have places on a canvas: positions are then computed */
  inputs(config?: ModelConfig): ModelInputs {
    const inputIds = copyTo(ops.to(this.#inputs.tensor('input_ids'), 'int64'), this.device);
    const samples = this.#samples();
    const groups = samples.map((sample) => this.#groups(sample));
    return {
      inputIds,
      positionIds: copyTo(config?.canvas ? this.canvasIds(config) : this.#plainIds(), this.device),
      imageBounds: samples.map((sample) => this.#bounds(sample)),
      pictures: samples.map((sample) => this.#pictures(sample)),
      ...(groups.some((sizes) => sizes) && {
        groups: samples.map((sample) => groups[sample] ?? this.#bounds(sample).map(() => 1)),
      }),
    };
  }

  /** Computed positions on the canvas (3, B, L), 0 at padding. */
  canvasIds({ canvas, pictureTokens }: ModelConfig): Tensor {
    const rows = this.#samples().map((sample) => this.#canvasRow(sample, canvas!, pictureTokens));
    return ops.stack(rows, 1);
  }

  #canvasRow(sample: number, marks: CanvasMarks, tokens: ModelConfig['pictureTokens']): Tensor {
    const [ids, mask] = ['input_ids', 'attention_mask'].map((name) =>
      ops.to(ops.select(this.#inputs.tensor(name), 0, sample), 'int64').toNumbers(),
    ) as [number[], number[]];
    const length = mask.filter((valid) => valid !== 0).length;
    const grids = this.#pictures(sample).map(({ rows, cols }): [number, number] => {
      const side = Math.sqrt((rows * cols) / countTokens(tokens, { rows, cols }));
      return [rows / side, cols / side];
    });
    const text = { inputIds: ids.slice(0, length), bounds: this.#bounds(sample), grids, marks };
    const { positionIds } = canvasPositions(text);
    const padded = new BigInt64Array(3 * ids.length);
    for (let axis = 0; axis < 3; axis++)
      for (let i = 0; i < length; i++) padded[axis * ids.length + i] = BigInt(positionIds[axis * length + i]!);
    return fromTypedArray(padded, [3, ids.length], 'int64');
  }

  #plainIds(): Tensor {
    return ops.to(this.#inputs.tensor('position_ids'), 'int64');
  }

  #samples(): number[] {
    return Array.from({ length: this.#inputs.infos.get('input_ids')!.shape[0]! }, (_, sample) => sample);
  }

  #groups(sample: number): number[] | undefined {
    const name = `temporal_groups.${sample}`;
    return this.#inputs.infos.has(name) ? this.#inputs.tensor(name).toNumbers() : undefined;
  }

  /** Ranges of tokens of pictures and of frames, in the order of the text. */
  #bounds(sample: number): [number, number][] {
    const all = ['image_bound', 'video_bound'].map((name) => `${name}.${sample}`);
    const own = all.filter((name) => this.#inputs.infos.has(name)).flatMap((name) => pairs(this.#inputs.tensor(name)));
    return own.sort((a, b) => a[0] - b[0]);
  }

  /** Pictures and frames in the order of the text: `suffix` tells the kind, `index` counts within it. */
  #runs(sample: number): { readonly suffix: '' | '_video'; readonly index: number }[] {
    const listed = (suffix: '' | '_video', bound: string, pixels: string) => {
      const count = [...this.#inputs.infos.keys()].filter((name) => name.startsWith(`${pixels}.${sample}.`)).length;
      const bounds = this.#inputs.infos.has(`${bound}.${sample}`)
        ? pairs(this.#inputs.tensor(`${bound}.${sample}`))
        : [];
      return Array.from({ length: count }, (_, index) => ({ suffix, index, start: bounds[index]?.[0] ?? index }));
    };
    const pictures = listed('', 'image_bound', 'pixel_values');
    const frames = listed('_video', 'video_bound', 'pixel_values_videos');
    return frames.length === 0 ? pictures : [...pictures, ...frames].sort((a, b) => a.start - b.start);
  }

  #pictures(sample: number): Picture[] {
    const optional = (name: string): Tensor | undefined =>
      this.#inputs.infos.has(name) ? this.#inputs.tensor(name) : undefined;
    const times = optional(`temporal_ids.${sample}`)?.toNumbers();
    return this.#runs(sample).map(({ suffix, index }) => {
      const [pixelsOf, sizesOf] =
        suffix === '' ? ['pixel_values', 'tgt_sizes'] : ['pixel_values_videos', 'tgt_sizes_videos'];
      const sizes = optional(`${sizesOf}.${sample}`);
      const pixels = copyTo(this.#inputs.tensor(`${pixelsOf}.${sample}.${index}`), this.device);
      const [rows, cols] = (sizes && pairs(sizes)[index]) ?? [
        Math.ceil(pixels.size(1) / 14),
        Math.ceil(pixels.size(2) / 14),
      ];
      return { pixels, rows, cols, ...(times && { temporalId: times[index]! }) };
    });
  }

  labels(): Int32Array {
    return Int32Array.from(this.#inputs.tensor('labels').toNumbers());
  }

  /** As the collator makes it; the tensors are the receiver's. */
  batch(config?: ModelConfig): Batch {
    return scope(() => lent(this.inputs(config), this.labels()));
  }

  /** Each record of the batch as a batch of its own. */
  records(config?: ModelConfig): Batch[] {
    return scope(() => {
      const { inputIds, positionIds, imageBounds, pictures, groups } = this.inputs(config);
      const labels = this.labels();
      const length = inputIds.size(1);
      return pictures.map((own, i) => {
        const row = (tensor: Tensor): Tensor => ops.contiguous(ops.narrow(tensor, tensor.shape.length - 2, i, 1));
        const inputs = { inputIds: row(inputIds), positionIds: row(positionIds) };
        const grouped = groups && { groups: [groups[i]!] };
        const pictured = { ...inputs, pictures: [own], imageBounds: [imageBounds[i]!], ...grouped };
        return lent(pictured, labels.slice(i * length, (i + 1) * length));
      });
    });
  }
}

/** A batch whose tensors leave the scope. */
function lent(inputs: ModelInputs, labels: Int32Array): Batch {
  keep(inputs.inputIds);
  keep(inputs.positionIds);
  for (const { pixels } of inputs.pictures.flat()) keep(pixels);
  const supervisedTokens = labels.filter((label) => label !== -100).length;
  return { inputs, labels, samples: inputs.pictures.length, tokens: labels.length, supervisedTokens, answers: null };
}

function pairs(tensor: Tensor): [number, number][] {
  const flat = tensor.toNumbers();
  return Array.from({ length: flat.length / 2 }, (_, i) => [flat[2 * i]!, flat[2 * i + 1]!]);
}
