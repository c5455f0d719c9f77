/**
 * Reads BMP pictures, which libvips does not. Uncompressed and bit-field pixels of 1 to 32 bits; the alpha channel is
 * dropped. Run-length compressed ones are not read. Colour expansion as in Pillow's BmpImagePlugin.
 */
import { UserError } from '@minicpm-finetune/run';
import type { RgbImage } from './resize.js';

interface Header {
  width: number;
  height: number;
  topDown: boolean;
  bits: number;
  /** Masks of red, green and blue in a pixel of 16, 24 or 32 bits. */
  masks: [number, number, number];
  /** The palette's offset, its number of entries, and the bytes of an entry. */
  palette: { offset: number; entries: number; size: number };
  pixels: number;
}

const UNCOMPRESSED = 0;
const BIT_FIELDS = 3;
const MASKS_15: Header['masks'] = [0x7c00, 0x3e0, 0x1f];
const MASKS_24: Header['masks'] = [0xff0000, 0xff00, 0xff];

function refuse(what: string): UserError {
  return new UserError(`Expected an uncompressed BMP picture but received ${what}.`, {
    cure: 'Save the picture as PNG or JPEG.',
  });
}

/** Whether the bytes start as a BMP file does. */
export function isBmp(bytes: Uint8Array): boolean {
  return bytes.length > 26 && bytes[0] === 0x42 && bytes[1] === 0x4d;
}

function readHeader(view: DataView): Header {
  const size = view.getUint32(14, true);
  const offset = view.getUint32(10, true);
  if (size === 12) {
    const bits = view.getUint16(24, true);
    const palette = { offset: 26, entries: bits <= 8 ? 1 << bits : 0, size: 3 };
    const [width, height] = [view.getUint16(18, true), view.getUint16(20, true)];
    return { width, height, topDown: false, bits, masks: bits === 16 ? MASKS_15 : MASKS_24, palette, pixels: offset };
  }
  if (size < 40 || view.byteLength < 14 + size) throw refuse(`a header of ${size} bytes`);
  const height = view.getInt32(22, true);
  const bits = view.getUint16(28, true);
  const compression = view.getUint32(30, true);
  if (compression !== UNCOMPRESSED && compression !== BIT_FIELDS) throw refuse(`compression type ${compression}`);
  let masks = bits === 16 ? MASKS_15 : MASKS_24;
  if (compression === BIT_FIELDS) masks = [54, 58, 62].map((at) => view.getUint32(at, true)) as Header['masks'];
  const entries = bits <= 8 ? view.getUint32(46, true) || 1 << bits : 0;
  const palette = { offset: 14 + size, entries, size: 4 };
  const pixels = bits <= 8 && offset === 14 + size ? offset + 4 * entries : offset;
  return {
    width: view.getInt32(18, true),
    height: Math.abs(height),
    topDown: height < 0,
    bits,
    masks,
    palette,
    pixels,
  };
}

/** Reads a channel out of a pixel and stretches it to 0..255. */
function channelReader(mask: number): (pixel: number) => number {
  if (mask === 0) return () => 0;
  const shift = 31 - Math.clz32(mask & -mask);
  const most = mask >>> shift;
  return (pixel) => Math.trunc((((pixel & mask) >>> shift) * 255) / most);
}

function copyPaletteRow(view: DataView, row: number, header: Header, output: Uint8Array, to: number): void {
  const { width, bits, palette } = header;
  const mask = (1 << bits) - 1;
  for (let x = 0; x < width; x++) {
    const index = (view.getUint8(row + ((x * bits) >> 3)) >> (8 - bits - ((x * bits) & 7))) & mask;
    if (index >= palette.entries) continue; // black
    const at = palette.offset + index * palette.size;
    for (let c = 0; c < 3; c++) output[to + x * 3 + c] = view.getUint8(at + 2 - c);
  }
}

function copyPixelRow(view: DataView, row: number, header: Header, output: Uint8Array, to: number): void {
  const bytes = header.bits / 8;
  const channels = header.masks.map(channelReader);
  for (let x = 0; x < header.width; x++) {
    const at = row + x * bytes;
    let pixel = view.getUint16(at, true);
    if (bytes > 2) pixel |= view.getUint8(at + 2) << 16;
    if (bytes > 3) pixel |= view.getUint8(at + 3) << 24;
    for (let c = 0; c < 3; c++) output[to + x * 3 + c] = channels[c]!(pixel);
  }
}

/**
 * Decodes a BMP file to RGB.
 * @param checkSize - called before anything is allocated; throws when the picture is too large
 * @throws UserError when the file is cut, compressed or larger than allowed
 */
export function decodeBmp(bytes: Uint8Array, checkSize: (width: number, height: number) => void): RgbImage {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const header = readHeader(view);
  const { width, height, topDown, bits, palette, pixels } = header;
  if (![1, 4, 8, 16, 24, 32].includes(bits)) throw refuse(`${bits} bits per pixel`);
  if (width < 1 || height < 1) throw refuse(`a size of ${width}x${height}`);
  checkSize(width, height);
  const stride = ((width * bits + 31) >> 5) * 4;
  const needed = Math.max(pixels + stride * height, palette.offset + palette.entries * palette.size);
  if (bytes.length < needed) throw refuse(`a cut file: ${bytes.length} bytes of ${needed}`);
  const data = new Uint8Array(width * height * 3);
  const copyRow = bits <= 8 ? copyPaletteRow : copyPixelRow;
  for (let y = 0; y < height; y++) {
    const stored = topDown ? y : height - 1 - y;
    copyRow(view, pixels + stored * stride, header, data, y * width * 3);
  }
  return { data, width, height };
}
