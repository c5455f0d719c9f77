/**
 * Micro-batches of encoded samples, prepared ahead. Worker threads prepare them before the training step needs them.
 * The order is the sampler's and does not depend on the number of threads; memory is bounded by the number of
 * micro-batches made ahead. Tensors are made later, by the collator.
 */
import type { EncodedSample, EncodeNotice } from '@minicpm-finetune/processor';
import { UserError } from '@minicpm-finetune/run';
import { type BadRecordPolicy, BadRecords } from './bad-records.js';
import type { Dataset, Notice } from './dataset.js';
import { defaultThreads, EncodePool } from './encode-pool.js';
import type { Outcome, TrainingSample } from './encode-task.js';
import type { EncoderSetup } from './encoder.js';
import type { StepPlan, StepSource } from './sampler.js';

export interface LoaderOptions {
  readonly dataset: Dataset;
  readonly sampler: StepSource;
  /** Settings of the encoding. */
  readonly encoder: EncoderSetup;
  /** First optimizer step to deliver (a resumed run's step count). */
  readonly startStep: number;
  /** One past the last optimizer step. */
  readonly endStep: number;
  /** Worker threads; 0: encode in this thread, when a batch is asked for; null: sized to the machine. */
  readonly threads: number | null;
  /** Micro-batches made ahead per thread; null: 2. */
  readonly prefetchFactor: number | null;
  readonly badRecords: BadRecordPolicy;
  /** Indices of the records known to be bad; those that are found are added. */
  readonly knownBad?: number[];
  readonly notice: Notice;
  /** Gets each record that a micro-batch waits for, by its index, with the step. */
  readonly onWait?: (index: number, step: number) => void;
}

/** One forward pass of one rank. */
export interface MicroBatch {
  /** Optimizer step, counted over all epochs from 0. */
  readonly step: number;
  readonly epoch: number;
  /** Records of the epoch that all ranks have used once this step is done. */
  readonly position: number;
  /** Which micro-batch of the step, of how many. */
  readonly micro: number;
  readonly micros: number;
  /** Without the records that were left out, as bad or (--overlong drop) as too long: may be empty. */
  readonly samples: readonly EncodedSample[];
  /** Index into the data of each sample. */
  readonly indices: readonly number[];
  /** Hash of the content of each sample's pictures (identity.ts). */
  readonly contents: readonly bigint[];
}

interface Planned {
  readonly plan: StepPlan;
  readonly micro: number;
}

interface Pending extends Planned {
  readonly outcomes: readonly Promise<Outcome<TrainingSample>>[];
  /** Samples that are encoded already. */
  readonly encoded: EncodedSample[];
}

export class Loader implements AsyncIterable<MicroBatch> {
  /** Seconds in which the consumer waited for the next micro-batch. */
  dataWaitSeconds = 0;
  readonly bad: BadRecords;
  /** Records that were cut, sliced less, left out for their length, or whose animation was reduced to a frame: indices by kind. */
  readonly noticed = new Map<EncodeNotice['kind'], Set<number>>();
  readonly #queue: Pending[] = [];
  readonly #upcoming: Iterator<Planned>;

  readonly #options: LoaderOptions;
  readonly #pool: EncodePool<'sample'>;
  readonly #ahead: number;

  private constructor(options: LoaderOptions, pool: EncodePool<'sample'>, ahead: number) {
    this.#options = options;
    this.#pool = pool;
    this.#ahead = ahead;
    this.bad = new BadRecords(options.badRecords, options.dataset.length, options.knownBad);
    this.#upcoming = microBatches(options);
  }

  /** Starts the threads. Throws UserError if the tokenizer or the data cannot be loaded. */
  static async open(options: LoaderOptions): Promise<Loader> {
    const threads = options.threads ?? defaultThreads();
    const setup = { dataset: options.dataset.index, encoder: options.encoder };
    const pool = await EncodePool.open('sample', setup, threads, options.notice);
    return new Loader(options, pool, threads * (options.prefetchFactor ?? 2));
  }

  /** Records being encoded or waiting to be used: never more than the micro-batches made ahead, and the one in use. */
  get outstanding(): number {
    return this.#queue.reduce((sum, { outcomes }) => sum + outcomes.length, 0);
  }

  /** Samples of the next step that are encoded already, of the micro-batches not delivered. They stay where they are. */
  get encodedNext(): EncodedSample[] {
    const next = this.#queue[0]?.plan.step;
    return this.#queue.filter(({ plan }) => plan.step === next).flatMap(({ encoded }) => encoded);
  }

  /** Delivers the micro-batches of all steps in order. Throws UserError for a bad record (see BadRecordPolicy), Error if a thread dies. */
  async *[Symbol.asyncIterator](): AsyncGenerator<MicroBatch> {
    for (;;) {
      const asked = performance.now();
      this.#fill(Math.max(1, this.#ahead));
      const next = this.#queue.shift();
      if (!next) return;
      const batch = await this.#finish(next);
      this.#fill(this.#ahead); // so that the threads have work while the step runs
      this.dataWaitSeconds += (performance.now() - asked) / 1000;
      yield batch;
    }
  }

  /** Ends the threads. */
  async close(): Promise<void> {
    await this.#pool.close();
  }

  #fill(count: number): void {
    while (this.#queue.length < count) {
      const next = this.#upcoming.next();
      if (next.done) return;
      const { plan, micro } = next.value;
      const outcomes = plan.batches[micro]!.map((index) => this.#pool.run(index));
      const encoded: EncodedSample[] = [];
      const note = (outcome: Outcome<TrainingSample>): void => {
        if (outcome.ok && outcome.value.sample !== null) encoded.push(outcome.value.sample);
      };
      for (const outcome of outcomes) outcome.then(note, () => {}); // a dead thread is reported when its batch's turn comes
      this.#queue.push({ plan, micro, outcomes, encoded });
    }
  }

  async #finish({ plan, micro, outcomes }: Pending): Promise<MicroBatch> {
    const samples: EncodedSample[] = [];
    const indices: number[] = [];
    const contents: bigint[] = [];
    for (const [i, pending] of outcomes.entries()) {
      const index = plan.batches[micro]![i]!;
      this.#options.onWait?.(index, plan.step);
      const outcome = await pending;
      if (!outcome.ok) {
        this.bad.add(index, UserError.fromData(outcome.error));
        continue;
      }
      for (const notice of outcome.notices) this.#note(index, notice);
      const { sample, content } = outcome.value;
      if (sample === null) continue;
      samples.push(sample);
      indices.push(index);
      contents.push(content);
    }
    const { step, epoch, batches } = plan;
    const position = plan.position + this.#options.sampler.recordsIn(step);
    return { step, epoch, position, micro, micros: batches.length, samples, indices, contents };
  }

  /** Counts the changes of a record, and reports the first of each kind. */
  #note(index: number, { kind, message }: EncodeNotice): void {
    let indices = this.noticed.get(kind);
    if (!indices) {
      indices = new Set();
      this.noticed.set(kind, indices);
      const { file, record } = this.#options.dataset.place(index);
      this.#options.notice(
        `${file}, record ${record}: ${message} Further records of this kind are counted, not named; check-data lists them.`,
      );
    }
    indices.add(index);
  }
}

function* microBatches({ sampler, startStep, endStep }: LoaderOptions): Generator<Planned> {
  for (let step = startStep; step < endStep; step++) {
    const plan = sampler.plan(step);
    for (let micro = 0; micro < plan.batches.length; micro++) yield { plan, micro };
  }
}
