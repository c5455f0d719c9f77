/**
 * Generation token by token with a key-value cache. Prompts of unequal length form one batch, padded on the left.
 *
 * Not here: which token (sampling.ts), text (detokenizer.ts), prompts from conversations (chat/), beams. Shapes: B sequences, L positions of
 * the longest prompt, D hidden size, V vocabulary.
 */
import type { EncodedPicture, EncodedPrompt } from '@minicpm-finetune/processor';
import { UserError } from '@minicpm-finetune/run';
import { fromTypedArray, keep, noGrad, ops, scope, type Tensor, yieldToEventLoop } from '@minicpm-finetune/torch';
import { KVCache } from '../model/kv-cache.js';
import type { MiniCPMV } from '../model/minicpm-v.js';
import type { Picture } from '../model/patches.js';
import { checkSampling, pickTokens, type Sampling } from './sampling.js';

export interface GenerationOptions {
  readonly sampling: Sampling;
  readonly maxNewTokens: number;
  /** An id of these ends its sequence. */
  readonly stopTokens: ReadonlySet<number>;
  /** Number of each sequence for its random draws; its place in the batch when absent. */
  readonly streams?: readonly number[];
  /** Ends the generation after the step under way. */
  readonly signal?: AbortSignal;
}

/** One new token of one sequence. */
export interface NewToken {
  readonly sequence: number;
  readonly id: number;
  /** Whether it is the sequence's last one, and why: a stop token (which is `id`), or the longest answer allowed. */
  readonly end: 'stop' | 'length' | null;
}

/** A picture's tensor (uint8, as encoded) on a device; the caller's scope owns it. */
export function pictureTensor({ pixels, shape, rows, cols }: EncodedPicture, device: string): Picture {
  return { pixels: fromTypedArray(pixels, shape, 'uint8', device), rows, cols };
}

/** A prompt's embeddings (L, D) with the pictures' tokens in place. Nothing around it influences them, so a batch changes no answer. */
function promptEmbeds(model: MiniCPMV, prompt: EncodedPrompt): Tensor {
  const { device } = model.llm.model.embedTokens.weight.data;
  const length = prompt.inputIds.length;
  return noGrad(() =>
    scope(() => {
      const ids = BigInt64Array.from(prompt.inputIds, BigInt);
      const embeds = model.inputsEmbeds({
        inputIds: fromTypedArray(ids, [1, length], 'int64', device),
        positionIds: positions([0], length, device),
        pictures: [prompt.pictures.map((picture) => pictureTensor(picture, device))],
        imageBounds: [prompt.imageBounds],
      });
      return ops.select(embeds, 0, 0);
    }),
  );
}

/** Position ids (B, L): 0 in the padding, then counting. */
function positions(padding: readonly number[], length: number, device: string): Tensor {
  const ids = padding.flatMap((pad) => Array.from({ length }, (_, i) => BigInt(Math.max(0, i - pad))));
  return fromTypedArray(BigInt64Array.from(ids), [padding.length, length], 'int64', device);
}

/** Generates from prompts; see `generateFromEmbeds`. */
export async function* generate(
  model: MiniCPMV,
  prompts: readonly EncodedPrompt[],
  options: GenerationOptions,
): AsyncGenerator<readonly NewToken[]> {
  const embeds: Tensor[] = [];
  try {
    for (const prompt of prompts) embeds.push(keep(promptEmbeds(model, prompt)));
    yield* generateFromEmbeds(model, embeds, options);
  } finally {
    for (const tensor of embeds) tensor.dispose();
  }
}

/**
 * Generates from embeddings, one (L, D) for each sequence: yields the new tokens of every step, until all sequences have ended. Between
 * steps the event loop runs; leaving the loop early frees everything.
 *
 * @throws UserError for a prompt that leaves no room for an answer, and when the model computes NaN.
 */
export async function* generateFromEmbeds(
  model: MiniCPMV,
  embeds: readonly Tensor[],
  options: GenerationOptions,
): AsyncGenerator<readonly NewToken[]> {
  const { sampling, maxNewTokens, stopTokens, streams, signal } = options;
  checkSampling(sampling);
  const lengths = embeds.map((tensor) => tensor.size(0));
  checkLengths(lengths, model.config.llm.maxPositionEmbeddings);
  const room = model.config.llm.maxPositionEmbeddings - Math.max(...lengths);
  const limit = Math.min(maxNewTokens, room);
  const longest = Math.max(...lengths);
  const padding = lengths.map((length) => longest - length);
  const sequences = embeds.map((_, b) => ({ stream: streams?.[b] ?? b, ids: [] as number[], ended: false }));
  const cache = new KVCache(model.config.llm.numLayers);
  try {
    for (let step = 0; step < limit && sequences.some(({ ended }) => !ended); step++) {
      if (signal?.aborted) return;
      const picked = noGrad(() =>
        scope(() => {
          const hidden =
            step === 0 ? prefill(model, embeds, padding, cache) : advance(model, sequences, padding, cache);
          return pickTokens(model.logits(hidden), sampling, sequences);
        }),
      );
      const fresh = picked.flatMap((id, sequence): NewToken[] => {
        const own = sequences[sequence]!;
        if (own.ended) return [];
        own.ids.push(id);
        const end = stopTokens.has(id) ? 'stop' : own.ids.length === limit ? 'length' : null;
        own.ended = end !== null;
        return [{ sequence, id, end }];
      });
      yield fresh;
      await yieldToEventLoop();
    }
  } finally {
    cache.dispose();
  }
}

function checkLengths(lengths: readonly number[], most: number): void {
  lengths.forEach((length, record) => {
    if (length > 0 && length < most) return;
    const what = length === 0 ? 'at least one token' : `fewer than the model's ${most} positions`;
    throw new UserError(`Expected ${what} for the prompt but received ${length} tokens.`, {
      record,
      cure: 'Ask something shorter, or give --max_slice_nums a smaller number.',
    });
  });
}

/** All prompts at once: the hidden states (B, D) after their last tokens. */
function prefill(model: MiniCPMV, embeds: readonly Tensor[], padding: readonly number[], cache: KVCache): Tensor {
  const padded = embeds.map((tensor, b) =>
    padding[b] === 0 ? tensor : ops.constantPadNd(tensor, [0, 0, padding[b]!, 0]),
  );
  const batch = ops.stack(padded); // (B, L, D)
  const length = batch.size(1);
  const hidden = model.llm.model.forward(batch, positions(padding, length, batch.device), cache, padding);
  return ops.select(hidden, 1, length - 1);
}

/** One more token for each sequence, its newest one put in: the hidden states (B, D). */
function advance(
  model: MiniCPMV,
  sequences: readonly { readonly ids: readonly number[] }[],
  padding: readonly number[],
  cache: KVCache,
): Tensor {
  const decoder = model.llm.model;
  const { device } = decoder.embedTokens.weight.data;
  const newest = sequences.map(({ ids }) => BigInt(ids.at(-1)!)); // an ended one repeats its last id, which is not read
  const places = sequences.map((_, b) => BigInt(cache.length - padding[b]!));
  const column = (values: readonly bigint[]): Tensor =>
    fromTypedArray(BigInt64Array.from(values), [values.length, 1], 'int64', device);
  const hidden = decoder.forward(decoder.embed(column(newest)), column(places), cache, padding);
  return ops.select(hidden, 1, 0);
}
