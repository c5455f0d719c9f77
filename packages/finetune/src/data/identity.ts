/**
 * What a record is known by. Hashes of its text and of the content of its pictures, and a stamp of its picture files.
 * The hashes say whether a record is the same, wherever its files lie. A stamp (size, times and number of each file)
 * says without reading that nothing was changed; where it differs, only the content decides.
 */
import { hash } from 'node:crypto';
import { closeSync, fstatSync, openSync, readFileSync, readSync, statSync } from 'node:fs';
import { isAbsolute, join, relative, sep } from 'node:path';
import { areByTag, type ImageSource, type VideoSource, videoFiles } from '@minicpm-finetune/processor';
import { type DataRecord, imagesOf, videosOf } from './record.js';
import type { RecordTraits } from './traits.js';

/** Stands for "not known": no hash is it. */
export const UNKNOWN = 0n;
/** The stamp of a record without picture files. */
const NO_FILES = 1n;
/** A file that was changed within this time may be changed again without a new time, in milliseconds. */
const TOO_FRESH = 3000;

function hash64(data: string | Uint8Array): bigint {
  return hash('sha256', data, 'buffer').readBigUInt64LE() || 1n;
}

/** Hash of what a record says: its turns, and the tags of its pictures. */
export function textOf({ conversations, image, video, rejected, desirable }: DataRecord): bigint {
  const compared = rejected === undefined && desirable === undefined ? [] : [rejected?.conversations, desirable];
  const tags = image === undefined ? null : isSingle(image) ? '' : Object.keys(image);
  const videoTags = video === undefined ? [] : [areByTag(video) ? Object.keys(video) : ''];
  return hash64(JSON.stringify([conversations, tags, ...videoTags, ...compared]));
}

function isSingle(image: NonNullable<DataRecord['image']>): image is ImageSource {
  return typeof image === 'string' || image instanceof Uint8Array;
}

/** Hash of the content of a record's pictures, in their order, then of its videos. Throws what reading a file throws. */
export function contentOf(record: DataRecord): bigint {
  const images = imagesOf(record).map((source) => hash('sha256', bytesOf(source), 'buffer'));
  return hash64(Buffer.concat([...images, ...videosOf(record).map(videoHash)]));
}

/** Hash of a video: of the files of its frames, or of its file's size and both of its ends, as reading all of it takes long. */
export function videoHash(source: VideoSource): Buffer {
  return hash('sha256', Buffer.concat(videoFiles(source).map(endsOf)), 'buffer');
}

const END = 1 << 20;

function endsOf(path: string): Buffer {
  const file = openSync(path, 'r');
  try {
    const { size } = fstatSync(file);
    const read = (start: number): Buffer => {
      const part = Buffer.alloc(Math.min(END, size));
      return part.subarray(0, readSync(file, part, 0, part.length, start));
    };
    return hash('sha256', Buffer.concat([Buffer.from(`${size} `), read(0), read(Math.max(0, size - END))]), 'buffer');
  } finally {
    closeSync(file);
  }
}

/** The content of a record without pictures. */
export const NO_PICTURES = hash64(Buffer.alloc(0));

const bytesOf = (source: ImageSource): Uint8Array => (typeof source === 'string' ? readFileSync(source) : source);

/** The files among a record's pictures, and those of its videos; of a folder of frames, the folder as well. */
export function filesOf(record: DataRecord): string[] {
  const videos = videosOf(record).flatMap((source) => {
    const files = videoFiles(source);
    return typeof source === 'string' && files[0] !== source ? [source, ...files] : files;
  });
  return [...imagesOf(record).filter((source) => typeof source === 'string'), ...videos];
}

/**
 * A stamp of files, that changes when one of them does; `UNKNOWN` if one is missing or was changed just now. `folder` is that of the data
 * file: a picture found in the working folder gives way to one that comes to lie there.
 */
export function stampOf(files: readonly string[], folder: string): bigint {
  if (files.length === 0) return NO_FILES;
  const numbers: number[] = [];
  for (const file of files) {
    const found = statSync(file, { throwIfNoEntry: false });
    if (found === undefined || Date.now() - Math.max(found.mtimeMs, found.ctimeMs) < TOO_FRESH) return UNKNOWN;
    numbers.push(found.size, found.mtimeMs, found.ctimeMs, found.ino, found.dev, hides(file, folder) ? 1 : 0);
  }
  return hash64(new Uint8Array(Float64Array.from(numbers).buffer)) | 2n; // neither UNKNOWN nor NO_FILES
}

/** Whether another file would be found instead of `file` now: the one of that path beside the data file. */
function hides(file: string, folder: string): boolean {
  if (file.startsWith(folder + sep)) return false;
  const path = relative(process.cwd(), file);
  if (isAbsolute(path) || path.startsWith('..')) return false;
  return statSync(join(folder, path), { throwIfNoEntry: false }) !== undefined;
}

/** What is remembered of a record besides numbers. */
export interface RecordLine {
  readonly traits: RecordTraits;
  readonly files: readonly string[];
}

/** Between the parts of a line; text cannot have it unescaped, and a path that has it is not remembered. */
const [PART, FILE, NEWLINE] = ['\u0001', '\0', '\n'];

/** Traits and files of a record as one line of text; null: no line can hold them. Files below `folder` are written relative to it. */
export function writeLine({ traits, files }: RecordLine, folder: string): string | null {
  const { pictures, missesPicture, notLearned, unread } = traits;
  const paths = files.map((file) => (file.startsWith(folder + sep) ? file.slice(folder.length + 1) : file));
  if (paths.some((path) => path.includes(NEWLINE) || path.includes(PART))) return null;
  return `${JSON.stringify([pictures, missesPicture, notLearned, unread])}${PART}${paths.join(FILE)}`;
}

/** What a line says; null: nothing. */
export function readLine(line: string, folder: string): RecordLine | null {
  const end = line.indexOf(PART);
  if (end === -1) return null;
  const tail = line.slice(end + 1);
  const files = tail === '' ? [] : tail.split(FILE).map((file) => (isAbsolute(file) ? file : folder + sep + file));
  return { traits: traitsIn(line.slice(0, end)), files };
}

/** Most kinds of traits that are kept parsed. */
const KINDS = 1000;
/** Traits by their text: most records of a file have the same. */
const parsed = new Map<string, RecordTraits>();

function traitsIn(head: string): RecordTraits {
  const known = parsed.get(head);
  if (known !== undefined) return known;
  const [pictures, missesPicture, notLearned, unread] = JSON.parse(head) as [number, boolean, number, string[]];
  const traits = { pictures, missesPicture, notLearned, unread };
  if (parsed.size < KINDS) parsed.set(head, traits);
  return traits;
}
