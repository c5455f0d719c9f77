/**
 * Generation for a list of prompts. Not here: the engine (running-batch.ts), text
 * (detokenizer.ts), prompts from conversations (chat/), beams.
 */
import type { EncodedPrompt } from '@minicpm-finetune/processor';
import { type Tensor, yieldToEventLoop } from '@minicpm-finetune/torch';
import type { MiniCPMV } from '../model/minicpm-v.js';
import { checkLength, type NewToken, RunningBatch } from './running-batch.js';
import type { Sampling } from './sampling.js';

export interface GenerationOptions {
  readonly sampling: Sampling;
  readonly maxNewTokens: number;
  /** An id of these ends its sequence. */
  readonly stopTokens: ReadonlySet<number>;
  /** Number of each sequence for its random draws; its place in the list when absent. */
  readonly streams?: readonly number[];
  /** Ends the generation after the step under way. */
  readonly signal?: AbortSignal;
}

/**
 * Generates from prompts, or from embeddings (L, D): yields the new tokens of every step (`sequence` counts the prompts), until all sequences
 * have ended. Between steps the event loop runs; leaving the loop early frees everything.
 *
 * @throws UserError for a prompt that leaves no room for an answer, and when the model computes NaN.
 */
export async function* generate(
  model: MiniCPMV,
  prompts: readonly (EncodedPrompt | Tensor)[],
  options: GenerationOptions,
): AsyncGenerator<readonly NewToken[]> {
  const { streams, signal, ...own } = options;
  const batch = new RunningBatch(model);
  try {
    for (const [i, prompt] of prompts.entries()) checkLength(model, prompt, i);
    for (const [i, prompt] of prompts.entries()) batch.add(prompt, { ...own, stream: streams?.[i] ?? i });
    while (batch.size > 0) {
      if (signal?.aborted) return;
      const tokens = batch.step();
      if (tokens.length > 0) yield tokens;
      await yieldToEventLoop();
    }
  } finally {
    batch.dispose();
  }
}
