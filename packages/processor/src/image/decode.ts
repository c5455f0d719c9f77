/**
 * Decodes a picture file to RGB bytes as Pillow does. The result is that of `Image.open(file).convert("RGB")`: EXIF
 * orientation and colour profiles are not applied, alpha is dropped (not blended), 16-bit gray is clipped (not scaled),
 * CMYK is converted without a profile, and an animation gives its first frame. Decoding itself is libvips'; no resizing
 * here.
 */
import { readFileSync, statSync } from 'node:fs';
import { beginsAsPicture, fileKind, pathCure, shown, shownPath, UserError } from '@minicpm-finetune/run';
import sharp, { type Metadata, type Sharp } from 'sharp';
import { decodeBmp, isBmp } from './bmp.js';
import { makeOpaque } from './gif.js';
import { type Size, wholeJpegSize } from './jpeg.js';
import type { RgbImage } from './resize.js';

/** A file's path, or the bytes of a file. */
export type ImageSource = string | Uint8Array;

/** Receives messages for the user that are not errors. */
export type NoticeHandler = (message: string) => void;

export interface DecodeOptions {
  /** Pictures of more pixels are refused. */
  maxImagePixels: number;
  notice?: NoticeHandler;
}

/** Pillow refuses larger pictures as decompression bombs; the default of `--max_image_pixels` is below it. */
export const PILLOW_MAX_PIXELS = 178_956_970;

const SHARP_OPTIONS = { failOn: 'error', ignoreIcc: true, limitInputPixels: false } as const;
const FORMATS = ['jpeg', 'png', 'webp', 'gif', 'tiff', 'heif'];
const READ = 'JPEG, PNG, WebP, GIF, TIFF, AVIF and BMP are read.';
const CURE = `Repair or replace the file: ${READ}`;

const PATH_CURE = 'Correct the path; a relative one counts from the data file.';

function describe(source: ImageSource): string {
  return typeof source === 'string' ? shownPath(source) : `${source.length} bytes`;
}

function readSource(source: ImageSource): Uint8Array {
  if (typeof source !== 'string') return source;
  try {
    const file = statSync(source); // synchronous: pictures are small, and four hops through the thread pool cost more than reading one
    if (file.isFile() || file.isDirectory()) return readFileSync(source);
  } catch (cause) {
    const code = (cause as NodeJS.ErrnoException).code;
    const found = code === 'ENOENT' ? 'no such file' : code === 'EISDIR' ? 'a folder' : (cause as Error).message;
    throw new UserError(`Expected a picture file at ${shown(source)} but received ${found}.`, {
      cure: pathCure(source, PATH_CURE),
      cause,
    });
  }
  // a device or a pipe may never end
  throw new UserError(`Expected a picture file at ${shown(source)} but received something that is no file.`, {
    cure: PATH_CURE,
  });
}

function sizeCheck(source: ImageSource, maxImagePixels: number): (width: number, height: number) => void {
  return (width, height) => checkPixels(source, maxImagePixels, { width, height });
}

/** @throws UserError for a picture of more than `maxImagePixels` */
export function checkPixels(source: ImageSource, maxImagePixels: number, { width, height }: Size): void {
  if (width * height <= maxImagePixels) return;
  throw new UserError(
    `Expected a picture of at most ${maxImagePixels} pixels but received ${width}x${height} = ${width * height} for ${describe(source)}.`,
    { flag: '--max_image_pixels', cure: 'Make the picture smaller or raise --max_image_pixels.' },
  );
}

/** Pillow's CMYK to RGB: black taken off white, then each ink's share of the rest. In place of a colour profile. */
function fromCmyk(cmyk: Uint8Array, width: number, height: number): RgbImage {
  const data = new Uint8ClampedArray(width * height * 3);
  for (let from = 0, to = 0; to < data.length; from += 4, to += 3) {
    const light = 255 - cmyk[from + 3]!;
    for (let c = 0; c < 3; c++) {
      const product = cmyk[from + c]! * light + 128;
      data[to + c] = light - (((product >> 8) + product) >> 8);
    }
  }
  return { data: new Uint8Array(data.buffer), width, height };
}

/** 16-bit gray, clipped to 255. */
function fromGray16(bytes: Uint8Array, channels: number, width: number, height: number): RgbImage {
  const values = new Uint16Array(bytes.buffer, bytes.byteOffset, bytes.length / 2);
  const data = new Uint8Array(width * height * 3);
  for (let i = 0; i < width * height; i++) data.fill(Math.min(values[i * channels]!, 255), i * 3, i * 3 + 3);
  return { data, width, height };
}

/** The first frame of a GIF, and what Pillow shows around a frame smaller than the canvas. */
async function fromGif(bytes: Uint8Array): Promise<RgbImage> {
  const opaque = makeOpaque(bytes);
  const pipeline = sharp(opaque?.bytes ?? bytes, SHARP_OPTIONS)
    .removeAlpha()
    .toColourspace('srgb')
    .raw();
  const { data, info } = await pipeline.toBuffer({ resolveWithObject: true });
  const { width, height } = info;
  if (opaque) {
    const [left, top, right, bottom] = opaque.frame;
    for (let y = 0; y < height; y++) {
      for (let x = 0; x < width; x++) {
        if (x < left || x >= right || y < top || y >= bottom) data.set(opaque.outside, (y * width + x) * 3);
      }
    }
  }
  return { data, width, height };
}

/** A PNG of gray samples without alpha channel (it may still name one gray level as transparent). */
function isGrayPng(bytes: Uint8Array, { format }: Metadata): boolean {
  return format === 'png' && bytes[25] === 0;
}

async function toRgb(image: Sharp, metadata: Metadata, bytes: Uint8Array): Promise<RgbImage> {
  if (metadata.format === 'gif') return await fromGif(bytes);
  if (metadata.space === 'cmyk') {
    const pipeline = image.pipelineColourspace('cmyk').toColourspace('cmyk').raw();
    const { data, info } = await pipeline.toBuffer({ resolveWithObject: true });
    return fromCmyk(data, info.width, info.height);
  }
  if (metadata.space === 'grey16' && (!metadata.hasAlpha || isGrayPng(bytes, metadata))) {
    const pipeline = image.toColourspace('grey16').raw({ depth: 'ushort' });
    const { data, info } = await pipeline.toBuffer({ resolveWithObject: true });
    return fromGray16(data, info.channels, info.width, info.height);
  }
  const upright = metadata.format === 'tiff' ? image.autoOrient() : image; // Pillow turns TIFF, and only TIFF
  const pipeline = upright.removeAlpha().toColourspace('srgb').raw();
  const { data, info } = await pipeline.toBuffer({ resolveWithObject: true });
  return { data, width: info.width, height: info.height };
}

/** The error for bytes that are no picture, or one of a format that is not read: what they are by their first ones. */
function notAPicture(source: ImageSource, bytes: Uint8Array, cause?: unknown): UserError {
  const kind = fileKind(bytes);
  const first = Buffer.from(bytes.subarray(0, 8))
    .toString('hex')
    .replace(/(..)(?=.)/g, '$1 ');
  const what = kind?.what ?? `a file of another kind, which begins with the bytes ${first}`;
  return new UserError(`Expected a picture in ${describe(source)} but received ${what}.`, {
    cure: kind?.cure ?? `${kind?.group === 'text' ? 'Perhaps its download failed. ' : ''}Replace the file: ${READ}`,
    cause,
  });
}

/** A decoder's message about a file that it cannot read: libvips' words, unless another thread's error replaced them. */
function broken(source: ImageSource, bytes: Uint8Array, cause: unknown): UserError {
  if (!beginsAsPicture(bytes)) return notAPicture(source, bytes, cause);
  const words = (cause as Error).message.split('\n')[0]!.trim();
  const reason = words === 'Unknown error' ? 'its data is cut off or damaged' : words;
  return new UserError(`Expected a readable picture in ${describe(source)} but received a broken one: ${reason}.`, {
    cure: CURE,
    cause,
  });
}

/**
 * Decodes a picture to interleaved RGB.
 * @throws UserError when the file is missing, not a picture, cut, or larger than `maxImagePixels`
 */
export async function decodeImage(source: ImageSource, options: DecodeOptions): Promise<RgbImage> {
  return await open(source, readSource(source), options);
}

async function open(source: ImageSource, bytes: Uint8Array, options: DecodeOptions): Promise<RgbImage> {
  const checkSize = sizeCheck(source, options.maxImagePixels);
  if (bytes.length === 0) throw notAPicture(source, bytes);
  try {
    if (isBmp(bytes)) return decodeBmp(bytes, checkSize);
    const image = sharp(bytes, SHARP_OPTIONS);
    const metadata = await image.metadata();
    if (!FORMATS.includes(metadata.format)) throw notAPicture(source, bytes);
    checkSize(metadata.width, metadata.height);
    if ((metadata.pages ?? 1) > 1) {
      options.notice?.(`${describe(source)} has ${metadata.pages} frames; only the first one is used.`);
    }
    return await toRgb(image, metadata, bytes);
  } catch (cause) {
    if (cause instanceof UserError) throw cause;
    throw broken(source, bytes, cause);
  }
}

/**
 * The size of a picture that `decodeImage` would decode, at a fraction of its cost for ordinary JPEG files.
 * @throws UserError for the same files as `decodeImage`
 */
export async function measureImage(source: ImageSource, options: DecodeOptions): Promise<Size> {
  const bytes = readSource(source);
  const size = wholeJpegSize(bytes);
  if (size !== null) {
    sizeCheck(source, options.maxImagePixels)(size.width, size.height);
    return size;
  }
  const { width, height } = await open(source, bytes, options);
  return { width, height };
}
