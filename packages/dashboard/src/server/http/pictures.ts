/**
 * Pictures for the page. They are read, checked and encoded anew as WebP, so that nothing but pixels reaches the browser. Formats that hold scripts or
 * refer to other files (SVG, PDF) are refused by their first bytes, before any decoder sees them.
 */
import { createHash } from 'node:crypto';
import { readFile, stat } from 'node:fs/promises';
import type { Sharp } from 'sharp';
import { ApiError } from '../errors.js';

const LARGEST_FILE = 64 << 20;
const MOST_PIXELS = 100_000_000;
const WIDEST = 4096;
const QUALITY = 85;
/** Bytes of encoded pictures that are kept. */
const KEPT = 32 << 20;
const AT_ONCE = 2;

/** How pixel formats begin. */
const FORMATS: readonly (readonly [number, string])[] = [
  [0, '\x89PNG\r\n\x1a\n'],
  [0, '\xff\xd8\xff'],
  [0, 'GIF8'],
  [8, 'WEBP'],
  [0, 'II*\0'],
  [0, 'MM\0*'],
  [4, 'ftypavif'],
];

export interface Picture {
  readonly etag: string;
  readonly webp: Uint8Array<ArrayBuffer>;
}

export class Pictures {
  readonly #kept = new Map<string, Picture>();
  readonly #waiting: (() => void)[] = [];
  #bytes = 0;
  #running = 0;

  /** Tells a picture apart from every other one, without reading it. */
  async etag(path: string, width: number | null): Promise<string> {
    const { size, mtimeMs, ino } = await found(path);
    return `"${createHash('sha256').update([path, size, mtimeMs, ino, width].join('\n')).digest('base64url').slice(0, 22)}"`;
  }

  /**
   * @param path a file that the server listed itself
   * @param width pixels at most; null: as it is
   * @throws ApiError 404 without the file, 415 when it is no picture, 413 when it is too large
   */
  async webp(path: string, width: number | null): Promise<Picture> {
    const etag = await this.etag(path, width);
    const kept = this.#kept.get(etag);
    if (kept !== undefined) return kept;
    await this.#turn();
    try {
      const picture = { etag, webp: await encoded(path, width) };
      this.#keep(picture);
      return picture;
    } finally {
      this.#running--;
      this.#waiting.shift()?.();
    }
  }

  /** Width and height as the picture is shown, upright. @throws ApiError as `webp` */
  async size(path: string): Promise<{ width: number; height: number }> {
    const { width, height, orientation = 1 } = await (await opened(path)).metadata().catch(refuse);
    return orientation >= 5 ? { width: height, height: width } : { width, height };
  }

  async #turn(): Promise<void> {
    if (this.#running >= AT_ONCE) await new Promise<void>((resolve) => this.#waiting.push(resolve));
    this.#running++;
  }

  #keep(picture: Picture): void {
    if (this.#kept.has(picture.etag)) return; // two asked for it at once
    this.#kept.set(picture.etag, picture);
    this.#bytes += picture.webp.length;
    for (const [etag, { webp }] of this.#kept) {
      if (this.#bytes <= KEPT) return;
      this.#kept.delete(etag);
      this.#bytes -= webp.length;
    }
  }
}

const OPTIONS = { limitInputPixels: MOST_PIXELS, sequentialRead: true, pages: 1 } as const;

async function found(path: string): Promise<{ size: number; mtimeMs: number; ino: number }> {
  const status = await stat(path).catch(() => null);
  if (!status?.isFile()) throw new ApiError(404, 'Expected a picture but its file is not there.');
  if (status.size > LARGEST_FILE)
    throw new ApiError(413, `Expected a picture of at most ${LARGEST_FILE} bytes but received ${status.size}.`);
  return status;
}

async function pixels(path: string): Promise<Buffer> {
  await found(path);
  const bytes = await readFile(path);
  const start = bytes.toString('latin1', 0, 16);
  if (!FORMATS.some(([at, text]) => start.startsWith(text, at)))
    throw new ApiError(415, 'Expected a picture of pixels (PNG, JPEG, WebP, GIF, TIFF) but received another file.');
  return bytes;
}

/** Its library is loaded with the first picture: that takes as long as the list of hundreds of runs. */
async function opened(path: string): Promise<Sharp> {
  const [bytes, { default: sharp }] = await Promise.all([pixels(path), import('sharp')]);
  return sharp(bytes, OPTIONS);
}

async function encoded(path: string, width: number | null): Promise<Uint8Array<ArrayBuffer>> {
  const resize = { width: Math.min(width ?? WIDEST, WIDEST), withoutEnlargement: true } as const;
  const picture = (await opened(path)).rotate().resize(resize).webp({ quality: QUALITY });
  return Uint8Array.from(await picture.toBuffer().catch(refuse));
}

function refuse(error: Error): never {
  throw new ApiError(415, `Expected a picture but it cannot be decoded: ${error.message}`);
}
