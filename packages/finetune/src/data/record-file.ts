/**
 * One data file with random access to its records. The format (JSON array, JSON Lines, parquet) is recognised from the
 * bytes, never from the name; the form of a record (forms.ts) from the record.
 */
import { closeSync, openSync, readSync, statSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { basename, dirname, resolve } from 'node:path';
import {
  contentOfOpen,
  excerpt,
  fileKind,
  findEncodingMistake,
  notUtf8,
  pathCure,
  shown,
  shownNames,
  shownPath,
  UserError,
  wideEncoding,
} from '@minicpm-finetune/run';
import { bringsTurns } from './compared.js';
import { FIRST_FORM_NAMES, normalizeRecord, recognizeForm } from './forms.js';
import { ImageResolver, isObject } from './images.js';
import { parseRecord } from './json-record.js';
import { type RecordOffsets, scanJson } from './json-scan.js';
import { columnOf } from './json-structure.js';
import { ParquetFile } from './parquet.js';
import type { DataRecord, RecordPlace } from './record.js';
import { type FileStamp, fileStamp, openAgain, UnchangedFile } from './unchanged.js';

type Container = 'JSON array' | 'JSON Lines' | 'parquet';

/** All that another thread needs to read the file: plain data and shared memory. */
export interface RecordFileIndex {
  /** As the user wrote it. */
  readonly path: string;
  readonly container: Container;
  /** Of the first record; others may have another. */
  readonly form: keyof typeof FIRST_FORM_NAMES;
  readonly records: number;
  /** Bytes of the file when it was indexed. */
  readonly bytes: number;
  /** SHA-256 of the file, hexadecimal. */
  readonly fingerprint: string;
  /** Its state just before it was read for the first time. */
  readonly stamp: FileStamp;
  /** Absent for parquet. */
  readonly offsets: RecordOffsets | undefined;
}

export class RecordFile {
  #fd: number | undefined;
  #parquet: Promise<ParquetFile> | undefined;
  readonly #resolver: ImageResolver;
  readonly #unchanged: UnchangedFile;
  readonly #notice: (message: string) => void;

  readonly index: RecordFileIndex;
  /** Absolute. */
  readonly folder: string;

  private constructor(index: RecordFileIndex, notice: (message: string) => void) {
    this.index = index;
    this.folder = dirname(resolve(index.path));
    this.#notice = notice;
    this.#resolver = new ImageResolver(index.path, notice);
    this.#unchanged = new UnchangedFile(index.path, index.stamp, index.fingerprint);
  }

  /** Indexes a file that `flag` names. Throws UserError for everything that is not a data file with at least one record. */
  static async open(path: string, notice: (message: string) => void, flag: string): Promise<RecordFile> {
    const stamp = checkFile(path, flag);
    const bytes = stamp.size;
    const { container, start } = await recognizeContainer(path, bytes);
    const found =
      container === 'parquet'
        ? await indexParquet(path, bytes, notice)
        : await indexJson(path, container, start, bytes);
    const raw = { ...found, stamp };
    if (raw.records === 0)
      throw new UserError(`Expected at least one record in a data file but received an empty ${container}.`, {
        file: path,
      });
    const file = new RecordFile({ ...raw, form: 'seed' }, notice);
    try {
      const form = recognizeForm(await file.#raw(0), file.place(0));
      return new RecordFile({ ...raw, form }, notice);
    } finally {
      await file.close();
    }
  }

  /** The same file in another thread. */
  static restore(index: RecordFileIndex, notice: (message: string) => void): RecordFile {
    return new RecordFile(index, notice);
  }

  get records(): number {
    return this.index.records;
  }

  /** One line for people: "JSON Lines, 2000 records, the first in the seed form (…)". */
  describe(): string {
    const { container, records, form } = this.index;
    return `${container}, ${records === 1 ? '1 record in' : `${records} records, the first in`} ${FIRST_FORM_NAMES[form]}`;
  }

  place(record: number): RecordPlace {
    const line = this.index.offsets?.lines[record];
    return { file: this.index.path, record, ...(line === undefined ? {} : { line }) };
  }

  /** Record `record`, checked and with its images found. Throws UserError with file, record, line and turn. */
  async read(record: number): Promise<DataRecord> {
    return normalizeRecord(await this.#raw(record), this.place(record), this.#resolver);
  }

  async close(): Promise<void> {
    if (this.#fd !== undefined) closeSync(this.#fd);
    this.#fd = undefined;
    await (await this.#parquet)?.close();
    this.#parquet = undefined;
  }

  async #raw(record: number): Promise<unknown> {
    const { path, offsets } = this.index;
    this.#fd ??= openAgain(path);
    this.#unchanged.check(this.#fd);
    if (!offsets) {
      this.#parquet ??= ParquetFile.open(path);
      return (await this.#parquet).read(record);
    }
    const [fd, start] = [this.#fd, offsets.starts[record]!];
    return parseRecord(readBytes(fd, start, offsets.lengths[record]!), this.place(record), {
      column: () => columnOf(fd, start),
      onNaN: () =>
        this.#notice(`${shownPath(path)} has NaN or Infinity, which JSON does not have; they are read as null.`),
    });
  }
}

/** The file and its state. */
function checkFile(path: string, flag: string): FileStamp {
  const stat = statSync(path, { throwIfNoEntry: false });
  if (!stat)
    throw new UserError(`Expected a data file but there is no ${shown(path)}.`, {
      file: path,
      flag,
      cure: pathCure(path, `Paths are relative to the working folder, here ${shownPath(process.cwd())}.`),
    });
  if (!stat.isFile())
    throw new UserError(
      `Expected a data file but received ${stat.isDirectory() ? 'a folder' : 'something that is not a file'}.`,
      {
        file: path,
        flag,
        cure: 'Name the JSON, JSON Lines or parquet file itself, or several of them.',
      },
    );
  if (stat.size === 0)
    throw new UserError('Expected at least one record in a data file but the file is empty (0 bytes).', { file: path });
  return fileStamp(stat);
}

const CONTAINERS = 'a JSON array, JSON Lines or parquet';

async function recognizeContainer(path: string, bytes: number): Promise<{ container: Container; start: number }> {
  const handle = await open(path);
  const head = Buffer.alloc(Math.min(bytes, 1 << 16));
  try {
    await handle.read(head, 0, head.length, 0);
  } finally {
    await handle.close();
  }
  if (head.subarray(0, 4).toString('latin1') === 'PAR1') return { container: 'parquet', start: 0 };
  const encoding = wideEncoding(head) === undefined ? undefined : findEncodingMistake(head);
  if (encoding !== undefined) throw notUtf8(encoding, 'a data file', { file: path });
  const start = head.subarray(0, 3).equals(Buffer.from([0xef, 0xbb, 0xbf])) ? 3 : 0;
  const first = /[^ \t\r\n]/.exec(head.toString('latin1', start))?.[0];
  if (first === '[') return { container: 'JSON array', start };
  if (first === '{') return { container: 'JSON Lines', start };
  throw notData(path, head.subarray(start));
}

/** The error for a file that starts as none of the containers. */
function notData(path: string, head: Buffer): UserError {
  const kind = fileKind(head);
  const text = head.toString('utf8').trimStart();
  const foreign = text !== '' && text.codePointAt(0)! > 0x7e && kind?.group === 'text';
  const what =
    text === ''
      ? 'only white space'
      : foreign
        ? `a file that starts with ${excerpt(text, 0)}`
        : kind === undefined || kind.group === 'text'
          ? `a file that starts with ${shown(text.slice(0, 40))}`
          : kind.what;
  return new UserError(`Expected ${CONTAINERS} for a data file but received ${what}.`, {
    file: path,
    ...(kind === undefined || kind.group === 'text' ? { line: 1 } : {}),
    cure: kind?.cure ?? 'A JSON array starts with [, JSON Lines with {. Convert the file to one of them.',
  });
}

type Unformed = Omit<RecordFileIndex, 'form' | 'stamp'>;

async function indexParquet(path: string, bytes: number, notice: (message: string) => void): Promise<Unformed> {
  const file = await ParquetFile.open(path);
  try {
    const megabytes = file.largestGroupBytes / 2 ** 20;
    if (megabytes > 64)
      notice(
        `${shownPath(path)} has row groups of up to ${megabytes.toFixed(0)} MiB; each is decoded to read one record. Reading is much faster from a file written with row_group_size=100.`,
      );
    return {
      path,
      container: 'parquet',
      records: file.rows,
      bytes,
      fingerprint: await hashOf(path),
      offsets: undefined,
    };
  } finally {
    await file.close();
  }
}

async function hashOf(path: string): Promise<string> {
  const handle = await open(path);
  try {
    return contentOfOpen(handle.fd).sha256;
  } finally {
    await handle.close();
  }
}

async function indexJson(
  path: string,
  container: 'JSON array' | 'JSON Lines',
  start: number,
  bytes: number,
): Promise<Unformed> {
  if (container === 'JSON Lines') checkFirstLine(path, start, bytes);
  const { sha256, ...offsets } = await scanJson(path, container === 'JSON array' ? 'array' : 'lines', start);
  return { path, container, records: offsets.starts.length, bytes, fingerprint: sha256, offsets };
}

const isRecord = (value: object): boolean =>
  'conversations' in value || 'messages' in value || bringsTurns(Object.keys(value));

const LARGEST_OBJECT_SHOWN = 64 * 2 ** 20;

/** A file that starts with { is JSON Lines, unless it is one JSON object, over several lines or around the records: then says so. */
function checkFirstLine(path: string, start: number, bytes: number): void {
  if (bytes > LARGEST_OBJECT_SHOWN) return;
  const fd = openSync(path, 'r');
  const text = readBytes(fd, start, bytes - start).toString('utf8');
  closeSync(fd);
  let whole: unknown;
  try {
    whole = JSON.parse(text);
  } catch {
    return; // several lines, or broken: the scan and the first record tell
  }
  if (!isObject(whole) || (!text.trim().includes('\n') && isRecord(whole))) return;
  const list = Object.entries(whole).find(
    ([, value]) => Array.isArray(value) && isObject(value[0]) && isRecord(value[0]),
  );
  throw new UserError(
    `Expected ${CONTAINERS} for a data file but received one JSON object with the keys ${shownNames(Object.keys(whole))}.`,
    {
      file: path,
      cure: list
        ? `Save the list under ${shown(list[0])} as the file: [ {record}, … ].`
        : `Put ${basename(path)}'s object in square brackets if it is a record: [ {…} ].`,
    },
  );
}

function readBytes(fd: number, start: number, length: number): Buffer {
  const buffer = Buffer.allocUnsafe(length);
  let filled = 0;
  while (filled < length) {
    const count = readSync(fd, buffer, filled, length - filled, start + filled);
    if (count === 0) break;
    filled += count;
  }
  return buffer.subarray(0, filled);
}
