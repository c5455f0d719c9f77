/** How each model sees videos, as data. */
import type { VersionName } from './versions.js';

export interface VideoFormat {
  /** See `SamplingOptions`. */
  readonly sampling: 'seconds' | 'uniform';
  /** Whether a video has a number, counted apart from pictures, where pictures have one. */
  readonly numbered: boolean;
  /** Between two frames (or groups of frames). */
  readonly separator: '' | '\n';
  /** Whether frames have their time as an id, and some of them may share the tokens of one picture. */
  readonly temporal: boolean;
  /** As published, unless flags say otherwise. */
  readonly defaults: { readonly fps: number; readonly maxFrames: number; readonly maxPacking: number };
}

const grouped = {
  sampling: 'uniform',
  numbered: false,
  separator: '\n',
  temporal: true,
  defaults: { fps: 3, maxFrames: 180, maxPacking: 3 },
} as const;

const adjacent = {
  sampling: 'seconds',
  numbered: true,
  separator: '',
  temporal: false,
  defaults: { fps: 1, maxFrames: 128, maxPacking: 1 },
} as const;

/** The models that were trained on videos and are tuned on them here. */
export const VIDEO_FORMATS: Partial<Readonly<Record<VersionName, VideoFormat>>> = {
  'minicpm-v-4_5': grouped,
  'minicpm-o-4_5': { ...grouped, temporal: false, defaults: { fps: 3, maxFrames: 180, maxPacking: 1 } },
  'minicpm-v-4_6': adjacent,
  'minicpm-v-4_7': { ...adjacent, numbered: false },
};

/** How videos are read. Plain data. */
export interface VideoConfig extends Omit<VideoFormat, 'defaults'> {
  readonly fps: number;
  readonly maxFrames: number;
  readonly maxPacking: number;
  /** Most slices of a frame. */
  readonly maxSliceNums: number;
}

/** What flags may say of it; what is absent is as published. */
export type VideoChoices = Partial<
  Record<'fps' | 'maxFrames' | 'maxPacking' | 'maxSliceNums', number | null | undefined>
>;

/** How a model reads videos as published; null: it does not. */
export function publishedVideo(version: VersionName): VideoConfig | null {
  const format = VIDEO_FORMATS[version];
  if (format === undefined) return null;
  const { defaults, ...rest } = format;
  return { ...rest, ...defaults, maxSliceNums: 1 };
}

/** How videos are read where `choices` say so, and otherwise as in `base`. */
export function videoOf<T extends VideoConfig | null>(base: T, choices: VideoChoices = {}): T {
  if (base === null) return base;
  return {
    ...base,
    fps: choices.fps ?? base.fps,
    maxFrames: choices.maxFrames ?? base.maxFrames,
    maxPacking: choices.maxPacking ?? base.maxPacking,
    maxSliceNums: choices.maxSliceNums ?? base.maxSliceNums,
  };
}

/** How videos were read in a training, as files keep it: the names are those of the flags after `video_`. */
export interface VideoSettings {
  fps: number;
  max_frames: number;
  /** Of models that pack frames. */
  max_packing?: number;
  max_slice_nums: number;
}

export const settingsOfVideo = ({
  fps,
  maxFrames,
  maxPacking,
  maxSliceNums,
  temporal,
}: VideoConfig): VideoSettings => ({
  fps,
  max_frames: maxFrames,
  ...(temporal ? { max_packing: maxPacking } : {}),
  max_slice_nums: maxSliceNums,
});

export const choicesOfSettings = (settings: { [K in keyof VideoSettings]?: number | undefined }): VideoChoices => ({
  fps: settings.fps,
  maxFrames: settings.max_frames,
  maxPacking: settings.max_packing,
  maxSliceNums: settings.max_slice_nums,
});
