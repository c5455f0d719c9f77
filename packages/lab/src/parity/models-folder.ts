/**
 * Reads a folder of reference results of a model. Cases with their collated inputs and expected values. Layout:
 * `cases/<case>/{inputs,expected}.safetensors` and `meta.json`, see the checks for the rest.
 */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import type { ModelInputs, Picture } from '@minicpm-finetune/minicpm-v';
import { copyTo, keep, ops, SafetensorsFile, scope, type Tensor } from '@minicpm-finetune/torch';
import type { Batch } from 'minicpm-finetune/internal';
import { onCpu } from './models-report.js';

/** The content of meta.json about a case. */
export interface CaseMeta {
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

  /** `<sample>.<picture>`, in the order of the pictures. */
  pictureKeys({ pictures }: ModelInputs): string[] {
    return pictures.flatMap((list, sample) => list.map((_, i) => `${sample}.${i}`));
  }

  inputs(): ModelInputs {
    const inputIds = copyTo(ops.to(this.#inputs.tensor('input_ids'), 'int64'), this.device);
    const positionIds = copyTo(ops.to(this.#inputs.tensor('position_ids'), 'int64'), this.device);
    const samples = Array.from({ length: inputIds.size(0) }, (_, sample) => sample);
    const imageBounds = samples.map((sample) => pairs(this.#inputs.tensor(`image_bound.${sample}`)));
    return {
      inputIds,
      positionIds,
      imageBounds,
      pictures: samples.map((sample) => this.#pictures(sample, imageBounds[sample]!.length)),
    };
  }

  #pictures(sample: number, count: number): Picture[] {
    const sizes = `tgt_sizes.${sample}`;
    const shapes = this.#inputs.infos.has(sizes) ? pairs(this.#inputs.tensor(sizes)) : undefined;
    return Array.from({ length: count }, (_, i) => {
      const pixels = copyTo(this.#inputs.tensor(`pixel_values.${sample}.${i}`), this.device);
      const [rows, cols] = shapes?.[i] ?? [Math.ceil(pixels.size(1) / 14), Math.ceil(pixels.size(2) / 14)];
      return { pixels, rows, cols };
    });
  }

  labels(): Int32Array {
    return Int32Array.from(this.#inputs.tensor('labels').toNumbers());
  }

  /** As the collator makes it; the tensors are the receiver's. */
  batch(): Batch {
    return scope(() => lent(this.inputs(), this.labels()));
  }

  /** Each record of the batch as a batch of its own. */
  records(): Batch[] {
    return scope(() => {
      const { inputIds, positionIds, imageBounds, pictures } = this.inputs();
      const labels = this.labels();
      const length = inputIds.size(1);
      return pictures.map((own, i) => {
        const row = (tensor: Tensor): Tensor => ops.contiguous(ops.narrow(tensor, 0, i, 1));
        const inputs = { inputIds: row(inputIds), positionIds: row(positionIds) };
        const pictured = { ...inputs, pictures: [own], imageBounds: [imageBounds[i]!] };
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
