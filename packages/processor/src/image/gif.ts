/**
 * Makes a GIF's first frame opaque, as Pillow shows it. Pillow shows the colours of transparent pixels, and that colour
 * (else palette entry 0) where the frame does not cover the canvas; the file is changed so that libvips decodes the
 * same. Does not decompress.
 */

export interface OpaqueGif {
  /** The file with the first frame's transparency flag cleared. */
  bytes: Uint8Array;
  /** Colour of the canvas outside the first frame. */
  outside: [red: number, green: number, blue: number];
  /** The first frame's box on the canvas. */
  frame: [left: number, top: number, right: number, bottom: number];
}

const EXTENSION = 0x21;
const GRAPHIC_CONTROL = 0xf9;
const IMAGE = 0x2c;

function paletteBytes(flags: number): number {
  return flags & 0x80 ? 3 << ((flags & 7) + 1) : 0;
}

/** Returns null when the file ends before its first frame; decoding will say so. */
export function makeOpaque(bytes: Uint8Array): OpaqueGif | null {
  const result = Uint8Array.from(bytes);
  let palette = 13;
  let at = palette + paletteBytes(bytes[10] ?? 0);
  let transparent = 0;
  while (bytes[at] === EXTENSION) {
    if (bytes[at + 1] === GRAPHIC_CONTROL) {
      const flags = bytes[at + 3] ?? 0;
      transparent = flags & 1 ? (bytes[at + 6] ?? 0) : 0;
      result[at + 3] = flags & ~1;
    }
    at += 2;
    while (bytes[at]) at += bytes[at]! + 1; // sub-blocks, up to an empty one
    at += 1;
  }
  if (bytes[at] !== IMAGE) return null;
  if (paletteBytes(bytes[at + 9] ?? 0) > 0) palette = at + 10;
  const entry = palette + transparent * 3;
  const [left, top, width, height] = [1, 3, 5, 7].map((i) => (bytes[at + i] ?? 0) + 256 * (bytes[at + i + 1] ?? 0));
  return {
    bytes: result,
    outside: [bytes[entry] ?? 0, bytes[entry + 1] ?? 0, bytes[entry + 2] ?? 0],
    frame: [left!, top!, left! + width!, top! + height!],
  };
}
