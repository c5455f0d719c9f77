/**
 * How videos are read by a model with adapters. As in the training of the last one: adapters say it in their manifests; those
 * that do not leave it to the base. No import of torch.
 */
import { choicesOfSettings, type VideoConfig, videoOf } from '@minicpm-finetune/processor';
import type { AdapterManifest } from './manifest.js';
import { ofLastAdapter } from './slices.js';

/** An adapter and how videos were read in its training; null: nobody wrote it down, or the model reads none. */
export interface TrainedVideos {
  readonly adapter: string;
  readonly videos: NonNullable<AdapterManifest['videos']> | null;
}

/** By the names of the flags: `video_fps 1, video_max_frames 128, video_max_slice_nums 1`. */
export function describeVideo({ fps, maxFrames, maxPacking, maxSliceNums, temporal }: VideoConfig): string {
  const packing = temporal ? `, video_max_packing ${maxPacking}` : '';
  return `video_fps ${fps}, video_max_frames ${maxFrames}${packing}, video_max_slice_nums ${maxSliceNums}`;
}

/** How videos are read for a base with adapters on it, and a sentence where that is not the base's way, or the adapters disagree. */
export function videosOfAdapters(
  adapters: readonly TrainedVideos[],
  base: VideoConfig | null,
): { readonly video: VideoConfig | null; readonly notices: readonly string[] } {
  if (base === null) return { video: null, notices: [] };
  const known = adapters.flatMap(({ adapter, videos }) =>
    videos === null ? [] : [{ adapter, value: videoOf(base, choicesOfSettings(videos)) }],
  );
  const { value, notices } = ofLastAdapter(known, base, {
    describe: describeVideo,
    differ: (each, own) =>
      `the adapters were trained with videos read differently: ${each}; videos are read as for the last, ${own}.`,
    unlike: (adapter, own, basis) =>
      `adapter ${adapter} was trained with ${own}, the base says ${basis}: videos are read as in the training.`,
  });
  return { video: value, notices };
}
