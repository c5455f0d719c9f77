/** The answers of a run. Each step is read when it is needed, and kept. */
import type { AnswerIndex, StepAnswers } from '../../../src/shared/api.js';
import { call } from '../../client/request.js';
import { Resource } from '../../kit/resource.svelte.js';

/** Steps that are read ahead, so that the strips of all records fill. */
const MOST_AHEAD = 60;

export class RunAnswers {
  readonly id: string;
  readonly index: Resource<AnswerIndex>;
  #steps: ReadonlyMap<number, StepAnswers> = $state.raw(new Map());
  #failure: unknown = $state.raw();
  readonly #asked = new Set<number>();
  readonly #stop = new AbortController();

  constructor(id: string) {
    this.id = id;
    this.index = new Resource((signal) => call('GET /api/runs/:id/answers', { id, signal }));
    void this.index.load();
  }

  /** The answers of the steps that were read so far. */
  get steps(): ReadonlyMap<number, StepAnswers> {
    return this.#steps;
  }

  /** What the last reading of a step threw. */
  get failure(): unknown {
    return this.#failure;
  }

  /** Reads a step unless it was read. */
  async read(step: number): Promise<void> {
    if (this.#asked.has(step)) return;
    this.#asked.add(step);
    try {
      const answers = await call('GET /api/runs/:id/answers/:step', { id: this.id, step, signal: this.#stop.signal });
      this.#steps = new Map(this.#steps).set(step, answers);
      this.#failure = undefined;
    } catch (error) {
      this.#asked.delete(step);
      if (!this.#stop.signal.aborted) this.#failure = error;
    }
  }

  /** Reads the other steps one after the other. */
  async readAhead(): Promise<void> {
    const steps = this.index.value?.steps ?? [];
    if (steps.length > MOST_AHEAD) return;
    for (const { step } of steps) {
      if (this.#stop.signal.aborted || this.#failure !== undefined) return;
      await this.read(step);
    }
  }

  stop(): void {
    this.#stop.abort();
    this.index.stop();
  }
}
