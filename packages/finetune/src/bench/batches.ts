/** Reads collated batches from one safetensors file, in the layout of the benchmarks' other side. */
import type { ModelInputs, Picture } from '@minicpm-finetune/minicpm-v';
import { type DType, keep, noGrad, ops, SafetensorsFile, scope, type Tensor } from '@minicpm-finetune/torch';
import type { Batch } from '../collate.js';

/** `<b>.input_ids`, `<b>.labels`, `<b>.position_ids`, `<b>.<s>.image_bound`, `<b>.<s>.tgt_sizes`, `<b>.<s>.<i>.pixel_values` */
export class BatchFile {
  readonly #file: SafetensorsFile;
  /** Number of batches. */
  readonly length: number;

  constructor(path: string) {
    this.#file = new SafetensorsFile(path);
    this.length = 1 + Math.max(-1, ...[...this.#file.infos.keys()].map((name) => Number(name.split('.')[0])));
    if (this.length === 0) throw new Error(`${path}: Expected at least one batch but the file has none`);
  }

  /** A fresh copy of batch `b`; its tensors are the caller's. */
  batch(b: number, dtype: DType): Batch {
    const read = (name: string): Tensor => this.#file.tensor(`${b}.${name}`);
    return scope(() =>
      noGrad(() => {
        const inputIds = keep(ops.to(read('input_ids'), 'int64'));
        const [samples, length] = inputIds.shape as [number, number];
        const labels = Int32Array.from(read('labels').toNumbers());
        const sizes = Array.from({ length: samples }, (_, s) => pairs(read(`${s}.tgt_sizes`)));
        const inputs: ModelInputs = {
          inputIds,
          positionIds: keep(ops.to(read('position_ids'), 'int64')),
          pictures: sizes.map((list, s) =>
            list.map(([rows, cols], i): Picture => {
              const pixels = keep(ops.to(read(`${s}.${i}.pixel_values`), dtype, false, true));
              return { pixels, rows, cols };
            }),
          ),
          imageBounds: sizes.map((_, s) => pairs(read(`${s}.image_bound`))),
        };
        const supervisedTokens = labels.reduce((count, label) => count + (label === -100 ? 0 : 1), 0);
        return { inputs, labels, samples, tokens: samples * length, supervisedTokens };
      }),
    );
  }
}

function pairs(tensor: Tensor): [number, number][] {
  const flat = tensor.toNumbers();
  return Array.from({ length: flat.length / 2 }, (_, i) => [flat[2 * i]!, flat[2 * i + 1]!]);
}
