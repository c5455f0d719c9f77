/**
 * How pictures are cut for a model with adapters. As in the training of the last one: adapters say it in their manifests; those
 * that do not leave it to the base. No import of torch.
 */
import type { ModelConfig } from '@minicpm-finetune/processor';
import type { AdapterManifest } from './manifest.js';

type Slice = ModelConfig['slice'];

/** An adapter and the slices of its training; null: nobody wrote them down. */
export interface TrainedSlices {
  readonly adapter: string;
  readonly slices: NonNullable<AdapterManifest['slices']> | null;
}

/** `4 slices at 70`. */
export function describeSlices({
  maxSliceNums: most,
  scaleResolution,
}: Pick<Slice, 'maxSliceNums' | 'scaleResolution'>): string {
  return `${most} ${most === 1 ? 'slice' : 'slices'} at ${scaleResolution}`;
}

/** The slices for a base with adapters on it, and a sentence where they are not the base's, or the adapters disagree. */
export function slicesOfAdapters(
  adapters: readonly TrainedSlices[],
  base: Slice,
): { readonly slice: Slice; readonly notices: readonly string[] } {
  const known = adapters.flatMap(({ adapter, slices }) =>
    slices === null
      ? []
      : [
          {
            adapter,
            slice: { ...base, maxSliceNums: slices.max_slice_nums, scaleResolution: slices.scale_resolution },
          },
        ],
  );
  const last = known.at(-1);
  if (last === undefined) return { slice: base, notices: [] };
  const { adapter, slice } = last;
  const all = [...new Set(known.map((one) => describeSlices(one.slice)))];
  const own = describeSlices(slice);
  if (all.length > 1) {
    const each = known.map((one) => `${one.adapter} with ${describeSlices(one.slice)}`).join(', ');
    return {
      slice,
      notices: [`the adapters were trained with different slices: ${each}; pictures are cut as for the last, ${own}.`],
    };
  }
  if (own === describeSlices(base)) return { slice: base, notices: [] };
  return {
    slice,
    notices: [
      `adapter ${adapter} was trained with ${own}, the base says ${describeSlices(base)}: pictures are cut as in the training.`,
    ],
  };
}
