/** The runs that were opened lately, with all their events. */
import { lstatSync } from 'node:fs';
import type { KnownRun } from './known-run.js';
import { RunRecord } from './run-record.js';

/** A run of 100 000 steps takes about 20 MB. */
const KEPT = 8;

interface Kept {
  readonly record: RunRecord;
  readonly inode: number;
}

export class Records {
  readonly #kept = new Map<string, Kept>();

  /** What is known of a run up to now. */
  of(run: KnownRun): RunRecord {
    const status = lstatSync(run.eventsFile, { throwIfNoEntry: false });
    const kept = this.#kept.get(run.id);
    const [size, inode] = status?.isFile() ? [status.size, status.ino] : [0, 0];
    const isSame = kept !== undefined && kept.inode === inode && kept.record.offset <= size;
    const record = isSame ? kept.record : new RunRecord();
    this.#kept.delete(run.id);
    this.#kept.set(run.id, { record, inode });
    if (this.#kept.size > KEPT) this.#kept.delete(this.#kept.keys().next().value!);
    if (size > 0) record.read(run.eventsFile, size);
    return record;
  }
}
