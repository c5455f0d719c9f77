/**
 * Which frames of a video a model sees. The rules are those of the published processors. Numbers only; nothing is read.
 */
import { roundHalfEven } from '../image/geometry.js';

/** What is known of a video before it is decoded. */
export interface Clip {
  readonly frames: number;
  /** Frames per second. */
  readonly fps: number;
}

export interface SamplingOptions {
  /**
   * seconds: the frame at every second (4.6, 4.7). uniform: frames at even distances, of which several share the tokens of one picture when a
   * video is long (4.5).
   */
  readonly sampling: 'seconds' | 'uniform';
  /** Frames that are wanted of a second. */
  readonly fps: number;
  /** Most frames; with `packing`, most groups. */
  readonly maxFrames: number;
  /** Most frames of a group. */
  readonly packing: number;
}

/** Frames that a model sees. */
export interface SampledFrames {
  /** Indices of frames, ascending. */
  readonly indices: number[];
  /** Frames that share the tokens of one picture; the last group may have fewer. */
  readonly packing: number;
}

/** Distance between the times that a long video is thinned from, in seconds; and the unit of temporal ids. */
const TIME_STEP = 0.1;

/** The frames of a clip of at least one frame. */
export function sampleFrames(clip: Clip, options: SamplingOptions): SampledFrames {
  return options.sampling === 'seconds' ? everySecond(clip, options) : uniform(clip, options);
}

function everySecond({ frames, fps }: Clip, { fps: wanted, maxFrames }: SamplingOptions): SampledFrames {
  const duration = frames / fps;
  const last = frames - 1;
  if (duration * wanted <= maxFrames) {
    const count = Math.ceil(duration * wanted);
    const indices = Array.from({ length: count }, (_, i) => Math.min(Math.trunc((i * fps) / wanted), last));
    return { indices, packing: 1 };
  }
  const count = Math.trunc(duration / TIME_STEP);
  const index = (i: number): number => Math.min(Math.trunc(roundedTenths(i) * fps), last);
  return { indices: evenly(count, maxFrames).map(index), packing: 1 };
}

/** Python's `round(0.1 * i, 1)`. */
const roundedTenths = (i: number): number => i / 10;

/** `count` of the numbers below `length` at even distances, as numpy's `linspace(0, length - 1, count, dtype=int)`. */
export function evenly(length: number, count: number): number[] {
  const step = (length - 1) / Math.max(count - 1, 1);
  return Array.from({ length: count }, (_, i) => (i === count - 1 && count > 1 ? length - 1 : Math.trunc(i * step)));
}

function uniform({ frames, fps }: Clip, { fps: wanted, maxFrames, packing: most }: SamplingOptions): SampledFrames {
  const duration = frames / fps;
  const { count, packing } = budget();
  const gap = frames / count;
  const indices = Array.from({ length: count }, (_, i) => Math.trunc(i * gap + gap / 2));
  return { indices, packing };

  function budget(): { count: number; packing: number } {
    const atLeastOne = (n: number): number => Math.max(1, Math.min(roundHalfEven(n), frames));
    if (wanted * Math.trunc(duration) <= maxFrames) {
      return { count: atLeastOne(Math.min(wanted, roundHalfEven(fps)) * Math.min(maxFrames, duration)), packing: 1 };
    }
    const needed = Math.ceil((duration * wanted) / maxFrames);
    if (needed <= most) return { count: atLeastOne(duration * wanted), packing: needed };
    return { count: atLeastOne(maxFrames * most), packing: most };
  }
}

/**
 * The temporal id of a frame: its time in steps of 0.1 s, of those that the clip has. The published code multiplies by the
 * step and divides by it again, so that some steps have the number before theirs (43 has 42); the model was trained so.
 */
export function temporalId(index: number, { frames, fps }: Clip): number {
  const steps = Math.ceil(frames / fps / TIME_STEP);
  const step = Math.max(0, Math.min(roundHalfEven(index / fps / TIME_STEP), steps - 1));
  return Math.trunc((step * TIME_STEP) / TIME_STEP);
}
