/**
 * Remembers what was found out about records. The next start need not look at them again. One
 * file for each data set and way of encoding:
 *
 *     <folder>/<hash of the data files' content, tokenizer and settings>
 *
 * What is remembered of a record holds as long as the stamp of its picture files does (identity.ts). Files are written aside and renamed, so
 * processes may share the folder; a damaged one counts as absent. The folder is bounded: the files unused for longest go.
 */
import { createHash, randomBytes } from 'node:crypto';
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { crc32 } from 'node:zlib';
import { TOKENIZER_FILES } from '@minicpm-finetune/processor';
import { cacheFolder } from '@minicpm-finetune/run';
import { VERSION } from '../version.js';
import type { Dataset, Notice } from './dataset.js';
import type { EncoderSetup } from './encoder.js';
import type { Looked } from './look-range.js';

/** Of what is remembered and how it is found out: to be raised when either changes. */
const FORMAT = 1;
const LIMIT = 1 << 30;
/** Temporary files older than this were left by a process that died, in milliseconds. */
const STALE = 3_600_000;
/** Small data are read sooner than they are remembered: records of this number, at least. */
const LEAST_RECORDS = 512;
/** Bytes: check sum, number of records. */
const HEADER = 8;

/** Of all records: arrays of one entry each, and their lines. */
export type Remembered = Omit<Looked, 'bad'>;

export interface MemoryOptions {
  /** Absent: in the user's cache folder. */
  readonly folder?: string;
  /** Most bytes of the folder. Default: 1 GiB. */
  readonly limit?: number;
  /** Fewest records that are remembered. Default: 512. */
  readonly least?: number;
  readonly notice: Notice;
}

/** The name under which data are remembered: it changes with all that a look at them depends on, picture files aside. */
export function memoryKey(dataset: Dataset, { tokenizerFolder, ...setup }: EncoderSetup, what: string): string {
  const hash = createHash('sha256').update(
    JSON.stringify([FORMAT, VERSION, what, dataset.fingerprint, dataset.sizes, setup]),
  );
  for (const name of TOKENIZER_FILES) {
    const path = join(tokenizerFolder, name);
    hash.update(existsSync(path) ? readFileSync(path) : 'none');
  }
  return hash.digest('hex');
}

export class Memory {
  readonly #folder: string;
  readonly #limit: number;
  readonly #least: number;
  readonly #notice: Notice;

  constructor({
    folder = join(cacheFolder(), 'preflight'),
    limit = LIMIT,
    least = LEAST_RECORDS,
    notice,
  }: MemoryOptions) {
    this.#least = least;
    this.#folder = folder;
    this.#limit = limit;
    this.#notice = notice;
  }

  /** What is remembered of `records` records; null: nothing. */
  load(key: string, records: number): Remembered | null {
    const path = join(this.#folder, key);
    let bytes: Buffer;
    try {
      bytes = readFileSync(path);
      const now = new Date();
      utimesSync(path, now, now);
    } catch {
      return null; // not there, or not readable: to be found out
    }
    const arrays = HEADER + 28 * records;
    if (bytes.length < arrays || bytes.readUInt32LE(0) !== crc32(bytes.subarray(4))) return null;
    if (bytes.readUInt32LE(4) !== records) return null;
    let at = HEADER;
    const take = (size: number): ArrayBuffer => {
      const part = new Uint8Array(bytes.subarray(at, at + size * records));
      at += part.length;
      return part.buffer;
    };
    const hashes = () => new BigUint64Array(take(8));
    return {
      texts: hashes(),
      stamps: hashes(),
      contents: hashes(),
      lengths: new Uint32Array(take(4)),
      files: new Uint8Array(bytes.subarray(at)),
    };
  }

  /** Remembers. A failed write is told of, and is no error: what is not remembered is found out again. */
  store(key: string, { texts, stamps, contents, lengths, files }: Remembered): void {
    if (lengths.length < this.#least) return;
    const parts = [texts, stamps, contents, lengths, files].map(
      (array) => new Uint8Array(array.buffer, array.byteOffset, array.byteLength),
    );
    const header = Buffer.alloc(HEADER);
    header.writeUInt32LE(lengths.length, 4);
    const whole = Buffer.concat([header, ...parts]);
    whole.writeUInt32LE(crc32(whole.subarray(4)), 0);
    const path = join(this.#folder, key);
    const temporary = `${path}.${randomBytes(6).toString('hex')}.tmp`;
    try {
      mkdirSync(this.#folder, { recursive: true });
      try {
        writeFileSync(temporary, whole);
        renameSync(temporary, path);
      } finally {
        rmSync(temporary, { force: true });
      }
      this.#trim(key);
    } catch (error) {
      this.#notice(
        `What was checked of the data cannot be remembered in ${this.#folder}: ${(error as Error).message}. The next start checks it again.`,
      );
    }
  }

  /** Removes the files unused for longest until the folder is within its limit. `newest` stays. */
  #trim(newest: string): void {
    const found = readdirSync(this.#folder).flatMap((name) => {
      const status = statSync(join(this.#folder, name), { throwIfNoEntry: false });
      return status === undefined ? [] : [{ name, bytes: status.size, used: status.mtimeMs }];
    });
    let total = found.reduce((sum, { bytes }) => sum + bytes, 0);
    for (const { name, bytes, used } of found.sort((a, b) => a.used - b.used)) {
      const dead = name.endsWith('.tmp') && Date.now() - used > STALE;
      if (!dead && (total <= this.#limit || name === newest || name.endsWith('.tmp'))) continue;
      rmSync(join(this.#folder, name), { force: true });
      total -= bytes;
    }
  }
}
