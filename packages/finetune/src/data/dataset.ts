/**
 * The data of a run: its files as one list of records. With random access. Reading is cheap to share: `index` is plain
 * data and shared memory, from which every worker thread makes its own `Dataset` on the same files.
 */
import { createHash } from 'node:crypto';
import { UserError } from '@minicpm-finetune/run';
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
  readonly #starts: readonly number[];

  readonly files: readonly RecordFile[];

  private constructor(files: readonly RecordFile[]) {
    this.files = files;
    this.sizes = files.map((file) => file.records);
    let length = 0;
    this.#starts = this.sizes.map((size) => {
      length += size;
      return length - size;
    });
    this.length = length;
  }

  /**
   * Opens and indexes the files that `flag` names. Throws UserError for the first that is not a data file. `notice` gets a message for everything
   * odd that works, once each.
   */
  static async open(paths: readonly string[], notice: Notice, flag = '--data_path'): Promise<Dataset> {
    if (paths.length === 0)
      throw new UserError('Expected at least one data file but received none.', {
        flag,
        cure: 'Give a JSON, JSON Lines or parquet file.',
      });
    const files: RecordFile[] = [];
    const once = saidOnce(notice);
    for (const path of paths) files.push(await RecordFile.open(path, once, flag));
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

  /** The file and place of record `index` of the whole data. */
  place(index: number): RecordPlace {
    const { file, record } = this.#find(index);
    return file.place(record);
  }

  /** The index of a place; undefined: not of these data. */
  indexOf(file: string, record: number): number | undefined {
    const number = this.files.findIndex(({ index }) => index.path === file);
    return number === -1 ? undefined : this.#starts[number]! + record;
  }

  /** The folder of the file of record `index`: where relative paths of its pictures begin. */
  folder(index: number): string {
    return this.#find(index).file.folder;
  }

  /** Record `index` of the whole data (0 … length-1). Throws UserError with file, record, line and turn. */
  read(index: number): Promise<DataRecord> {
    const { file, record } = this.#find(index);
    return file.read(record);
  }

  async close(): Promise<void> {
    for (const file of this.files) await file.close();
  }

  #find(index: number): { file: RecordFile; record: number } {
    let number = this.#starts.length - 1;
    while (this.#starts[number]! > index) number--;
    return { file: this.files[number]!, record: index - this.#starts[number]! };
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
