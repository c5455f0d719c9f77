/**
 * Encodes records by index, in worker threads or here. With 0 threads it encodes in the calling thread. The loader and
 * check-data both use it. Results come back per index; the caller puts them in order.
 */
import { availableParallelism } from 'node:os';
import { Worker } from 'node:worker_threads';
import { UserError, type UserErrorData } from '@minicpm-finetune/run';
import { type Notice, saidOnce } from './dataset.js';
import {
  type EncodeTask,
  type Outcome,
  openTask,
  type TaskName,
  type TaskResults,
  type TaskSetup,
} from './encode-task.js';

/** The messages of a worker thread. */
export type WorkerMessage =
  | { readonly kind: 'ready' }
  | { readonly kind: 'failed'; readonly error: UserErrorData }
  | { readonly kind: 'notice'; readonly message: string }
  | { readonly kind: 'result'; readonly job: number; readonly outcome: Outcome<unknown> }
  /** The data as a whole cannot be read any more. */
  | { readonly kind: 'refused'; readonly job: number; readonly error: UserErrorData }
  | { readonly kind: 'broken'; readonly job: number; readonly error: string };

export interface WorkerJob {
  readonly job: number;
  readonly index: number;
  /** Records from `index` on. */
  readonly count: number;
}

/** Threads for encoding beside the training step, which wants most of the machine: 1 on two cores, a quarter of the cores on larger machines, 8 at most. */
export function defaultThreads(cores: number = availableParallelism(), ranksOnThisMachine = 1): number {
  return Math.max(1, Math.min(8, Math.floor(cores / 4 / ranksOnThisMachine)));
}

/** So many records are done here before a thread has started. */
const FEW = 16;

/** Threads that look at `records` records once each. */
export const threadsFor = (records: number): number => (records <= FEW ? 0 : availableParallelism());

// The built file, whether this file runs from src (tests) or from dist.
const WORKER_FILE = new URL('../../dist/data/encode-worker.js', import.meta.url);

interface Job {
  readonly index: number;
  readonly resolve: (outcome: Outcome<unknown>) => void;
  readonly reject: (error: Error) => void;
}

interface Thread {
  readonly worker: Worker;
  readonly jobs: Map<number, Job>;
}

export class EncodePool<Name extends TaskName> {
  #nextJob = 0;
  #closing = false;
  #broken: Error | undefined;

  readonly #setup: TaskSetup;
  readonly #threads: readonly Thread[];
  readonly #local: EncodeTask<Name> | undefined;

  private constructor(setup: TaskSetup, threads: readonly Thread[], local: EncodeTask<Name> | undefined) {
    this.#setup = setup;
    this.#threads = threads;
    this.#local = local;
  }

  /**
   * Starts `threads` worker threads and waits until all of them are ready to encode. Throws UserError if the tokenizer or the data cannot be
   * loaded. `notice` gets the oddities that the workers find, once each.
   */
  static async open<Name extends TaskName>(
    name: Name,
    setup: TaskSetup,
    threads: number,
    notice: Notice,
  ): Promise<EncodePool<Name>> {
    const once = saidOnce(notice);
    if (threads === 0) return new EncodePool<Name>(setup, [], await openTask(name, setup, once));
    const started = Array.from({ length: threads }, () => ({
      worker: new Worker(WORKER_FILE, { workerData: { name, setup }, execArgv: [] }),
      jobs: new Map<number, Job>(),
    }));
    const pool = new EncodePool<Name>(setup, started, undefined);
    try {
      await Promise.all(started.map((thread, number) => pool.#watch(thread, number, once)));
    } catch (error) {
      await pool.close();
      throw error;
    }
    return pool;
  }

  /** The worker threads themselves; none if records are encoded in this thread. */
  get workers(): readonly Worker[] {
    return this.#threads.map(({ worker }) => worker);
  }

  /**
   * Does the task for record `index`, or for `count` records from there on. A mistake in the record is an outcome; only a broken program or a
   * dead thread rejects.
   */
  run(index: number, count = 1): Promise<Outcome<TaskResults[Name]>> {
    if (this.#local) return this.#local.run(index, count);
    if (this.#broken) return Promise.reject(this.#broken);
    const thread = this.#threads.reduce((least, other) => (other.jobs.size < least.jobs.size ? other : least));
    const job = this.#nextJob++;
    return new Promise((resolve, reject) => {
      thread.jobs.set(job, { index, resolve: resolve as Job['resolve'], reject });
      thread.worker.postMessage({ job, index, count } satisfies WorkerJob);
    });
  }

  /** Ends the threads and drops their work. */
  async close(): Promise<void> {
    this.#closing = true;
    await this.#local?.close();
    await Promise.all(this.#threads.map(({ worker }) => worker.terminate()));
  }

  /** Follows a thread's messages; settles when it is ready or has failed to start. */
  #watch(thread: Thread, number: number, notice: Notice): Promise<void> {
    return new Promise((ready, failed) => {
      thread.worker.on('message', (message: WorkerMessage) => {
        if (message.kind === 'ready') ready();
        else if (message.kind === 'failed') failed(UserError.fromData(message.error));
        else if (message.kind === 'notice') notice(message.message);
        else settle(thread, message);
      });
      const die = (reason: string, cause?: unknown): void => {
        if (this.#closing) return;
        const error = this.#died(thread, number, reason, cause);
        this.#broken ??= error;
        failed(error);
        for (const other of this.#threads) {
          for (const job of other.jobs.values()) job.reject(error);
          other.jobs.clear();
        }
      };
      thread.worker.on('error', (error) => die(error.message, error));
      thread.worker.on('exit', (code) => die(`it ended with code ${code}`));
    });
  }

  #died(thread: Thread, number: number, reason: string, cause: unknown): Error {
    const places = [...thread.jobs.values()].slice(0, 4).map(({ index }) => describePlace(this.#setup, index));
    const doing = places.length === 0 ? 'while it had nothing to do' : `while it had ${places.join(', ')}`;
    return new Error(
      `Expected data thread ${number} to go on but it died ${doing}: ${reason}. If memory ran out, use fewer --dataloader_num_workers; with 0 the records are encoded in the main thread, where the reason shows.`,
      { cause },
    );
  }
}

function settle(thread: Thread, message: Extract<WorkerMessage, { job: number }>): void {
  const job = thread.jobs.get(message.job);
  thread.jobs.delete(message.job);
  if (message.kind === 'result') job?.resolve(message.outcome);
  else job?.reject(message.kind === 'refused' ? UserError.fromData(message.error) : new Error(message.error));
}

/** "record 17 of a.json" for index 17 of the whole data. */
function describePlace(setup: TaskSetup, index: number): string {
  let rest = index;
  for (const file of setup.dataset.files) {
    if (rest < file.records) return `record ${rest} of ${file.path}`;
    rest -= file.records;
  }
  return `record ${index}`;
}
