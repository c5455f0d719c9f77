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
            value: { ...base, maxSliceNums: slices.max_slice_nums, scaleResolution: slices.scale_resolution },
          },
        ],
  );
  const { value, notices } = ofLastAdapter<Slice>(known, base, {
    describe: describeSlices,
    differ: (each, own) =>
      `the adapters were trained with different slices: ${each}; pictures are cut as for the last, ${own}.`,
    unlike: (adapter, own, basis) =>
      `adapter ${adapter} was trained with ${own}, the base says ${basis}: pictures are cut as in the training.`,
  });
  return { slice: value, notices };
}

/** What is said of a setting of trainings. */
export interface SettingTexts<T> {
  describe(value: T): string;
  /** Adapters that disagree. */
  differ(each: string, own: string): string;
  /** An adapter and a base that do. */
  unlike(adapter: string, own: string, base: string): string;
}

/** What the last adapter that says it was trained with, `base` where none does; and a sentence where that is not the base's, or adapters disagree. */
export function ofLastAdapter<T>(
  known: readonly { readonly adapter: string; readonly value: T }[],
  base: T,
  { describe, differ, unlike }: SettingTexts<T>,
): { readonly value: T; readonly notices: readonly string[] } {
  const last = known.at(-1);
  if (last === undefined) return { value: base, notices: [] };
  const { adapter, value } = last;
  const [own, basis] = [describe(value), describe(base)];
  if (new Set(known.map((one) => describe(one.value))).size > 1)
    return {
      value,
      notices: [differ(known.map((one) => `${one.adapter} with ${describe(one.value)}`).join(', '), own)],
    };
  return { value, notices: own === basis ? [] : [unlike(adapter, own, basis)] };
}
