/**
 * Reads records from parquet files. Images are embedded as bytes or given as paths. Columns that mean nothing are not
 * read, unless there is none for images. Decoding is hyparquet's. Whole row groups are decoded, and the last ones used
 * are kept, since a page cannot be found without reading the group.
 */
import { isUtf8 } from 'node:buffer';
import { type FileHandle, open } from 'node:fs/promises';
import { parseJson, shownNames, UserError } from '@minicpm-finetune/run';
import {
  type AsyncBuffer,
  type FileMetaData,
  parquetMetadataAsync,
  parquetReadObjects,
  parquetSchema,
} from 'hyparquet';
import { compressors } from 'hyparquet-compressors';
import { bringsTurns } from './compared.js';
import { hasMeaning } from './keys.js';

/** Columns that may hold their value as JSON text. */
const JSON_COLUMNS = ['conversations', 'messages', 'loss_mask'];
/** Columns that hold text, or turns as JSON text. */
const TEXT_OR_JSON = ['prompt', 'chosen', 'rejected', 'completion', 'rejected_messages'];
/** Decoded row groups kept by one thread, in uncompressed bytes; at least one is kept. */
const CACHE_BYTES = 256 * 2 ** 20;
const LARGEST_GROUP_BYTES = 2 ** 30;

/** How turns begin as JSON text. */
const TURNS = /^\s*\[?\s*\{\s*"(?:role|from|content|value)"\s*:/u;

interface Group {
  readonly start: number;
  readonly rows: number;
  readonly bytes: number;
}

/** What the footer told, and the file to read on. */
interface Opened {
  readonly handle: FileHandle;
  readonly buffer: AsyncBuffer;
  readonly metadata: FileMetaData;
  readonly columns: string[];
  readonly groups: readonly Group[];
}

export class ParquetFile {
  readonly #cache = new Map<number, Promise<Record<string, unknown>[]>>();

  readonly path: string;
  readonly #opened: Opened;

  private constructor(path: string, opened: Opened) {
    this.path = path;
    this.#opened = opened;
  }

  /** Reads the footer. Throws UserError for a damaged file, for one without the columns of a record, and for row groups that do not fit memory. */
  static async open(path: string): Promise<ParquetFile> {
    const handle = await open(path);
    try {
      const buffer = fileBuffer(handle, (await handle.stat()).size);
      const metadata = await parquetMetadataAsync(buffer).catch((cause: unknown) => {
        throw damaged(path, cause);
      });
      const names = parquetSchema(metadata).children.map((child) => child.element.name);
      if (!names.includes('conversations') && !names.includes('messages') && !bringsTurns(names)) {
        throw new UserError(
          `Expected a column conversations or messages in a parquet file but received ${names.length === 0 ? 'no columns' : `the columns ${shownNames(names)}`}.`,
          {
            file: path,
            cure: 'Rename the column that holds the turns; images belong into a column image or images.',
          },
        );
      }
      const pictures = names.includes('image') || names.includes('images');
      const columns = pictures ? names.filter(hasMeaning) : names;
      return new ParquetFile(path, { handle, buffer, metadata, columns, groups: rowGroups(metadata, path) });
    } catch (error) {
      await handle.close();
      throw error;
    }
  }

  get rows(): number {
    return this.#opened.groups.reduce((sum, group) => sum + group.rows, 0);
  }

  /** Uncompressed bytes of the largest row group: what reading one record at random costs. */
  get largestGroupBytes(): number {
    return Math.max(0, ...this.#opened.groups.map((group) => group.bytes));
  }

  /** Row `index` as an object of its columns. Throws UserError if the file is damaged there. */
  async read(index: number): Promise<Record<string, unknown>> {
    const number = this.#opened.groups.findIndex((group) => index < group.start + group.rows);
    const group = this.#opened.groups[number]!;
    let rows: Record<string, unknown>[];
    try {
      rows = await this.#group(number);
    } catch (cause) {
      throw damaged(this.path, cause, index);
    }
    const row = { ...rows[index - group.start] };
    for (const column of JSON_COLUMNS) {
      if (typeof row[column] === 'string') row[column] = parseColumn(row[column], column, this.path, index);
    }
    for (const column of TEXT_OR_JSON) {
      const text = row[column];
      if (typeof text === 'string' && TURNS.test(text)) row[column] = parseColumn(text, column, this.path, index);
    }
    return row;
  }

  async close(): Promise<void> {
    this.#cache.clear();
    await this.#opened.handle.close();
  }

  #group(number: number): Promise<Record<string, unknown>[]> {
    const cached = this.#cache.get(number);
    if (cached) {
      this.#cache.delete(number); // to the end: the first of the map is the longest unused
      this.#cache.set(number, cached);
      return cached;
    }
    const { start, rows } = this.#opened.groups[number]!;
    const { buffer, metadata, columns } = this.#opened;
    const read = parquetReadObjects({
      file: buffer,
      metadata,
      columns,
      rowStart: start,
      rowEnd: start + rows,
      compressors,
      parsers: PARSERS,
      utf8: false,
    });
    this.#cache.set(number, read);
    this.#evict();
    return read;
  }

  #evict(): void {
    let bytes = 0;
    for (const key of [...this.#cache.keys()].reverse()) {
      bytes += this.#opened.groups[key]!.bytes;
      if (bytes > CACHE_BYTES && bytes > this.#opened.groups[key]!.bytes) this.#cache.delete(key);
    }
  }
}

const UTF8 = new TextDecoder('utf-8', { fatal: true });

/**
 * Text of bytes. What is not UTF-8 (a text cut inside a character) becomes a lone surrogate for each byte, so that it is
 * found in its record and not learned as a replacement character.
 */
const PARSERS = {
  stringFromBytes(bytes: Uint8Array | undefined): string | undefined {
    if (bytes === undefined) return undefined;
    try {
      return UTF8.decode(bytes);
    } catch {
      return withSurrogates(bytes);
    }
  },
};

/** The longest sequence of a character in UTF-8. */
const LONGEST = 4;

function withSurrogates(bytes: Uint8Array): string {
  let text = '';
  let at = 0;
  while (at < bytes.length) {
    const lengths = Array.from({ length: Math.min(LONGEST, bytes.length - at) }, (_, i) => i + 1);
    const length = lengths.find((count) => isUtf8(bytes.subarray(at, at + count)));
    text +=
      length === undefined ? String.fromCharCode(0xdc00 + bytes[at]!) : UTF8.decode(bytes.subarray(at, at + length));
    at += length ?? 1;
  }
  return text;
}

function rowGroups(metadata: FileMetaData, path: string): Group[] {
  let start = 0;
  return metadata.row_groups.map((group, number) => {
    const rows = Number(group.num_rows);
    const bytes = Number(group.total_byte_size);
    if (bytes > LARGEST_GROUP_BYTES) {
      throw new UserError(
        `Expected row groups below 1 GiB in a parquet file but received ${(bytes / 2 ** 30).toFixed(1)} GiB for group ${number} (${rows} rows).`,
        {
          file: path,
          cure: 'Write the file with smaller row groups, for instance row_group_size=100 in pyarrow or pandas.',
        },
      );
    }
    start += rows;
    return { start: start - rows, rows, bytes };
  });
}

function fileBuffer(handle: FileHandle, byteLength: number): AsyncBuffer {
  return {
    byteLength,
    async slice(start: number, end: number = byteLength): Promise<ArrayBuffer> {
      const bytes = new Uint8Array(end - start);
      let filled = 0;
      while (filled < bytes.length) {
        const { bytesRead } = await handle.read(bytes, filled, bytes.length - filled, start + filled);
        if (bytesRead === 0) throw new Error(`the file ends at byte ${start + filled}`);
        filled += bytesRead;
      }
      return bytes.buffer;
    },
  };
}

function parseColumn(text: string, column: string, file: string, record: number): unknown {
  return parseJson(text, { what: `the column ${column}`, file, record, onNaN: () => {} });
}

function damaged(file: string, cause: unknown, record?: number): UserError {
  const reason = cause instanceof Error ? cause.message : String(cause);
  return new UserError(`Expected a complete parquet file but reading it failed: ${reason.slice(0, 200)}.`, {
    file,
    ...(record === undefined ? {} : { record }),
    cure: 'The file is probably cut off or damaged. Write or download it again.',
    cause,
  });
}
