/**
 * The data of a run: one or more files as one list of records with random access. Reading is cheap to share: `index` is plain data and
 * shared memory, from which every worker thread makes its own `Dataset` on the same files.
 */
import { createHash } from 'node:crypto';
import { expected, UserError } from '@minicpm-finetune/run';
import type { DataRecord, RecordPlace } from './record.js';
import { RecordFile, type RecordFileIndex } from './record-file.js';

export interface DatasetIndex {
  readonly files: readonly RecordFileIndex[];
}

export type Notice = (message: string) => void;

export class Dataset {
  /** Records of each file. */
  readonly sizes: readonly number[];
  readonly length: number;
  private readonly starts: readonly number[];

  private constructor(readonly files: readonly RecordFile[]) {
    this.sizes = files.map((file) => file.records);
    let length = 0;
    this.starts = this.sizes.map((size) => {
      length += size;
      return length - size;
    });
    this.length = length;
  }

  /** Opens and indexes the files. Throws UserError for the first that is not a data file. `notice` is told what is odd but works, once each. */
  static async open(paths: readonly string[], notice: Notice): Promise<Dataset> {
    if (paths.length === 0)
      throw new UserError('Expected at least one data file but received none.', {
        flag: '--data_path',
        cure: 'Give a JSON, JSON Lines or parquet file.',
      });
    const files: RecordFile[] = [];
    const once = saidOnce(notice);
    for (const path of paths) files.push(await RecordFile.open(path, once));
    return new Dataset(files);
  }

  /** The same data in another thread. */
  static restore(index: DatasetIndex, notice: Notice): Dataset {
    const once = saidOnce(notice);
    return new Dataset(index.files.map((file) => RecordFile.restore(file, once)));
  }

  get index(): DatasetIndex {
    return { files: this.files.map((file) => file.index) };
  }

  /** Changes whenever a file, its content or the order of the files does: a resumed run compares it. */
  get fingerprint(): string {
    const hash = createHash('sha256');
    for (const { index } of this.files) hash.update(index.fingerprint);
    return hash.digest('hex');
  }

  /** Where record `index` of the whole data stands. */
  place(index: number): RecordPlace {
    const { file, record } = this.find(index);
    return file.place(record);
  }

  /** Record `index` of the whole data (0 … length-1). Throws UserError with file, record, line and turn. */
  read(index: number): Promise<DataRecord> {
    const { file, record } = this.find(index);
    return file.read(record);
  }

  async close(): Promise<void> {
    for (const file of this.files) await file.close();
  }

  private find(index: number): { file: RecordFile; record: number } {
    let number = this.starts.length - 1;
    while (this.starts[number]! > index) number--;
    return { file: this.files[number]!, record: index - this.starts[number]! };
  }
}

/** Passes each message on the first time only. */
export function saidOnce(notice: Notice): Notice {
  const said = new Set<string>();
  return (message) => {
    if (said.has(message)) return;
    said.add(message);
    notice(message);
  };
}

/** Data files and their shares, as the configuration holds them. */
export interface DataPaths {
  readonly paths: string[];
  /** null: no shares given, every record comes once per epoch. */
  readonly weights: number[] | null;
}

/**
 * Reads `--data_path a.json:0.7,b.jsonl:0.3` (or a recipe's list of such strings). All files have a share or none has. A comma or colon that
 * is part of a path is kept where no share follows and `exists` knows the whole.
 */
export function parseDataPaths(
  value: string | readonly string[],
  exists: (path: string) => boolean,
  flag = '--data_path',
): DataPaths {
  const written = typeof value === 'string' ? (exists(value) ? [value] : value.split(',')) : [...value];
  const entries = written.map((entry) => parseEntry(entry.trim(), exists, flag));
  const weighted = entries.filter((entry) => entry.weight !== undefined);
  if (weighted.length > 0 && weighted.length < entries.length) {
    const without = entries.find((entry) => entry.weight === undefined)!.path;
    throw new UserError(`Expected a share for every data file or for none but received none for ${without}.`, {
      flag,
      cure: `Write ${without}:1 or leave all shares out.`,
    });
  }
  return {
    paths: entries.map((entry) => entry.path),
    weights: weighted.length > 0 ? weighted.map((entry) => entry.weight!) : null,
  };
}

function parseEntry(
  entry: string,
  exists: (path: string) => boolean,
  flag: string,
): { path: string; weight: number | undefined } {
  if (entry === '') throw expected('a data file', 'each part between commas', entry, { flag });
  const match = exists(entry) ? null : /^(.+):([^:/\\]*)$/.exec(entry);
  if (!match) return { path: entry, weight: undefined };
  const weight = Number(match[2]);
  if (match[2]!.trim() === '' || !(weight > 0 && weight < Infinity)) {
    throw expected('a positive number', `the share after ${match[1]}:`, match[2], {
      flag,
      cure: 'Shares are relative: a.json:0.7,b.jsonl:0.3 is the same as a.json:7,b.jsonl:3.',
    });
  }
  return { path: match[1]!, weight };
}
