/**
 * The images and videos of a conversation. They are read or measured, cut as a slicing says, and laid out in pictures.
 */
import { UserError } from '@minicpm-finetune/run';
import type { Medium } from './chat/layout.js';
import type { ChatMessage, ImagePart, VideoPart } from './chat/messages.js';
import { decodeImage, type ImageSource, measureImage, PILLOW_MAX_PIXELS } from './image/decode.js';
import { planSlices, type SliceConfig } from './image/geometry.js';
import { measureHeader } from './image/header.js';
import { checkShape, type EncodedPicture, encodeImage } from './image/pictures.js';
import type { RgbImage } from './image/resize.js';
import { imageSource } from './image/source.js';
import { countTokens } from './picture-tokens.js';
import type { ModelInput, PromptOptions, RecordOptions } from './sample.js';
import { describeVideo, type OpenClip, openClip } from './video/clip.js';
import { readFrames } from './video/frames.js';
import { evenly, sampleFrames, temporalId } from './video/sampling.js';
import { type VideoSource, videoSource } from './video/source.js';
import type { VideoConfig } from './video-config.js';

export type ReadOptions = PromptOptions & Pick<RecordOptions, 'pixels'>;

/** How much of the media is shown: what is changed to make a record fit. */
export interface Shown {
  readonly sliceConfig: SliceConfig | null;
  /** Most frames of a video; null: as many as the sampling gives. */
  readonly maxFrames: number | null;
}

interface ReadImage {
  readonly kind: 'image';
  /** Without pixels where none are wanted. */
  readonly image: RgbImage;
  /** The most slices it is cut into where its message says so. */
  readonly maxSliceNums?: number | undefined;
}

interface ReadVideo {
  readonly kind: 'video';
  readonly clip: OpenClip;
  readonly config: VideoConfig;
}

export type ReadMedium = ReadImage | ReadVideo;

const NO_PIXELS = new Uint8Array(0);

/** Images and videos in order of appearance; the same source twice is read once. Frames of videos are not read yet. */
export async function readMedia(messages: readonly ChatMessage[], options: ReadOptions): Promise<ReadMedium[]> {
  const images = new Map<ImageSource, RgbImage>();
  const read = async (part: ImagePart | VideoPart): Promise<ReadMedium> => {
    if ('video' in part) return await readVideo(part.video, options);
    if (!images.has(part.image)) images.set(part.image, await readImage(part.image, options));
    return { kind: 'image', image: images.get(part.image)!, maxSliceNums: part.maxSliceNums };
  };
  const media: ReadMedium[] = [];
  for (const [turn, { content }] of messages.entries()) {
    if (typeof content === 'string') continue;
    for (const part of content) {
      if (typeof part === 'string') continue;
      try {
        media.push(await read(part));
      } catch (error) {
        throw error instanceof UserError ? error.at({ turn }) : error;
      }
    }
  }
  return media;
}

async function readImage(source: ImageSource, options: ReadOptions): Promise<RgbImage> {
  const { imageRoot, maxImagePixels = PILLOW_MAX_PIXELS, notice, pixels = true } = options;
  const path = imageSource(source, imageRoot);
  const decodeOptions = {
    maxImagePixels,
    notice: (message: string) => notice?.({ kind: 'first_frame', message }),
  };
  const measure = pixels === 'header' ? measureHeader : measureImage;
  const image =
    pixels === true
      ? await decodeImage(path, decodeOptions)
      : { ...(await measure(path, decodeOptions)), data: NO_PIXELS };
  checkShape(image, options);
  return image;
}

async function readVideo(written: VideoSource, options: ReadOptions): Promise<ReadVideo> {
  const { imageRoot, maxImagePixels = PILLOW_MAX_PIXELS, video: config, pixels = true, videoLimits } = options;
  const source = videoSource(written, imageRoot);
  if (config == null) {
    throw new UserError(
      `Expected pictures for a model that reads no videos but received the video ${describeVideo(source)}.`,
      {
        cure: 'Take MiniCPM-V 4.5, 4.6 or 4.7, or show some of its frames as pictures.',
      },
    );
  }
  const clip = await openClip(source, { maxImagePixels, fps: config.fps, limits: videoLimits });
  checkShape(clip, options);
  if (pixels === false) {
    const indices = framesOf(clip, config, null).flat();
    for await (const _ of readFrames(clip, indices, maxImagePixels, videoLimits)); // whole, or an error
  }
  return { kind: 'video', clip, config };
}

/** How a medium is cut: as all are, into no more slices than its message or the video settings allow. */
function sliceConfigOf(medium: ReadMedium, sliceConfig: SliceConfig | null): SliceConfig | null {
  const most = medium.kind === 'image' ? medium.maxSliceNums : medium.config.maxSliceNums;
  if (sliceConfig === null || most === undefined) return sliceConfig;
  return { ...sliceConfig, maxSliceNums: Math.min(most, sliceConfig.maxSliceNums) };
}

/** The frames that are shown, in groups that share the tokens of a picture. */
function framesOf(clip: OpenClip, config: VideoConfig, maxFrames: number | null): number[][] {
  const { indices, packing } = sampleFrames(clip, { ...config, packing: config.maxPacking });
  const groups: number[][] = [];
  for (let i = 0; i < indices.length; i += packing) groups.push(indices.slice(i, i + packing));
  return maxFrames === null || groups.length <= maxFrames
    ? groups
    : evenly(groups.length, maxFrames).map((i) => groups[i]!);
}

/** Frames (or groups of them) that a conversation shows of its longest video; 0: it has none. */
export function mostFrames(media: readonly ReadMedium[], maxFrames: number | null): number {
  const counts = media.map((medium) =>
    medium.kind === 'video' ? framesOf(medium.clip, medium.config, maxFrames).length : 0,
  );
  return Math.max(0, ...counts);
}

/** A medium as the text has it, with the rows and columns of each of its pictures in patches. */
export interface MeasuredMedium extends Medium {
  readonly sizes: readonly { readonly rows: number; readonly cols: number }[];
  /** When the frames of a video were taken, in seconds. */
  readonly times: readonly number[];
}

/** How a medium stands in the text. */
export function measureMedium(medium: ReadMedium, shown: Shown, input: ModelInput): MeasuredMedium {
  const { patchSize, pictureTokens } = input;
  const sliceConfig = sliceConfigOf(medium, shown.sliceConfig);
  const { width, height } = medium.kind === 'image' ? medium.image : medium.clip;
  const plan = sliceConfig ? planSlices([width, height], sliceConfig) : null;
  const sizeOf = (w: number, h: number) => ({ rows: Math.floor(h / patchSize), cols: Math.floor(w / patchSize) });
  const slices = (plan?.boxes.flat() ?? []).map(([left, top, right, bottom]) => sizeOf(right - left, bottom - top));
  const one = [sizeOf(...(plan?.source ?? [width, height])), ...slices];
  const groups = medium.kind === 'image' ? [] : framesOf(medium.clip, medium.config, shown.maxFrames);
  const count = medium.kind === 'image' ? 1 : groups.length;
  const sizes = Array.from({ length: count }, () => one).flat();
  return {
    kind: medium.kind,
    grids: Array.from({ length: count }, () => plan?.grid ?? null),
    sizes,
    times: medium.kind === 'image' ? [] : groups.flat().map((index) => index / medium.clip.fps),
    counts: sizes.map((size) => countTokens(pictureTokens, size)),
  };
}

/** How many pictures (slices and frames among them) a conversation shows, and how many tokens they are. */
export interface MediaCount {
  readonly pictures: number;
  readonly features: number;
}

/**
 * Measures the media of a conversation.
 * @throws UserError naming the turn, for what reading them finds; with `pixels: false` all pictures and frames are decoded
 */
export async function measureConversation(messages: readonly ChatMessage[], options: ReadOptions): Promise<MediaCount> {
  const media = await readMedia(messages, options);
  const shown: Shown = { sliceConfig: options.sliceConfig, maxFrames: null };
  const counts = media.flatMap((medium) => measureMedium(medium, shown, options).counts);
  return { pictures: counts.length, features: counts.reduce((sum, count) => sum + count, 0) };
}

/** The pictures of media in the order of their places, and how many of them share each place. */
export interface Pictures {
  readonly pictures: EncodedPicture[];
  readonly groups: number[];
}

/** Lays out all pictures; frames of videos are read here. */
export async function encodeMedia(media: readonly ReadMedium[], shown: Shown, options: ReadOptions): Promise<Pictures> {
  const result: Pictures = { pictures: [], groups: [] };
  for (const medium of media) {
    const input = { ...options, sliceConfig: sliceConfigOf(medium, shown.sliceConfig) };
    if (medium.kind === 'image') {
      const { pictures } = encodeImage(medium.image, input);
      result.pictures.push(...pictures);
      result.groups.push(...pictures.map(() => 1));
    } else {
      await encodeVideo(medium, shown, input, result);
    }
  }
  return result;
}

/** Of a group of frames, first come all overviews, then all first slices, and so on. */
async function encodeVideo(
  { clip, config }: ReadVideo,
  shown: Shown,
  input: ReadOptions,
  { pictures, groups }: Pictures,
): Promise<void> {
  const grouped = framesOf(clip, config, shown.maxFrames);
  const frames = readFrames(clip, grouped.flat(), input.maxImagePixels ?? PILLOW_MAX_PIXELS, input.videoLimits);
  const indices = grouped.flat();
  const encoded: EncodedPicture[][] = [];
  for await (const frame of frames) {
    const time = config.temporal ? { temporalId: temporalId(indices[encoded.length]!, clip) } : {};
    encoded.push(encodeImage(frame, input).pictures.map((picture) => ({ ...picture, ...time })));
  }
  let first = 0;
  for (const { length } of grouped) {
    const group = encoded.slice(first, first + length);
    for (let tile = 0; tile < group[0]!.length; tile++) {
      pictures.push(...group.map((own) => own[tile]!));
      groups.push(length);
    }
    first += length;
  }
}
