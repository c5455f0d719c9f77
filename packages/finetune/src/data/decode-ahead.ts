/**
 * Decodes beside the training what was not decoded before. In one thread that takes the time nothing else wants, so
 * that a damaged picture is found long before its record's turn. What is decoded is entered into what is known of the data.
 */
import { UserError } from '@minicpm-finetune/run';
import type { Dataset } from './dataset.js';
import { EncodePool } from './encode-pool.js';
import type { EncoderSetup } from './encoder.js';
import { UNKNOWN } from './identity.js';
import { inOrder, type Range } from './in-order.js';

export interface DecodeAheadOptions {
  readonly dataset: Dataset;
  readonly encoder: EncoderSetup;
  /** Hashes of the content of decoded pictures: those `UNKNOWN` are decoded and entered. Shape: (records) */
  readonly contents: BigUint64Array;
  /** Which records, in which order. */
  readonly order: Iterable<number>;
  /** Is told of each bad record. What it throws ends the work. */
  readonly onBad: (index: number, error: UserError) => void;
}

/** Records under way. */
const AHEAD = 4;

export class DecodeAhead {
  /** What ended the work before it was done: an error of `onBad`, or of the data as a whole. */
  failure: unknown = null;
  #closed = false;
  readonly #pool: Promise<EncodePool<'decode'>>;
  readonly #done: Promise<void>;

  /** Starts the thread, and does not wait for it: what it cannot read is a `failure`. */
  constructor(options: DecodeAheadOptions) {
    const setup = { dataset: options.dataset.index, encoder: options.encoder, idle: true };
    this.#pool = EncodePool.open('decode', setup, 1, () => {});
    this.#done = this.#work(options).catch((error: unknown) => {
      if (!this.#closed) this.failure = error;
    });
  }

  /** Settles when all is decoded, or the work has ended with a failure. */
  get done(): Promise<void> {
    return this.#done;
  }

  async close(): Promise<void> {
    this.#closed = true;
    const pool = await this.#pool.catch(() => null); // its error is the failure
    await pool?.close();
  }

  async #work({ order, contents, onBad }: DecodeAheadOptions): Promise<void> {
    function* open(): Generator<Range> {
      for (const index of order) if (contents[index] === UNKNOWN) yield [index, 1];
    }
    for await (const [[index], outcome] of inOrder(await this.#pool, open(), AHEAD)) {
      if (this.#closed) return;
      if (outcome.ok) contents[index] = outcome.value;
      else onBad(index, UserError.fromData(outcome.error));
    }
  }
}
