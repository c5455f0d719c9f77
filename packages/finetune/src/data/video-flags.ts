/** The flags of videos. What they say to the processor, and which of them a model has no use for. */
import { VERSIONS, type VersionName, VIDEO_FORMATS, type VideoChoices } from '@minicpm-finetune/processor';
import type { RunConfig } from '@minicpm-finetune/run';

const NAMES = ['video_fps', 'video_max_frames', 'video_max_packing', 'video_max_slice_nums'] as const;

export type VideoFlags = Pick<RunConfig['data'], (typeof NAMES)[number]>;

/** What flags say of videos. */
export function videoChoices(flags: VideoFlags): VideoChoices {
  return {
    fps: flags.video_fps,
    maxFrames: flags.video_max_frames,
    maxPacking: flags.video_max_packing,
    maxSliceNums: flags.video_max_slice_nums,
  };
}

/** The flags of choices: what `videoChoices` makes choices of. */
export function videoFlags({ fps, maxFrames, maxPacking, maxSliceNums }: VideoChoices): VideoFlags {
  return {
    video_fps: fps ?? null,
    video_max_frames: maxFrames ?? null,
    video_max_packing: maxPacking ?? null,
    video_max_slice_nums: maxSliceNums ?? null,
  };
}

/** A sentence for each flag of videos that a model has no use for. */
export function idleVideoFlags(flags: VideoFlags, version: VersionName): string[] {
  const { title } = VERSIONS[version];
  const reads = VIDEO_FORMATS[version];
  const idle = NAMES.filter(
    (name) => flags[name] !== null && (reads === undefined || (name === 'video_max_packing' && !reads.temporal)),
  );
  const why = reads === undefined ? 'reads no videos' : 'gives every frame tokens of its own';
  return idle.map((name) => `--${name} ${flags[name]}: without effect: ${title} ${why}.`);
}
