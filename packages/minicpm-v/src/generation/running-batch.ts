/**
 * A batch of sequences that are generated together. Each joins and leaves between two tokens. Every sequence has a
 * cache of its own and nothing is padded: its numbers are the same in bits whatever the batch around it.
 *
 * A step reads a picture, or up to `pieceLength` positions of prompts, then computes one token for each sequence whose prompt is read (Orca, Yu
 * et al., 2022; prefill in pieces, Agrawal et al., 2024). Pieces begin at multiples of `pieceLength`. Several short ones are read together where
 * rows do not depend on each other, else each alone; a beginning that an earlier prompt shares is taken over in whole pieces, so its numbers are
 * the same, too. Sequences may be answered by different adapters: a prompt is read with its own, tokens are computed together (decode-groups.ts).
 * The batch keeps no weights between steps: what is on the model may change then.
 *
 * Not here: which token (sampling.ts), queues and limits.
 */
import type { EncodedPrompt } from '@minicpm-finetune/processor';
import { UserError } from '@minicpm-finetune/run';
import { noGrad, ops, scope, Tensor } from '@minicpm-finetune/torch';
import type { AdapterSet } from '../adapters/adapter-set.js';
import type { MiniCPMV } from '../model/minicpm-v.js';
import { decodeGroups, passesOf } from './decode-groups.js';
import { checkSampling, GREEDY, type PickedToken, pickToken } from './sampling.js';
import { Sequence, type SequenceOptions } from './sequence.js';

/** Positions of a prompt that are computed at once. */
export const PIECE_LENGTH = 512;

/** Positions of several prompts that are computed at once. A piece of as many is alone: its products are those of all its rows at once. */
const MOST_TOGETHER = 512;

export interface BatchOptions {
  /** The adapters that sequences may be answered by. They work in turns while a step runs; which one works afterwards is not said. */
  readonly adapters?: AdapterSet;
  readonly pieceLength?: number;
  /** Is told after a step of each sequence that failed in it and why; it is gone from the batch, the others go on. Absent: the step throws. */
  readonly onFailure?: (sequence: number, error: unknown) => void;
}

/** One new token of one sequence. */
export interface NewToken extends PickedToken {
  readonly sequence: number;
  /** Whether it is the sequence's last one, and why: a stop token (which is `id`), or the longest answer allowed. */
  readonly end: 'stop' | 'length' | null;
}

export class RunningBatch {
  readonly #model: MiniCPMV;
  readonly #options: BatchOptions;
  readonly #pieceLength: number;
  /** In the order in which they joined. */
  readonly #sequences = new Map<number, Sequence>();
  #failures: { readonly sequence: number; readonly error: unknown }[] = [];
  #next = 0;

  constructor(model: MiniCPMV, options: BatchOptions = {}) {
    this.#model = model;
    this.#options = options;
    this.#pieceLength = options.pieceLength ?? PIECE_LENGTH;
  }

  /** Sequences that are under way. */
  get size(): number {
    return this.#sequences.size;
  }

  /**
   * Adds a sequence, which joins with the next step; computes nothing. Returns its number.
   *
   * @param prompt an encoded prompt, or embeddings (L, D), which stay the caller's and have to live until the first token
   * @throws UserError for a prompt that leaves no room for an answer, and for sampling out of range
   */
  add(prompt: EncodedPrompt | Tensor, options: SequenceOptions): number {
    checkSampling({ ...GREEDY, ...options.sampling });
    checkLength(this.#model, prompt);
    const sequence = new Sequence(this.#next++, this.#model, prompt, options);
    this.#sequences.set(sequence.id, sequence);
    return sequence.id;
  }

  /** Takes a sequence out and frees what it holds; one that ended is gone already. */
  remove(id: number): void {
    this.#sequences.get(id)?.dispose();
    this.#sequences.delete(id);
  }

  /** Positions of a sequence's prompt that were taken over from earlier prompts; known once its reading has begun, until its end. */
  cachedTokens(id: number): number {
    return this.#sequences.get(id)?.cachedTokens ?? 0;
  }

  /**
   * Reads a piece of a prompt and computes a token of every sequence whose prompt is read. Returns the new tokens; sequences that ended with
   * them are gone from the batch.
   *
   * @throws UserError when the model computes NaN and there is no `onFailure`; the batch is then of no use any more
   */
  step(): readonly NewToken[] {
    const tokens = noGrad(() =>
      scope(() => {
        const sequences = [...this.#sequences.values()];
        const waiting = sequences.filter(({ isRead }) => !isRead);
        const reading = waiting.filter(({ adapter }) => adapter === waiting[0]!.adapter);
        const decoding = sequences.filter(({ isRead }) => isRead);
        return [...this.#attempt(reading, () => this.#read(reading)), ...this.#decode(decoding)];
      }),
    );
    const failures = this.#failures;
    this.#failures = [];
    for (const { sequence, error } of failures) this.#options.onFailure?.(sequence, error);
    return tokens;
  }

  /** What `compute` gives; if it fails, its sequences leave the batch. */
  #attempt(sequences: readonly Sequence[], compute: () => NewToken[]): NewToken[] {
    try {
      return compute();
    } catch (error) {
      if (this.#options.onFailure === undefined) throw error;
      for (const { id: sequence } of sequences.filter(({ id }) => this.#sequences.has(id))) {
        this.remove(sequence);
        this.#failures.push({ sequence, error });
      }
      return [];
    }
  }

  /**
   * The first prompt's next piece, and those of others as far as they fit beside it, all with one adapter; the first token after each prompt that
   * ends with it.
   */
  #read(sequences: readonly Sequence[]): NewToken[] {
    if (sequences.length === 0) return [];
    this.#options.adapters?.activate(sequences[0]!.adapter);
    const chosen: { sequence: Sequence; count: number }[] = [];
    let room = Math.min(this.#pieceLength, MOST_TOGETHER);
    for (const sequence of sequences) {
      if (chosen.length > 0 && (room <= 0 || !this.#model.llm.model.readsTogether)) break;
      const count = sequence.nextPiece(this.#pieceLength);
      if (chosen.length > 0 && count > room) break;
      if (!sequence.hasPictures(count)) {
        if (chosen.length > 0) break;
        return this.#attempt([sequence], () => {
          sequence.readPicture();
          return [];
        });
      }
      chosen.push({ sequence, count });
      room -= count;
    }
    return this.#attempt(
      chosen.map(({ sequence }) => sequence),
      () => this.#readTogether(chosen),
    );
  }

  #readTogether(chosen: readonly { readonly sequence: Sequence; readonly count: number }[]): NewToken[] {
    const { llm } = this.#model;
    const hidden = scope(() => llm.model.prefill(chosen.map(({ sequence, count }) => sequence.piece(count))));
    const ended: Sequence[] = [];
    const rows: Tensor[] = [];
    let end = 0;
    for (const { sequence, count } of chosen) {
      end += count;
      sequence.wasRead(count, this.#pieceLength);
      if (!sequence.isRead) continue;
      ended.push(sequence);
      rows.push(ops.select(hidden, 1, end - 1));
    }
    if (ended.length === 0) return [];
    const logits = llm.rowLogits(rows.length === 1 ? rows[0]! : ops.cat(rows));
    return this.#pickAll(logits, ended);
  }

  #decode(sequences: readonly Sequence[]): NewToken[] {
    return passesOf(sequences).flatMap((groups) =>
      this.#attempt(
        groups.flatMap((group) => group.sequences),
        () =>
          decodeGroups(this.#model, this.#options.adapters, groups).flatMap((done) =>
            this.#pickAll(done.logits, done.sequences),
          ),
      ),
    );
  }

  /** The next token of each sequence; logits (N, V). */
  #pickAll(logits: Tensor, sequences: readonly Sequence[]): NewToken[] {
    return sequences.flatMap((sequence, row) => this.#attempt([sequence], () => [this.#pick(logits, row, sequence)]));
  }

  /** The next token of a sequence, whose logits are a row of (N, V). */
  #pick(logits: Tensor, row: number, sequence: Sequence): NewToken {
    const { ids, limit, options } = sequence;
    const sampled = { stream: options.stream ?? 0, ids, logProbs: options.logProbs };
    const picked = pickToken(ops.select(logits, 0, row), { ...GREEDY, ...options.sampling }, sampled);
    ids.push(picked.id);
    const end = options.stopTokens.has(picked.id) ? 'stop' : ids.length >= limit ? 'length' : null;
    if (end !== null) this.remove(sequence.id);
    return { sequence: sequence.id, end, ...picked };
  }

  /** Takes all sequences out. */
  dispose(): void {
    for (const id of [...this.#sequences.keys()]) this.remove(id);
  }
}

/** @throws UserError for a prompt that leaves no room for an answer; `record` counts the prompts of a list. */
export function checkLength(model: MiniCPMV, prompt: EncodedPrompt | Tensor, record?: number): void {
  const length = prompt instanceof Tensor ? prompt.size(0) : prompt.inputIds.length;
  const most = model.config.llm.maxPositionEmbeddings;
  if (length > 0 && length < most) return;
  const what = length === 0 ? 'at least one token' : `fewer than the model's ${most} positions`;
  throw new UserError(`Expected ${what} for the prompt but received ${length} tokens.`, {
    ...(record === undefined ? {} : { record }),
    cure: 'Ask something shorter, or give --max_slice_nums a smaller number.',
  });
}
