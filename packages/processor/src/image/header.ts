/**
 * The size of a picture by the ends of its file. Neither is decoded, so this takes a small part of
 * decoding's time. JPEG, PNG, GIF and WebP are read here. A file whose end is not that of a whole one, or that is
 * anything else, is left to the decoder: it finds what is wrong, or the size.
 *
 * Not here: damage in the middle of a file, which only decoding finds.
 */
import { closeSync, fstatSync, openSync, readSync } from 'node:fs';
import sharp, { type Metadata } from 'sharp';
import { checkPixels, type DecodeOptions, type ImageSource, measureImage } from './decode.js';
import type { Size } from './jpeg.js';

/** Bytes of a file, by position: what is not there reads as nothing. */
interface Bytes {
  readonly length: number;
  /** `count` bytes from `start` on, fewer at the end. */
  at(start: number, count: number): Buffer;
}

const HEAD = 4096;

/**
 * The size of a picture, by its header where that is enough.
 * @throws UserError as `decodeImage`, but not for every file that is damaged
 */
export async function measureHeader(source: ImageSource, options: DecodeOptions): Promise<Size> {
  const size = typeof source === 'string' ? sizeOfFile(source) : sizeOf(inMemory(source));
  const found = size ?? (await rarerSize(source));
  if (found === null) return await measureImage(source, options);
  checkPixels(source, options.maxImagePixels, found);
  return found;
}

/** The size of a file; null: not known this way, a file that cannot be read included. */
function sizeOfFile(path: string): Size | null {
  let file: number;
  try {
    file = openSync(path, 'r');
  } catch {
    return null;
  }
  try {
    const stat = fstatSync(file);
    return stat.isFile() ? sizeOf(inFile(file, stat.size)) : null;
  } catch {
    return null;
  } finally {
    closeSync(file);
  }
}

function inMemory(source: Uint8Array): Bytes {
  const buffer = Buffer.from(source.buffer, source.byteOffset, source.byteLength);
  return { length: source.length, at: (start, count) => buffer.subarray(start, start + count) };
}

function inFile(file: number, length: number): Bytes {
  const read = (start: number, count: number): Buffer => {
    const buffer = Buffer.allocUnsafe(Math.max(0, Math.min(count, length - start)));
    return buffer.subarray(0, readSync(file, buffer, 0, buffer.length, start));
  };
  const head = read(0, HEAD);
  const at = (start: number, count: number): Buffer =>
    start + count <= head.length ? head.subarray(start, start + count) : read(start, count);
  return { length, at };
}

/** The size by a header that is understood, of a file that ends as a whole one; else null. */
function sizeOf(bytes: Bytes): Size | null {
  if (bytes.length < 32) return null;
  const start = bytes.at(0, 32);
  const size = start.readUInt16BE(0) === 0xffd8 ? jpegSize(bytes) : byName(bytes, start);
  return size !== null && size.width > 0 && size.height > 0 ? size : null;
}

function byName(bytes: Bytes, start: Buffer): Size | null {
  const name = start.toString('latin1', 0, 4);
  if (name === '\x89PNG') return pngSize(bytes, start);
  if (name === 'GIF8') return gifSize(bytes, start);
  if (name === 'RIFF' && start.toString('latin1', 8, 12) === 'WEBP') return webpSize(bytes, start);
  return null;
}

/** Frames that are decoded here: baseline, extended sequential and progressive, Huffman coded. */
const JPEG_FRAMES = [0xc0, 0xc1, 0xc2];
const NO_FRAMES = [0xc4, 0xc8, 0xcc];

function jpegSize(bytes: Bytes): Size | null {
  if (bytes.at(bytes.length - 2, 2).readUInt16BE(0) !== 0xffd9) return null;
  for (let at = 2; at + 10 <= bytes.length; ) {
    const segment = bytes.at(at, 10);
    const marker = segment[1]!;
    if (segment[0] !== 0xff || marker < 0xc0 || marker === 0xd8 || marker === 0xd9 || marker === 0xda) return null;
    if (marker <= 0xcf && !NO_FRAMES.includes(marker)) {
      if (!JPEG_FRAMES.includes(marker) || segment[4] !== 8) return null;
      return { height: segment.readUInt16BE(5), width: segment.readUInt16BE(7) };
    }
    at += 2 + segment.readUInt16BE(2);
  }
  return null;
}

const PNG_END = '0000000049454e44ae426082';

function pngSize(bytes: Bytes, start: Buffer): Size | null {
  if (start.readUInt32BE(8) !== 13 || start.toString('latin1', 12, 16) !== 'IHDR') return null;
  if (bytes.at(bytes.length - 12, 12).toString('hex') !== PNG_END) return null;
  return { width: start.readUInt32BE(16), height: start.readUInt32BE(20) };
}

function gifSize(bytes: Bytes, start: Buffer): Size | null {
  if (bytes.at(bytes.length - 1, 1)[0] !== 0x3b) return null;
  return { width: start.readUInt16LE(6), height: start.readUInt16LE(8) };
}

function webpSize(bytes: Bytes, start: Buffer): Size | null {
  if (start.readUInt32LE(4) + 8 > bytes.length) return null;
  const kind = start.toString('latin1', 12, 16);
  if (kind === 'VP8 ') return { width: start.readUInt16LE(26) & 0x3fff, height: start.readUInt16LE(28) & 0x3fff };
  if (kind === 'VP8X') return { width: 1 + start.readUIntLE(24, 3), height: 1 + start.readUIntLE(27, 3) };
  if (kind !== 'VP8L') return null;
  const sizes = start.readUInt32LE(21);
  return { width: 1 + (sizes & 0x3fff), height: 1 + ((sizes >>> 14) & 0x3fff) };
}

/** TIFF and AVIF, whose headers libvips reads. */
async function rarerSize(source: ImageSource): Promise<Size | null> {
  let header: Metadata;
  try {
    header = await sharp(source, { limitInputPixels: false }).metadata();
  } catch {
    return null;
  }
  const { format, compression, width, height, orientation = 1 } = header;
  if (format === 'heif' && compression === 'av1') return { width, height };
  if (format !== 'tiff') return null;
  return orientation >= 5 ? { width: height, height: width } : { width, height };
}
