/** A data file's image or video reference to a path or bytes. Does not open or decode images (the processor does). */
import { existsSync } from 'node:fs';
import { dirname, isAbsolute, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { type ImageSource, pictureFromText, type VideoSource } from '@minicpm-finetune/processor';
import {
  beginsAsPicture,
  didYouMean,
  expected,
  isSameFile,
  MOST_SHOWN,
  type SimilarPath,
  SimilarPaths,
  shown,
  shownPath,
  UserError,
  windowsPath,
} from '@minicpm-finetune/run';
import type { RecordPlace } from './record.js';

/** Finds the images of one data file. */
export class ImageResolver {
  readonly #folder: string;

  readonly #dataFile: string;
  readonly #notice: (message: string) => void;
  readonly #similar = new SimilarPaths();
  /** Kinds of paths that were said to be read under another one. */
  readonly #said = new Set<string>();

  /** `notice` gets one message if images were found in the working folder only, and one for each way in which paths are written otherwise. */
  constructor(dataFile: string, notice: (message: string) => void) {
    this.#dataFile = dataFile;
    this.#notice = notice;
    this.#folder = dirname(resolve(dataFile));
  }

  /**
   * Accepts a path (relative to the data file, or else to the working folder), a file: or data: URL, base64, `{bytes, path}` as Hugging
   * Face's datasets library stores images, or bytes. Throws UserError naming what was tried.
   */
  resolve(value: unknown, where: string, place: RecordPlace): ImageSource {
    if (value instanceof Uint8Array) return this.#bytes(value, where, place);
    if (typeof value === 'string') return this.#text(value, where, place);
    if (isObject(value)) {
      if (value.bytes instanceof Uint8Array) return this.#bytes(value.bytes, where, place);
      if (typeof value.bytes === 'string' && value.bytes !== '') return this.#text(value.bytes, where, place);
      if (typeof value.path === 'string') return this.#text(value.path, where, place);
    }
    throw expected('a path or the bytes of an image', where, value, place);
  }

  /**
   * The same for a video: the path of a file or of a folder of frames, or a list of the paths of its frames. Throws UserError naming what was
   * tried.
   */
  resolveVideo(value: unknown, where: string, place: RecordPlace): VideoSource {
    if (!Array.isArray(value)) return this.#videoPath(value, where, place);
    if (value.length === 0) throw expected('frames in the list', where, value, place);
    return value.map((frame, i) => this.#videoPath(frame, `frame ${i} of ${where}`, place));
  }

  #videoPath(value: unknown, where: string, place: RecordPlace): string {
    const path = isObject(value) ? (value.path ?? value.url) : value;
    if (typeof path !== 'string' || path.trim() === '') {
      const cure = 'Write the path of a video file, of a folder of frames, or a list of the paths of its frames.';
      throw expected('the path of a video', where, value, { ...place, cure });
    }
    const scheme = /^\s*([a-z][a-z0-9+.-]+):/i.exec(path)?.[1]?.toLowerCase();
    if (scheme === 'file') return this.#file(fileUrl(path) ?? path, path, where, place);
    if (scheme === 'data' || (scheme !== undefined && path.trimStart().startsWith('//', scheme.length + 1))) {
      throw expected('a video file', where, path, {
        ...place,
        cure: `Videos are not read from ${scheme.slice(0, MOST_SHOWN)} addresses. Save them once and write their paths relative to the data file.`,
      });
    }
    return this.#file(path, path, where, place);
  }

  #bytes(value: Uint8Array, where: string, place: RecordPlace): Uint8Array {
    if (value.length === 0)
      throw new UserError(`Expected the bytes of an image for ${where} but received 0 bytes.`, { ...place });
    if (beginsAsPicture(value) || value[0]! > 0x7a) return value;
    // exports write the text of an address, or base64, into a column of bytes
    return this.#inText(Buffer.from(value).toString('latin1'), where, place) ?? value;
  }

  #inText(value: string, where: string, place: RecordPlace): Uint8Array | undefined {
    try {
      return pictureFromText(value, where);
    } catch (error) {
      throw error instanceof UserError ? error.at(place) : error;
    }
  }

  #text(value: string, where: string, place: RecordPlace): ImageSource {
    const picture = this.#inText(value, where, place);
    if (picture !== undefined) return picture;
    const scheme = /^\s*([a-z][a-z0-9+.-]+):/i.exec(value)?.[1]?.toLowerCase();
    if (scheme === 'file') return this.#file(fileUrl(value) ?? value, value, where, place);
    if (scheme !== undefined && value.trimStart().startsWith('//', scheme.length + 1)) {
      throw expected('an image file', where, value, {
        ...place,
        cure: `Images are not fetched from ${scheme.slice(0, MOST_SHOWN)} addresses during training. Download them once and write their paths relative to the data file.`,
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
    const working = resolve(path);
    if (!isAbsolute(path) && existsSync(working)) {
      this.#notice(
        `Images of ${shownPath(this.#dataFile)} are not in its folder but in the working folder ${shownPath(process.cwd())}; they are read from there.`,
      );
      return working;
    }
    const similar = this.#similar.find(path, [this.#folder, process.cwd()]);
    if (similar !== undefined && isSameFile(similar)) return this.#otherwise(similar, written);
    const tried = isAbsolute(path)
      ? ''
      : `: tried from the folder ${shownPath(this.#folder)}${working === beside ? '' : ` and from ${shownPath(process.cwd())}`}`;
    throw new UserError(`Expected the file ${shown(written)} for ${where} but there is none${tried}.`, {
      ...place,
      cure: missingCure(written, similar),
    });
  }

  /** Reads a file under a path that is written in another way, and says so once. */
  #otherwise(similar: SimilarPath, written: string): string {
    const how = similar.differences.map((one) => READ_AS[one] ?? one).join(', ');
    if (!this.#said.has(how)) {
      this.#said.add(how);
      this.#notice(
        `Paths of images in ${shownPath(this.#dataFile)} are written ${how}; they are read all the same, for instance ${shown(written)} as ${shown(similar.written)}.`,
      );
    }
    return similar.path;
  }
}

const READ_AS: Readonly<Record<string, string>> = {
  backslashes: 'with \\ for /, as Windows has them',
  'percent-encoding': 'percent-encoded',
  'Unicode normalisation': 'in another Unicode normalisation than the names of the files',
};

function missingCure(written: string, similar: SimilarPath | undefined): string {
  if (similar !== undefined) return didYouMean(similar);
  const windows = windowsPath(written);
  if (windows !== undefined)
    return `This is ${windows}, which is not on this machine: write image paths relative to the data file's folder.`;
  return "Write image paths relative to the data file's folder, or absolute, and check that the file is there.";
}

/** The path of a file: address; undefined where it is none of this machine. */
function fileUrl(value: string): string | undefined {
  try {
    return fileURLToPath(value.trim());
  } catch {
    return undefined;
  }
}

export function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value) && !(value instanceof Uint8Array);
}
