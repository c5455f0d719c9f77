/** A request on its way. What it asks of the model, what has come of it, and how it ends. */
import type { Sampling } from '@minicpm-finetune/minicpm-v';
import type { EncodedPrompt } from '@minicpm-finetune/processor';
import type { AnswerEvent, FinishReason, Usage } from '../api/answer.js';
import { Choice } from './choice.js';
import { EventQueue } from './event-queue.js';
import type { ServedModel } from './models.js';
import type { TokenTexts } from './token-text.js';

/** What is asked of the model. */
export interface Job {
  readonly served: ServedModel;
  readonly prompt: EncodedPrompt;
  readonly sampling: Sampling;
  readonly n: number;
  readonly maxNewTokens: number;
  readonly stopTokens: ReadonlySet<number>;
  readonly stop: readonly string[];
  /** Ids of the text that the answer continues; empty: it starts. */
  readonly before: readonly number[];
  readonly logProbs: number | null;
  /** Milliseconds of `performance.now()` at which the request came. */
  readonly arrived: number;
}

/** A choice and its place in a batch; null: it waits. */
export interface Sequence {
  readonly answering: Answering;
  readonly choice: Choice;
  id: number | null;
}

export class Answering {
  readonly job: Job;
  readonly sequences: readonly Sequence[];
  /** Tokens of the prompt that were known already. */
  cachedTokens = 0;
  readonly #events = new EventQueue<AnswerEvent>();
  readonly #reasons = new Map<number, FinishReason>();
  #firstToken: number | null = null;
  #open = true;

  constructor(job: Job, texts: TokenTexts) {
    this.job = job;
    const { n, stop, before, logProbs, served } = job;
    this.sequences = Array.from({ length: n }, (_, index) => {
      const { tokenizer } = served.encoder.template;
      const choice = new Choice({ index, tokenizer, before, stop, texts: logProbs === null ? null : texts });
      return { answering: this, choice, id: null };
    });
  }

  /** What comes of the request, in order, until its end. Throws what it failed of. */
  get events(): AsyncIterable<AnswerEvent> {
    return this.#events;
  }

  /** Whether it is neither finished nor given up. */
  get open(): boolean {
    return this.#open;
  }

  /** Milliseconds of `performance.now()`; null: no token has come yet. */
  get firstToken(): number | null {
    return this.#firstToken;
  }

  /** `length` if a choice ended so, else `stop`; undefined: choices are missing. */
  get reason(): FinishReason | undefined {
    if (this.#reasons.size < this.job.n) return undefined;
    return [...this.#reasons.values()].includes('length') ? 'length' : 'stop';
  }

  get usage(): Usage {
    return {
      promptTokens: this.job.prompt.inputIds.length,
      completionTokens: this.sequences.reduce((sum, { choice }) => sum + choice.tokens, 0),
      cachedTokens: this.cachedTokens,
    };
  }

  /** Takes events of a choice. Returns whether that choice goes on. */
  take(events: readonly AnswerEvent[]): boolean {
    this.#firstToken ??= performance.now();
    for (const event of events) {
      if (event.kind === 'finish') this.#reasons.set(event.index, event.reason);
      this.#events.push(event);
    }
    if (this.#reasons.size === this.job.n) this.end();
    return !events.some(({ kind }) => kind === 'finish');
  }

  /** No more events come; with an error, whoever reads them gets it. */
  end(error?: unknown): void {
    this.#open = false;
    this.#events.end(error);
  }
}
