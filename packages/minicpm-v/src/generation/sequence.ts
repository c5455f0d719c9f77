/**
 * One sequence of a running batch. Its prompt until that is read, its cache, what it generated. Not here: the order in
 * which sequences advance (running-batch.ts), which token (sampling.ts).
 */
import { createHash } from 'node:crypto';
import type { EncodedPicture, EncodedPrompt } from '@minicpm-finetune/processor';
import { fromTypedArray, keep, ops, scope, Tensor } from '@minicpm-finetune/torch';
import type { HeldAdapter } from '../adapters/adapter-set.js';
import type { PromptPiece } from '../model/decoder.js';
import { KVCache } from '../model/kv-cache.js';
import type { MiniCPMV } from '../model/minicpm-v.js';
import { type Picture, piecesOf } from '../model/patches.js';
import type { Sampling } from './sampling.js';
import type { TensorCache } from './tensor-cache.js';

export interface SequenceOptions {
  /** What differs from greedy decoding. */
  readonly sampling?: Partial<Sampling>;
  readonly maxNewTokens: number;
  /** An id of these ends the sequence. */
  readonly stopTokens: ReadonlySet<number>;
  /** Tells the random draws of this sequence from those of others with the same seed; 0 when absent. */
  readonly stream?: number;
  /** Log-probabilities of each new token and of this many most likely ones; absent: none. */
  readonly logProbs?: number;
  /** Of the batch's adapters, the one that answers; absent or null: the base, or what is on the model. */
  readonly adapter?: HeldAdapter | null;
  /** Where tokens of pictures are kept for later prompts. A cache belongs to one state of the weights: adapters have their own. */
  readonly pictures?: TensorCache;
  /** Where keys and values of the beginnings of prompts are kept, in whole pieces; likewise. */
  readonly prefixes?: TensorCache;
  /** Positions (3 * L) of a prompt that comes as embeddings, for models with a canvas; absent: 0, 1, … */
  readonly positionIds?: Int32Array;
}

/** A picture's tensor (uint8, as encoded) on a device; the caller's scope owns it. */
export function pictureTensor({ pixels, shape, rows, cols, temporalId }: EncodedPicture, device: string): Picture {
  const tensor = fromTypedArray(pixels, shape, 'uint8', device);
  return { pixels: tensor, rows, cols, ...(temporalId === undefined ? {} : { temporalId }) };
}

const hashOf = (...parts: (string | Uint8Array)[]): string => {
  const hash = createHash('sha256');
  for (const part of parts) hash.update(part);
  return hash.digest('base64');
};

/** Pictures that become the tokens of one, by their content and times. */
const unitKey = (unit: readonly EncodedPicture[]): string =>
  hashOf(
    ...unit.flatMap(({ pixels, shape, rows, cols, temporalId = -1 }) => [
      `${shape.join(' ')} ${rows} ${cols} ${temporalId};`,
      pixels,
    ]),
  );

/** The pictures of each range of a prompt: one, or the frames of a group. */
function unitsOf({ pictures, groups }: EncodedPrompt): EncodedPicture[][] {
  if (groups === undefined) return pictures.map((picture) => [picture]);
  return piecesOf(pictures, groups);
}

/** Under which key the states of linear attention after a piece are kept. */
const statesKey = (key: string): string => `${key}|states`;

export class Sequence {
  readonly id: number;
  readonly options: SequenceOptions;
  /** Positions of the prompt. */
  readonly promptLength: number;
  /** Most new tokens: what was asked for, or what the model's positions leave. */
  readonly limit: number;
  readonly cache: KVCache;
  /** Ids generated so far. */
  readonly ids: number[] = [];
  /** Positions of the prompt that were not computed but taken from earlier prompts. */
  cachedTokens = 0;
  readonly #model: MiniCPMV;
  /** (L, D), or the record that they are made of. */
  readonly #prompt: EncodedPrompt | Tensor;
  /** (3 * L); undefined: 0, 1, … */
  readonly #positionIds: Int32Array | undefined;
  /** The prompt's pictures, or groups of frames, in the order of its ranges. */
  readonly #units: readonly (readonly EncodedPicture[])[];
  /** Their tokens (Q, D), as far as they are computed. */
  #pictures: Tensor[] = [];
  /** Their keys. */
  readonly #pictureKeys: readonly string[];
  #prefixKey: string;

  constructor(id: number, model: MiniCPMV, prompt: EncodedPrompt | Tensor, options: SequenceOptions) {
    const { llm } = model.config;
    const { dtype, device } = model.llm.model.norm.weight.data;
    this.id = id;
    this.options = options;
    this.#model = model;
    this.#prompt = prompt;
    this.promptLength = prompt instanceof Tensor ? prompt.size(0) : prompt.inputIds.length;
    this.limit = Math.min(options.maxNewTokens, llm.maxPositionEmbeddings - this.promptLength);
    this.#positionIds = prompt instanceof Tensor ? options.positionIds : prompt.positionIds;
    const next = this.#positionIds?.reduce((most, id) => Math.max(most, id + 1), 0) ?? this.promptLength;
    this.cache = new KVCache(llm, { dtype, device }, next - this.promptLength);
    this.#units = prompt instanceof Tensor ? [] : unitsOf(prompt);
    this.#pictureKeys = this.#keys();
    // LongRoPE: the frequencies of all positions depend on the length
    const { longRope } = llm;
    this.#prefixKey = longRope !== null && this.promptLength > longRope.originalMaxPositions ? 'long' : '';
  }

  /** Pictures that influence each other are known by all of them together. */
  #keys(): string[] {
    const keys = this.#units.map(unitKey);
    return this.#model.picturesAreIndependent ? keys : keys.map((_, i) => hashOf(`${i};${keys.join()}`));
  }

  /** Which adapter answers; null: none of the batch's. */
  get adapter(): HeldAdapter | null {
    return this.options.adapter ?? null;
  }

  /** Whether the whole prompt is in the cache. */
  get isRead(): boolean {
    return this.cache.length >= this.promptLength;
  }

  /** Takes the longest beginning of the prompt in whole pieces that `prefixes` has. */
  #takePrefix(prefixes: TensorCache, pieceLength: number): void {
    // the last position is always computed: the first new token comes from it
    while (this.cache.length + pieceLength < this.promptLength) {
      const key = this.#pieceKey(pieceLength);
      const keyValues = key === null ? undefined : prefixes.get(key);
      const states = this.#hasStates ? prefixes.get(statesKey(key!)) : null;
      if (keyValues === undefined || states === undefined) return;
      this.cache.append({ keyValues, states });
      this.#prefixKey = key!;
      this.cachedTokens += pieceLength;
    }
  }

  /** How many positions the next piece of the prompt has, once what earlier prompts share with it is taken over. */
  nextPiece(pieceLength: number): number {
    const { prefixes } = this.options;
    if (prefixes !== undefined) this.#takePrefix(prefixes, pieceLength);
    return Math.min(pieceLength, this.promptLength - this.cache.length);
  }

  /** Whether the pictures that the next `count` positions need are computed; those known from earlier prompts are taken over. */
  hasPictures(count: number): boolean {
    if (this.#prompt instanceof Tensor) return true;
    const to = this.cache.length + count;
    const { imageBounds } = this.#prompt;
    while (this.#pictures.length < this.#units.length && imageBounds[this.#pictures.length]![0] < to) {
      const known = this.options.pictures?.get(this.#pictureKeys[this.#pictures.length]!);
      if (known === undefined) return false;
      this.#pictures.push(scope(() => keep(ops.clone(known))));
    }
    return true;
  }

  /** Computes the next picture, or all of those that influence each other. */
  readPicture(): void {
    const { device } = this.#model.llm.model.norm.weight.data;
    const next = this.#pictures.length;
    const units = this.#model.picturesAreIndependent ? [this.#units[next]!] : this.#units.slice(next);
    scope(() => {
      const pictures = units.flat().map((picture) => pictureTensor(picture, device));
      const tokens = this.#model.pictureTokens(
        pictures,
        units.map(({ length }) => length),
      );
      tokens.forEach((own, i) => {
        this.#pictures.push(keep(ops.clone(own)));
        this.options.pictures?.put(this.#pictureKeys[next + i]!, own);
      });
    });
  }

  /** The next `count` positions of the prompt, whose pictures are there. The tensors belong to the caller's scope. */
  piece(count: number): PromptPiece {
    const from = this.cache.length;
    return {
      embeds: this.#embeds(from, from + count),
      cache: this.cache,
      length: this.promptLength,
      positionIds: this.#positions(from, from + count),
    };
  }

  /** To be called when the decoder has read the next `count` positions; keeps them for later prompts that begin alike. */
  wasRead(count: number, pieceLength: number): void {
    const { prefixes } = this.options;
    const from = this.cache.length - count;
    const key = this.#pieceKey(pieceLength, from);
    if (key !== null && prefixes !== undefined) this.#keepPrefix(from, key, prefixes);
    if (key !== null) this.#prefixKey = key;
    if (this.isRead) this.#freePictures();
  }

  get #hasStates(): boolean {
    return this.#model.config.llm.linearAttention !== null;
  }

  /** Keeps what positions from `from` on added, for later prompts. */
  #keepPrefix(from: number, key: string, prefixes: TensorCache): void {
    if (prefixes.has(key) && (!this.#hasStates || prefixes.has(statesKey(key)))) return;
    const { keyValues, states } = this.cache.copyFrom(from);
    prefixes.put(key, keyValues);
    if (states !== null) prefixes.put(statesKey(key), states);
  }

  /** Positions `from` to `to` of a prompt whose tokens have three: (3, 1, to - from). */
  #positions(from: number, to: number): Tensor | undefined {
    if (this.#positionIds === undefined) return undefined;
    const { device } = this.#model.llm.model.norm.weight.data;
    const rows = fromTypedArray(
      BigInt64Array.from(this.#positionIds, BigInt),
      [3, 1, this.promptLength],
      'int64',
      device,
    );
    return ops.narrow(rows, 2, from, to - from);
  }

  /** Embeddings of positions `from` to `to` of the prompt (to - from, D). */
  #embeds(from: number, to: number): Tensor {
    const prompt = this.#prompt;
    if (prompt instanceof Tensor) return ops.narrow(prompt, 0, from, to - from);
    const decoder = this.#model.llm.model;
    const ids = BigInt64Array.from(prompt.inputIds.subarray(from, to), BigInt);
    const embeds = decoder.embed(fromTypedArray(ids, [to - from], 'int64', decoder.norm.weight.data.device));
    prompt.imageBounds.forEach(([start, end], i) => {
      const [first, last] = [Math.max(start, from), Math.min(end, to)];
      if (first >= last) return;
      ops.copy_(
        ops.narrow(embeds, 0, first - from, last - first),
        ops.narrow(this.#pictures[i]!, 0, first - start, last - first),
      );
    });
    return embeds;
  }

  /** Under which content the next piece is known: everything up to its end; null for prompts that came as embeddings, and for the last part of a prompt. */
  #pieceKey(pieceLength: number, from = this.cache.length): string | null {
    const prompt = this.#prompt;
    const to = from + pieceLength;
    if (prompt instanceof Tensor || to > this.promptLength) return null;
    const pictures = prompt.imageBounds.flatMap(([start, end], i) =>
      start < to && end > from ? [`${start - from} ${this.#pictureKeys[i]}`] : [],
    );
    return hashOf(this.#prefixKey, `;${prompt.inputIds.subarray(from, to).join()};${pictures.join()}`);
  }

  #freePictures(): void {
    for (const tokens of this.#pictures) tokens.dispose();
    this.#pictures = [];
  }

  dispose(): void {
    this.#freePictures();
    this.cache.dispose();
  }
}
