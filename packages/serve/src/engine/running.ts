/**
 * The sequences of all models, in one running batch. Each model name has caches of its own for beginnings of prompts,
 * because other weights make other numbers; for pictures as well, if its adapter changes how they are seen.
 */
import { type AdapterSet, type MiniCPMV, type NewToken, RunningBatch, TensorCache } from '@minicpm-finetune/minicpm-v';
import type { Sequence } from './answering.js';
import type { ServedModel } from './models.js';

interface Caches {
  readonly pictures: TensorCache;
  readonly prefixes: TensorCache;
}

/** What becomes of a step. */
export interface Outcome {
  /** Takes a new token. Returns whether its sequence goes on. */
  readonly deliver: (sequence: Sequence, token: NewToken) => Promise<boolean>;
  /** Is told of a sequence that cannot go on. */
  readonly fail: (sequence: Sequence, error: unknown) => void;
}

export class Running {
  readonly #cacheBytes: number;
  readonly #batch: RunningBatch;
  readonly #sequences = new Map<number, Sequence>();
  readonly #caches = new Map<ServedModel, Caches>();
  /** Of the base, and of adapters that see pictures as it does. */
  readonly #pictures: TensorCache;
  #failed: { readonly id: number; readonly error: unknown }[] = [];

  /** @param cacheBytes most bytes that each model keeps for later prompts, of pictures and of beginnings each */
  constructor(model: MiniCPMV, adapters: AdapterSet, cacheBytes: number) {
    this.#cacheBytes = cacheBytes;
    this.#pictures = new TensorCache({ maxBytes: cacheBytes });
    this.#batch = new RunningBatch(model, { adapters, onFailure: (id, error) => this.#failed.push({ id, error }) });
  }

  /** Sequences in the batch. */
  get size(): number {
    return this.#sequences.size;
  }

  /** Puts a sequence into the batch. */
  add(sequence: Sequence): void {
    const { prompt, sampling, maxNewTokens, stopTokens, logProbs, served } = sequence.answering.job;
    const id = this.#batch.add(prompt, {
      sampling,
      maxNewTokens,
      stopTokens,
      stream: sequence.choice.index,
      adapter: served.adapter,
      ...this.#cachesOf(served),
      ...(logProbs === null ? {} : { logProbs }),
    });
    sequence.id = id;
    this.#sequences.set(id, sequence);
  }

  #cachesOf(served: ServedModel): Caches {
    const known = this.#caches.get(served);
    if (known !== undefined) return known;
    const own = (): TensorCache => new TensorCache({ maxBytes: this.#cacheBytes });
    const caches = { pictures: served.adapter?.changesVision ? own() : this.#pictures, prefixes: own() };
    this.#caches.set(served, caches);
    return caches;
  }

  remove(sequence: Sequence): void {
    if (sequence.id === null || !this.#sequences.delete(sequence.id)) return;
    this.#batch.remove(sequence.id);
    sequence.id = null;
  }

  /** One step of the batch. */
  async step({ deliver, fail }: Outcome): Promise<void> {
    const tokens = this.#batch.step();
    for (const sequence of this.#sequences.values())
      sequence.answering.cachedTokens = Math.max(
        sequence.answering.cachedTokens,
        this.#batch.cachedTokens(sequence.id!),
      );
    const failed = this.#failed.map(({ id, error }) => ({ sequence: this.#sequences.get(id)!, error }));
    this.#failed = [];
    for (const { sequence, error } of failed) fail(sequence, error);
    await Promise.all(
      tokens.map(async (token) => {
        const sequence = this.#sequences.get(token.sequence);
        if (sequence !== undefined && !(await deliver(sequence, token))) this.remove(sequence);
      }),
    );
  }

  /** Takes all sequences out, after a step that failed as a whole. Returns them. */
  clear(): Sequence[] {
    const lost = [...this.#sequences.values()];
    for (const sequence of lost) this.remove(sequence);
    return lost;
  }

  /** Frees the caches of a model that nobody asks any more. */
  forget(served: ServedModel): void {
    const caches = this.#caches.get(served);
    if (caches === undefined) return;
    this.#caches.delete(served);
    caches.prefixes.dispose();
    if (caches.pictures !== this.#pictures) caches.pictures.dispose();
  }

  dispose(): void {
    this.#sequences.clear();
    this.#batch.dispose();
    for (const served of [...this.#caches.keys()]) this.forget(served);
    this.#pictures.dispose();
  }
}
