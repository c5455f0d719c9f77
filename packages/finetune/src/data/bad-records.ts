/**
 * What happens to a record that cannot be used. The run stops, or (`--on_bad_record skip`) the record is counted,
 * written to a report and left out, until too many are bad. A bad record is never replaced by another one.
 */
import { appendFileSync } from 'node:fs';
import { UserError, type UserErrorData } from '@minicpm-finetune/run';

export interface BadRecordPolicy {
  readonly onBadRecord: 'stop' | 'skip';
  /** Share of all records, 0 to 1; more bad ones end the run. */
  readonly maxBadFraction: number;
  /** JSON Lines file to which bad records are appended; undefined: none. */
  readonly reportFile: string | undefined;
}

/** A record that was found to be bad, for other ranks. */
export interface FoundBad {
  readonly index: number;
  readonly error: UserErrorData;
}

export class BadRecords {
  readonly #known: Set<number>;
  #found: FoundBad[] = [];

  readonly #policy: BadRecordPolicy;
  readonly #records: number;
  readonly indices: number[];

  /**
   * @param indices of the records known to be bad, into the whole data; those that are found are added. A resumed run passes those of its
   * checkpoint, and neither counts nor reports them again.
   */
  constructor(policy: BadRecordPolicy, records: number, indices: number[] = []) {
    this.#policy = policy;
    this.#records = records;
    this.indices = indices;
    this.#known = new Set(indices);
  }

  /** Takes note of bad record `index`. Throws the error itself under `stop`, and under `skip` when the limit is passed. */
  add(index: number, error: UserError): void {
    if (this.#policy.onBadRecord === 'stop') throw withCure(error);
    if (this.#known.has(index)) return;
    this.#known.add(index);
    this.indices.push(index);
    this.#found.push({ index, error: error.toData() });
    if (this.#policy.reportFile !== undefined) {
      appendFileSync(this.#policy.reportFile, `${JSON.stringify({ index, ...error.toData() })}\n`);
    }
    const limit = this.#policy.maxBadFraction * this.#records;
    if (this.#known.size > limit) {
      const report = this.#policy.reportFile === undefined ? '' : ` All of them are in ${this.#policy.reportFile}.`;
      throw new UserError(
        `Expected at most ${percent(this.#policy.maxBadFraction)} of ${this.#records} records to be bad but received ${this.#known.size} bad ones (${percent(this.#known.size / this.#records)}); the last: ${error.message}`,
        {
          ...error.details(),
          flag: '--max_bad_fraction',
          cure: `Repair the records (check-data lists all of them) or raise --max_bad_fraction.${report}`,
          cause: error,
        },
      );
    }
  }

  /** The records found since the last call. */
  takeFound(): FoundBad[] {
    const found = this.#found;
    this.#found = [];
    return found;
  }
}

function withCure(error: UserError): UserError {
  const cure = `${error.cure ?? 'Repair or remove the record.'} Or leave bad records out with --on_bad_record skip. check-data lists all of them.`;
  return new UserError(error.message, { ...error.details(), cure, cause: error });
}

function percent(share: number): string {
  return `${Number((share * 100).toPrecision(3))} %`;
}
