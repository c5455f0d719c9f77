/** The runs that were opened lately, with all their events. */
import { lstatSync } from 'node:fs';
import { setImmediate as turn } from 'node:timers/promises';
import type { KnownRun } from './known-run.js';
import { RunRecord } from './run-record.js';

/** A run of 100 000 steps takes about 20 MB. */
const KEPT = 8;
/** Files that take longer to read than a person notices are read before they are asked for. */
const LARGE = 8 << 20;
const READ_BEFORE = 4;
/** Bytes that are read before others get their turn: some ten milliseconds. */
const PIECE = 2 << 20;

interface Kept {
  readonly record: RunRecord;
  readonly inode: number;
}

export class Records {
  readonly #kept = new Map<string, Kept>();

  /** What is known of a run up to now. */
  of(run: KnownRun): RunRecord {
    return this.#upTo(run, Number.POSITIVE_INFINITY);
  }

  /** Reads the large ones of the runs that changed last, so that they open at once. */
  async readBefore(runs: readonly KnownRun[]): Promise<void> {
    const large = runs.filter(({ digest }) => digest.offset > LARGE);
    const lately = large.sort((a, b) => (b.summary.updated ?? '').localeCompare(a.summary.updated ?? ''));
    for (const run of lately.slice(0, READ_BEFORE).reverse()) {
      for (let to = PIECE; to < run.digest.offset + PIECE; to += PIECE) {
        this.#upTo(run, to);
        await turn();
      }
    }
  }

  #upTo(run: KnownRun, most: number): RunRecord {
    const status = lstatSync(run.eventsFile, { throwIfNoEntry: false });
    const kept = this.#kept.get(run.id);
    const [size, inode] = status?.isFile() ? [status.size, status.ino] : [0, 0];
    const isSame = kept !== undefined && kept.inode === inode && kept.record.offset <= size;
    const record = isSame ? kept.record : new RunRecord();
    this.#kept.delete(run.id);
    this.#kept.set(run.id, { record, inode });
    if (this.#kept.size > KEPT) this.#kept.delete(this.#kept.keys().next().value!);
    if (size > 0) record.read(run.eventsFile, Math.min(size, most));
    return record;
  }
}
