/** A data file's image reference to a path or bytes. Does not open or decode images (the processor does). */

import { existsSync } from 'node:fs';
import { dirname, isAbsolute, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { ImageSource } from '@minicpm-finetune/processor';
import { expected, UserError } from '@minicpm-finetune/run';
import type { RecordPlace } from './record.js';

/** Finds the images of one data file. */
export class ImageResolver {
  readonly #folder: string;

  readonly #dataFile: string;
  readonly #notice: (message: string) => void;

  /** `notice` gets one message if images were found in the working folder only. */
  constructor(dataFile: string, notice: (message: string) => void) {
    this.#dataFile = dataFile;
    this.#notice = notice;
    this.#folder = dirname(resolve(dataFile));
  }

  /**
   * Accepts a path (relative to the data file, or else to the working folder), a file: or data: URL, `{bytes, path}` as Hugging Face's
   * datasets library stores images, or bytes. Throws UserError naming what was tried.
   */
  resolve(value: unknown, where: string, place: RecordPlace): ImageSource {
    if (value instanceof Uint8Array) return this.#bytes(value, where, place);
    if (typeof value === 'string') return this.#path(value, where, place);
    if (isObject(value)) {
      if (value.bytes instanceof Uint8Array) return this.#bytes(value.bytes, where, place);
      if (typeof value.path === 'string') return this.#path(value.path, where, place);
    }
    throw expected('a path or the bytes of an image', where, value, place);
  }

  #bytes(value: Uint8Array, where: string, place: RecordPlace): Uint8Array {
    if (value.length === 0)
      throw new UserError(`Expected the bytes of an image for ${where} but received 0 bytes.`, { ...place });
    return value;
  }

  #path(value: string, where: string, place: RecordPlace): ImageSource {
    const scheme = /^([a-z][a-z0-9+.-]+):/i.exec(value)?.[1]?.toLowerCase();
    if (scheme === 'data') return dataUrl(value, where, place);
    if (scheme === 'file') return this.#file(fileUrl(value, where, place), value, where, place);
    if (scheme !== undefined && value.startsWith('//', scheme.length + 1)) {
      throw expected('an image file', where, value, {
        ...place,
        cure: `Images are not fetched from ${scheme} addresses during training. Download them once and write their paths relative to the data file.`,
      });
    }
    if (value.trim() === '')
      throw expected('the path of an image', where, value, {
        ...place,
        cure: 'Leave the image out for a text-only record.',
      });
    return this.#file(value, value, where, place);
  }

  #file(path: string, written: string, where: string, place: RecordPlace): string {
    const beside = resolve(this.#folder, path);
    if (existsSync(beside)) return beside;
    if (isAbsolute(path)) throw missing(`Expected the file ${path} for ${where} but there is none.`, place);
    const working = resolve(path);
    if (existsSync(working)) {
      this.#notice(
        `Images of ${this.#dataFile} are not in its folder but in the working folder ${process.cwd()}; they are read from there.`,
      );
      return working;
    }
    const tried = working === beside ? beside : `${beside} and ${working}`;
    throw missing(`Expected the file ${written} for ${where} but there is none: tried ${tried}.`, place);
  }
}

function missing(message: string, place: RecordPlace): UserError {
  return new UserError(message, {
    ...place,
    cure: "Write image paths relative to the data file's folder, or absolute, and check upper and lower case.",
  });
}

function dataUrl(value: string, where: string, place: RecordPlace): Uint8Array {
  const match = /^data:image\/[a-z0-9.+-]+;base64,([A-Za-z0-9+/=\s]+)$/i.exec(value);
  if (!match)
    throw expected('data:image/…;base64,…', where, value, {
      ...place,
      cure: 'Write the image to a file and give its path.',
    });
  return new Uint8Array(Buffer.from(match[1]!, 'base64'));
}

function fileUrl(value: string, where: string, place: RecordPlace): string {
  try {
    return fileURLToPath(value);
  } catch (cause) {
    throw expected('a file: address of this machine', where, value, { ...place, cause });
  }
}

export function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value) && !(value instanceof Uint8Array);
}
