/**
 * Log-probabilities of answers under a reference, on disk. One file for each data set and reference, in the user's cache
 * folder; records are appended as they are computed, so what was stopped is gone on with. An entry holds while the record's
 * pictures are as they were.
 *
 *     entry   44 bytes: index (4), pictures' content (8), stamp of their files (8), two log-probabilities (8 each), record's text (4), CRC-32 (4)
 */
import { appendFileSync, mkdirSync, readFileSync, truncateSync } from 'node:fs';
import { join } from 'node:path';
import { crc32 } from 'node:zlib';
import { UserError } from '@minicpm-finetune/run';
import type { Dataset } from './dataset.js';
import { UNKNOWN } from './identity.js';

const ENTRY = 44;
const CHECKED = ENTRY - 4;

/** What is known of the records of a data set, as far as it is needed here. Shapes: (records) */
export interface KnownPictures {
  readonly texts: BigUint64Array;
  readonly stamps: BigUint64Array;
  readonly contents: BigUint64Array;
}

/** One record's answers under the reference. */
export interface ReferenceEntry {
  readonly index: number;
  /** Hash of the content of its pictures. */
  readonly content: bigint;
  readonly logProbs: readonly [number, number];
}

export class ReferenceLog {
  readonly #dataset: Dataset;
  readonly #values: Float64Array;
  readonly #contents: BigUint64Array;

  constructor(dataset: Dataset) {
    this.#dataset = dataset;
    this.#values = new Float64Array(2 * dataset.length).fill(Number.NaN);
    this.#contents = new BigUint64Array(dataset.length);
  }

  /** Indices of the records that have no log-probabilities. */
  missing(): number[] {
    return Array.from(this.#contents, (_, i) => i).filter((i) => Number.isNaN(this.#values[2 * i]));
  }

  /** The entries that there are. */
  entries(): ReferenceEntry[] {
    return Array.from(this.#contents, (content, index) => ({ index, content, logProbs: this.#of(index) })).filter(
      ({ logProbs }) => !Number.isNaN(logProbs[0]),
    );
  }

  add({ index, content, logProbs }: ReferenceEntry): void {
    this.#values.set(logProbs, 2 * index);
    this.#contents[index] = content;
  }

  #of(index: number): [number, number] {
    return [this.#values[2 * index]!, this.#values[2 * index + 1]!];
  }

  /**
   * The log-probabilities of records whose pictures have these contents.
   *
   * @throws UserError for one whose pictures were changed since
   */
  of(indices: readonly number[], contents: readonly bigint[]): [number, number][] {
    return indices.map((index, k) => {
      const found = this.#of(index);
      if (!Number.isNaN(found[0]) && this.#contents[index] === contents[k]) return found;
      const what = Number.isNaN(found[0]) ? 'was not there' : 'had other pictures';
      throw new UserError(
        `Expected the record as it was when its log-probabilities under the reference were computed but it ${what} then.`,
        {
          ...this.#dataset.place(index),
          flag: '--precompute_ref',
          cure: 'Start the training again: what was changed is computed again then.',
        },
      );
    });
  }
}

/** The file of a log. */
export class ReferenceFile {
  readonly path: string;
  readonly #folder: string;
  readonly #known: KnownPictures;

  constructor(folder: string, key: string, known: KnownPictures) {
    this.#folder = folder;
    this.path = join(folder, key);
    this.#known = known;
  }

  /** Adds the entries that still hold to a log. What was torn at the end of the file is cut off. */
  read(log: ReferenceLog): void {
    let bytes: Buffer;
    try {
      bytes = readFileSync(this.path);
    } catch {
      return; // not there: to be computed
    }
    let at = 0;
    for (; at + ENTRY <= bytes.length; at += ENTRY) {
      const entry = bytes.subarray(at, at + ENTRY);
      if (entry.readUInt32LE(CHECKED) !== crc32(entry.subarray(0, CHECKED))) break;
      const index = entry.readUInt32LE(0);
      const content = entry.readBigUInt64LE(4);
      if (!this.#holds(index, content, entry)) continue;
      log.add({ index, content, logProbs: [entry.readDoubleLE(20), entry.readDoubleLE(28)] });
    }
    if (at < bytes.length) truncateSync(this.path, at);
  }

  #holds(index: number, content: bigint, entry: Buffer): boolean {
    const { texts, stamps, contents } = this.#known;
    if (index >= texts.length || entry.readUInt32LE(36) !== shortOf(texts[index]!)) return false;
    const stamp = entry.readBigUInt64LE(12);
    return (stamp !== UNKNOWN && stamp === stamps[index]) || content === contents[index];
  }

  append(entries: readonly ReferenceEntry[]): void {
    const { texts, stamps } = this.#known;
    const bytes = Buffer.concat(
      entries.map(({ index, content, logProbs }) => {
        const entry = Buffer.alloc(ENTRY);
        entry.writeUInt32LE(index, 0);
        entry.writeBigUInt64LE(content, 4);
        entry.writeBigUInt64LE(stamps[index]!, 12);
        entry.writeDoubleLE(logProbs[0], 20);
        entry.writeDoubleLE(logProbs[1], 28);
        entry.writeUInt32LE(shortOf(texts[index]!), 36);
        entry.writeUInt32LE(crc32(entry.subarray(0, CHECKED)), CHECKED);
        return entry;
      }),
    );
    mkdirSync(this.#folder, { recursive: true });
    appendFileSync(this.path, bytes);
  }
}

const shortOf = (text: bigint): number => Number(text & 0xffff_ffffn);
