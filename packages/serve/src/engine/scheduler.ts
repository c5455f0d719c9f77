/**
 * Which request computes when. Requests wait in one queue, first in, first out; a choice joins the batch between two tokens
 * as soon as there is a place, whatever its model, and leaves it at its end.
 *
 * One thing computes at a time: the loop makes a step, delivers its tokens, lets the event loop run, and goes on.
 */
import type { AdapterSet, MiniCPMV, NewToken } from '@minicpm-finetune/minicpm-v';
import { ApiError, asApiError } from '../api/error.js';
import { Answering, type Job, type Sequence } from './answering.js';
import type { Metrics } from './metrics.js';
import type { ServedModel } from './models.js';
import { Running } from './running.js';
import type { TokenTexts } from './token-text.js';

export interface Limits {
  /** Most sequences that are generated at the same time. */
  readonly maxNumSeqs: number;
  /** Most requests that wait. */
  readonly maxQueue: number;
  /** Most seconds from a request's arrival to its end; null: no limit. */
  readonly timeout: number | null;
  /** Most bytes kept for later prompts by each model, of pictures and of beginnings each. */
  readonly cacheBytes: number;
}

export interface SchedulerParts {
  readonly model: MiniCPMV;
  readonly adapters: AdapterSet;
  readonly texts: TokenTexts;
  readonly metrics: Metrics;
  readonly limits: Limits;
  /** Is told what went wrong inside. */
  readonly onError: (error: unknown) => void;
}

/** A place among those that wait or are answered. */
export interface Place {
  release(): void;
}

export class Scheduler {
  readonly #parts: SchedulerParts;
  /** Sequences that are generated now. */
  readonly #running: Running;
  readonly #waiting: Sequence[] = [];
  /** Requests that were let in and have not ended. */
  #inside = 0;
  /** Requests that wait or are answered, and what is to be done at the end of each. */
  readonly #answering = new Map<Answering, () => void>();
  #wake: (() => void) | null = null;
  #closed = false;
  readonly #loop: Promise<void>;
  /** Of the answers that ended lately, on average. */
  #seconds = 1;

  constructor(parts: SchedulerParts) {
    this.#parts = parts;
    this.#running = new Running(parts.model, parts.adapters, parts.limits.cacheBytes);
    this.#loop = this.#run();
  }

  /** Requests that are being answered: one of their choices is in a batch. */
  get running(): number {
    return [...this.#answering.keys()].filter(({ sequences }) => sequences.some(({ id }) => id !== null)).length;
  }

  /** Requests that were let in and are not answered yet, those that are being read included. */
  get waiting(): number {
    return this.#inside - this.running;
  }

  /**
   * Takes a place in the queue, before anything of the request is decoded.
   *
   * @throws ApiError 429 when there is none
   */
  reserve(): Place {
    const { maxNumSeqs, maxQueue } = this.#parts.limits;
    const free = Math.max(0, maxNumSeqs - this.#running.size);
    if (this.waiting >= maxQueue + free) {
      this.#parts.metrics.count('refused');
      throw new ApiError(429, `The queue is full: ${this.waiting} requests wait. Try again later.`, {
        code: 'queue_full',
        retryAfter: Math.min(60, Math.max(1, Math.ceil(this.#seconds))),
      });
    }
    this.#inside++;
    let held = true;
    return {
      release: () => {
        if (held) this.#inside--;
        held = false;
      },
    };
  }

  /** Lets a request wait for its turn. The place is released when it ends. */
  submit(job: Job, place: Place): Answering {
    const answering = new Answering(job, this.#parts.texts);
    const { timeout } = this.#parts.limits;
    const left = timeout === null ? null : timeout * 1000 - (performance.now() - job.arrived);
    const timer =
      left === null ? undefined : setTimeout(() => this.cancel(answering, timedOut(timeout!)), Math.max(0, left));
    timer?.unref();
    this.#answering.set(answering, () => {
      clearTimeout(timer);
      place.release();
    });
    this.#parts.metrics.promptTokens += job.prompt.inputIds.length;
    this.#waiting.push(...answering.sequences);
    this.#wake?.();
    return answering;
  }

  /** A request's place in the queue, from 1 on; 0: it is being answered, or its turn comes at once. */
  position(answering: Answering): number {
    const at = this.#waiting.findIndex((sequence) => sequence.answering === answering);
    if (at === -1 || answering.sequences.some(({ id }) => id !== null)) return 0;
    if (this.#running.size + at < this.#parts.limits.maxNumSeqs) return 0;
    return new Set(this.#waiting.slice(0, at + 1).map((sequence) => sequence.answering)).size;
  }

  /** Ends a request before its time; its places are free at once. */
  cancel(answering: Answering, error?: ApiError): void {
    if (!answering.open) return;
    answering.end(error);
    this.#leave(answering, error === undefined ? 'abort' : error.status === 408 ? 'timeout' : 'error');
  }

  /** Takes a request that ended out of everything. */
  #leave(answering: Answering, how: string): void {
    for (const sequence of answering.sequences) {
      this.#running.remove(sequence);
      const at = this.#waiting.indexOf(sequence);
      if (at !== -1) this.#waiting.splice(at, 1);
    }
    const end = this.#answering.get(answering);
    if (end === undefined) return;
    this.#answering.delete(answering);
    end();
    const { metrics } = this.#parts;
    const { job, firstToken, usage } = answering;
    metrics.count(how);
    metrics.cachedTokens += usage.cachedTokens;
    metrics.generationTokens += usage.completionTokens;
    const now = performance.now();
    if (firstToken !== null) {
      metrics.firstToken((firstToken - job.arrived) / 1000);
      const each = usage.completionTokens / job.n;
      if (each > 1) metrics.perToken((now - firstToken) / 1000 / (each - 1));
    }
    this.#seconds += 0.2 * ((now - job.arrived) / 1000 - this.#seconds);
    this.#retire(job.served);
  }

  /** Frees a model that was unloaded, once nobody uses it. */
  #retire(served: ServedModel): void {
    if (!served.retired || [...this.#answering.keys()].some(({ job }) => job.served === served)) return;
    this.#running.forget(served);
    if (served.adapter !== null) this.#parts.adapters.free(served.adapter);
  }

  /** No request will name this model any more; it is freed when the last one that did has ended. */
  retire(served: ServedModel): void {
    served.retired = true;
    this.#retire(served);
  }

  async #run(): Promise<void> {
    for (;;) {
      if (this.#closed) return;
      this.#admit();
      if (this.#running.size === 0) {
        await new Promise<void>((resolve) => {
          this.#wake = resolve;
        });
        this.#wake = null;
        continue;
      }
      await this.#step();
      await new Promise((resolve) => setImmediate(resolve));
    }
  }

  /** Lets those who wait longest join, as long as there are places. */
  #admit(): void {
    const { maxNumSeqs } = this.#parts.limits;
    while (this.#waiting.length > 0 && this.#running.size < maxNumSeqs) {
      const sequence = this.#waiting.shift()!;
      try {
        this.#running.add(sequence);
      } catch (error) {
        this.#fail(sequence.answering, error);
      }
    }
  }

  async #step(): Promise<void> {
    const fail = ({ answering }: Sequence, error: unknown): void => {
      this.#parts.onError(error);
      this.#fail(answering, error);
    };
    try {
      await this.#running.step({ deliver: (sequence, token) => this.#deliver(sequence, token), fail });
    } catch (error) {
      this.#parts.onError(error);
      for (const { answering } of this.#running.clear()) this.#fail(answering, error);
    }
  }

  async #deliver({ answering, choice }: Sequence, token: NewToken): Promise<boolean> {
    const events = await choice.take(token);
    if (!answering.open) return false;
    const goesOn = answering.take(events);
    if (!answering.open) this.#leave(answering, answering.reason!);
    return goesOn;
  }

  #fail(answering: Answering, error: unknown): void {
    this.cancel(answering, asApiError(error));
  }

  /** Ends all requests with an error and the loop; frees what the batches hold. */
  async close(error: ApiError): Promise<void> {
    this.#closed = true;
    for (const answering of [...this.#answering.keys()]) this.cancel(answering, error);
    this.#wake?.();
    await this.#loop;
    this.#running.dispose();
  }
}

const timedOut = (seconds: number): ApiError =>
  new ApiError(408, `The request took longer than ${seconds} seconds, which is the limit of this server.`, {
    code: 'timeout',
  });
