/**
 * Reads collated batches from one safetensors file. In the layout of the PyTorch side; packs them as the collator does.
 */
import type { Picture } from '@minicpm-finetune/minicpm-v';
import { copyTo, type DType, keep, noGrad, ops, SafetensorsFile, scope, type Tensor } from '@minicpm-finetune/torch';
import { type Batch, disposeBatch, pack, type Sequence } from 'minicpm-finetune/internal';

/**
 * `<b>.input_ids`, `<b>.labels`, `<b>.attention_mask` (B, L), `<b>.<s>.image_bound`, `<b>.<s>.tgt_sizes` (n, 2),
 * `<b>.<s>.<i>.pixel_values` (3, patch, patch * rows * cols)
 */
export class BatchFile {
  readonly #file: SafetensorsFile;
  /** Number of batches. */
  readonly length: number;

  constructor(path: string) {
    this.#file = new SafetensorsFile(path);
    this.length = 1 + Math.max(-1, ...[...this.#file.infos.keys()].map((name) => Number(name.split('.')[0])));
    if (this.length === 0) throw new Error(`${path}: Expected at least one batch but the file has none`);
  }

  /** A fresh copy of batch `b` with pixels in `dtype`; its tensors are the caller's. `compared`: each answer with itself backwards as the rejected one. */
  batch(b: number, dtype: DType, compared = false): Batch {
    return scope(() =>
      noGrad(() => {
        const read = (name: string): Tensor => this.#file.tensor(`${b}.${name}`);
        const numbers = (name: string): number[] => read(name).toNumbers();
        const [samples, length] = read('input_ids').shape as [number, number];
        const rows = (name: string): Int32Array[] => {
          const all = Int32Array.from(numbers(name));
          return Array.from({ length: samples }, (_, s) => all.subarray(s * length, (s + 1) * length));
        };
        const [ids, labels, mask] = [rows('input_ids'), rows('labels'), rows('attention_mask')];
        const sequences = ids.map((inputIds, s): Sequence => {
          const count = mask[s]!.reduce((sum, bit) => sum + bit, 0); // padding is on the right
          const imageBounds = pairs(numbers(`${s}.image_bound`));
          return { inputIds: inputIds.subarray(0, count), labels: labels[s]!.subarray(0, count), imageBounds };
        });
        const pictures = sequences.flatMap((_, s) =>
          pairs(numbers(`${s}.tgt_sizes`)).map(([rows, cols], i): Picture => {
            const pixels = keep(ops.to(read(`${s}.${i}.pixel_values`), dtype, false, true));
            return { pixels, rows, cols };
          }),
        );
        return pack(compared ? sequences.map(withBackwards) : sequences, pictures);
      }),
    );
  }
}

/** A sequence followed by its answer backwards, which has the same prompt. */
function withBackwards({ inputIds, labels, imageBounds }: Sequence): Sequence {
  const shared = labels.findIndex((label) => label !== -100);
  const count = labels.filter((label) => label !== -100).length;
  const answer = inputIds.slice(shared + 1, shared + 1 + count).reverse();
  const rest = inputIds.subarray(shared + 1 + count);
  const tail = Int32Array.of(inputIds[shared]!, ...answer, ...rest);
  const tailLabels = Int32Array.from(tail, (_, i) => (i < count ? answer[i]! : -100));
  return {
    inputIds: Int32Array.of(...inputIds, ...tail),
    labels: Int32Array.of(...labels, ...tailLabels),
    imageBounds,
    answers: { shared, first: inputIds.length },
  };
}

function pairs(flat: readonly number[]): [number, number][] {
  return Array.from({ length: flat.length / 2 }, (_, i) => [flat[2 * i]!, flat[2 * i + 1]!]);
}

/** The same batch on a device; the one given is freed if it was elsewhere. */
export function batchTo(batch: Batch, device: string): Batch {
  const { inputs } = batch;
  if (inputs.inputIds.device.startsWith(device)) return batch;
  const moved = (tensor: Tensor): Tensor => keep(copyTo(tensor, device));
  const there = scope(() =>
    noGrad(() => ({
      ...inputs,
      inputIds: moved(inputs.inputIds),
      positionIds: moved(inputs.positionIds),
      pictures: inputs.pictures.map((own) => own.map((picture) => ({ ...picture, pixels: moved(picture.pixels) }))),
    })),
  );
  disposeBatch(batch);
  return { ...batch, inputs: there };
}
