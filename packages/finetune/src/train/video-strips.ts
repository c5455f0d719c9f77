/** The frames by which answers show a video. Some of those that the model sees, small, with their times. */
import {
  evenly,
  type OpenClip,
  openClip,
  PILLOW_MAX_PIXELS,
  readFrames,
  sampleFrames,
  type VideoConfig,
} from '@minicpm-finetune/processor';
import sharp from 'sharp';
import { picturesOf, type Question, type QuestionContent, videosOf } from '../data/question.js';

/** Frames of a strip. */
const MOST_FRAMES = 16;
/** Longest side of a frame in pixels. */
const SIDE = 320;

export interface VideoStrip {
  readonly clip: OpenClip;
  /** Frames of the clip, ascending. */
  readonly indices: readonly number[];
  /** Names of their files, by the content of the video. */
  readonly names: readonly string[];
  /** In seconds. */
  readonly times: readonly number[];
  /** Frames that the model sees. */
  readonly seen: number;
}

/** The strips of a question's videos, which are opened but not decoded. */
export async function stripsOf(
  question: Question,
  content: QuestionContent,
  { video, maxImagePixels = PILLOW_MAX_PIXELS }: { video?: VideoConfig | null; maxImagePixels?: number },
): Promise<VideoStrip[]> {
  const strips: VideoStrip[] = [];
  const hashes = content.images.slice(picturesOf(question).length);
  for (const [k, source] of videosOf(question).entries()) {
    const clip = await openClip(source, { maxImagePixels, fps: video!.fps });
    const { indices: seen } = sampleFrames(clip, { ...video!, packing: video!.maxPacking });
    const indices = seen.length <= MOST_FRAMES ? seen : evenly(seen.length, MOST_FRAMES).map((i) => seen[i]!);
    strips.push({
      clip,
      indices,
      names: indices.map((index) => `${hashes[k]}-${index}.jpg`),
      times: indices.map((index) => index / clip.fps),
      seen: seen.length,
    });
  }
  return strips;
}

/** The frames of a strip as JPEG, with the names of their files. */
export async function* framesOfStrip(
  { clip, indices, names }: VideoStrip,
  maxImagePixels: number,
): AsyncGenerator<[name: string, jpeg: Buffer]> {
  let at = 0;
  for await (const { width, height, data } of readFrames(clip, indices, maxImagePixels)) {
    const image = sharp(data, { raw: { width, height, channels: 3 } });
    const small = image.resize({ width: SIDE, height: SIDE, fit: 'inside', withoutEnlargement: true });
    yield [names[at++]!, await small.jpeg({ quality: 85 }).toBuffer()];
  }
}
