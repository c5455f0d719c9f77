/**
 * The running batch of one model name. That is the base, or one adapter on it. Its cache of beginnings of prompts is its own,
 * because other weights make other numbers; that of pictures as well, if the adapter changes how they are seen.
 */
import { type MiniCPMV, RunningBatch, TensorCache } from '@minicpm-finetune/minicpm-v';
import type { Sequence } from './answering.js';
import type { ServedModel } from './models.js';

export class Lane {
  readonly served: ServedModel;
  readonly #model: MiniCPMV;
  readonly #pictures: TensorCache;
  readonly #prefixes: TensorCache;
  readonly #ownsPictures: boolean;
  readonly #sequences = new Map<number, Sequence>();
  #batch: RunningBatch;

  /**
   * @param pictures the cache of the base's pictures
   * @param cacheBytes most bytes that are kept for later prompts, of pictures and of beginnings each
   */
  constructor(served: ServedModel, model: MiniCPMV, pictures: TensorCache, cacheBytes: number) {
    this.served = served;
    this.#model = model;
    this.#ownsPictures = served.adapter?.changesVision ?? false;
    this.#pictures = this.#ownsPictures ? new TensorCache({ maxBytes: cacheBytes }) : pictures;
    this.#prefixes = new TensorCache({ maxBytes: cacheBytes });
    this.#batch = this.#newBatch();
  }

  #newBatch(): RunningBatch {
    return new RunningBatch(this.#model, { pictures: this.#pictures, prefixes: this.#prefixes });
  }

  /** Sequences in the batch. */
  get size(): number {
    return this.#sequences.size;
  }

  /** Puts a sequence into the batch. */
  add(sequence: Sequence): void {
    const { prompt, sampling, maxNewTokens, stopTokens, logProbs } = sequence.answering.job;
    const id = this.#batch.add(prompt, {
      sampling,
      maxNewTokens,
      stopTokens,
      stream: sequence.choice.index,
      ...(logProbs === null ? {} : { logProbs }),
    });
    sequence.id = id;
    this.#sequences.set(id, sequence);
  }

  remove(sequence: Sequence): void {
    if (sequence.id === null || !this.#sequences.delete(sequence.id)) return;
    this.#batch.remove(sequence.id);
    sequence.id = null;
  }

  /** One step of the batch. Gives each new token to `deliver`, whose sequence says whether it goes on. */
  async step(
    deliver: (sequence: Sequence, token: ReturnType<RunningBatch['step']>[number]) => Promise<boolean>,
  ): Promise<void> {
    const tokens = this.#batch.step();
    for (const sequence of this.#sequences.values())
      sequence.answering.cachedTokens = Math.max(
        sequence.answering.cachedTokens,
        this.#batch.cachedTokens(sequence.id!),
      );
    await Promise.all(
      tokens.map(async (token) => {
        const sequence = this.#sequences.get(token.sequence);
        if (sequence !== undefined && !(await deliver(sequence, token))) this.remove(sequence);
      }),
    );
  }

  /** After a step that failed: the batch is of no use any more. Returns the sequences that it had. */
  reset(): Sequence[] {
    const lost = [...this.#sequences.values()];
    this.#sequences.clear();
    this.#batch.dispose();
    this.#batch = this.#newBatch();
    return lost;
  }

  dispose(): void {
    this.#sequences.clear();
    this.#batch.dispose();
    if (this.#ownsPictures) this.#pictures.dispose();
    this.#prefixes.dispose();
  }
}
