/**
 * Chooses the next token: greedy or sampled. Sampling has temperature, top-k, top-p and repetition penalty, in the
 * order and with the meaning of transformers' logits processors. As in the reference, where prompts enter as
 * embeddings, the penalty is for generated tokens only.
 *
 * Draws depend on the seed, the sequence's number and the step alone: the same sequence gets the same answer in any batch.
 */
import { UserError } from '@minicpm-finetune/run';
import { fromTypedArray, ops, scope, type Tensor } from '@minicpm-finetune/torch';

export interface Sampling {
  /** Divides the logits; 0: no draw, always the most likely token. */
  readonly temperature: number;
  /** Draw among the most likely tokens that together have this probability; 1: among all. */
  readonly topP: number;
  /** Draw among this many most likely tokens; 0: among all. */
  readonly topK: number;
  /** Above 1: tokens generated before become less likely. */
  readonly repetitionPenalty: number;
  readonly seed: number;
}

export const GREEDY: Sampling = { temperature: 0, topP: 1, topK: 0, repetitionPenalty: 1, seed: 0 };

/** A sequence under way. */
export interface SampledSequence {
  /** Number that tells its draws from those of other sequences. */
  readonly stream: number;
  /** Ids generated so far. */
  readonly ids: readonly number[];
}

/** @throws UserError naming the flag whose value is out of range. */
export function checkSampling({ temperature, topP, topK, repetitionPenalty, seed }: Sampling): void {
  const check = (ok: boolean, flag: string, what: string, received: number): void => {
    if (!ok) throw new UserError(`Expected ${what} for --${flag} but received ${received}.`, { flag: `--${flag}` });
  };
  check(temperature >= 0 && temperature < Infinity, 'temperature', 'a number of at least 0', temperature);
  check(topP > 0 && topP <= 1, 'top_p', 'a number above 0 and of at most 1', topP);
  check(Number.isInteger(topK) && topK >= 0, 'top_k', 'an integer of at least 0', topK);
  check(
    repetitionPenalty > 0 && repetitionPenalty < Infinity,
    'repetition_penalty',
    'a number above 0',
    repetitionPenalty,
  );
  check(Number.isSafeInteger(seed) && seed >= 0, 'seed', 'an integer of at least 0', seed);
}

/**
 * The next id of each sequence.
 *
 * @param logits (B, V) float32; written to when there is a penalty.
 * @throws UserError when the model computes NaN.
 */
export function pickTokens(logits: Tensor, sampling: Sampling, sequences: readonly SampledSequence[]): number[] {
  return scope(() => {
    if (sampling.repetitionPenalty !== 1) {
      sequences.forEach(({ ids }, b) => {
        penalize(ops.select(logits, 0, b), ids, sampling.repetitionPenalty);
      });
    }
    if (sampling.temperature === 0) return mostLikely(logits);
    const all = logits.size(1);
    const k = sampling.topK === 0 ? all : Math.min(sampling.topK, all);
    const [values, indices] = ops.topk(logits, k); // (B, k), largest first
    const [scores, ids] = [values.toNumbers(), indices.toNumbers()];
    return sequences.map(({ stream, ids: before }, b) => {
      const own = scores.slice(b * k, (b + 1) * k);
      refuseNaN(own[0]!);
      const choice = draw(own, sampling, uniform(sampling.seed, stream, before.length));
      return ids[b * k + choice]!;
    });
  });
}

/** Divides positive and multiplies negative scores of `ids` by the penalty. row (V) */
function penalize(row: Tensor, ids: readonly number[], penalty: number): void {
  if (ids.length === 0) return;
  const index = indexTensor([...new Set(ids)], row.device);
  const scores = ops.indexSelect(row, 0, index);
  const lowered = ops.where(ops.ltScalar(scores, 0), ops.mulScalar(scores, penalty), ops.divScalar(scores, penalty));
  ops.indexCopy_(row, 0, index, lowered);
}

function mostLikely(logits: Tensor): number[] {
  const best = ops.argmax(logits, 1, true); // (B, 1), the first of equals
  for (const value of ops.gather(logits, 1, best).toNumbers()) refuseNaN(value);
  return best.toNumbers();
}

function refuseNaN(score: number): void {
  if (!Number.isNaN(score)) return;
  throw new UserError('Expected numbers for the scores of the next token but received NaN.', {
    flag: '--dtype',
    cure: 'The weights hold NaN, or float16 overflows: try --dtype float32, then an earlier checkpoint.',
  });
}

/** Index of the drawn candidate. `scores` are sorted, largest first; `random` is in [0, 1). */
function draw(scores: readonly number[], { temperature, topP }: Sampling, random: number): number {
  const weights = scores.map((score) => Math.exp((score - scores[0]!) / temperature));
  const total = weights.reduce((sum, weight) => sum + weight, 0);
  let kept = 0;
  let mass = 0;
  while (kept < weights.length && (kept === 0 || mass < topP * total)) mass += weights[kept++]!;
  let left = random * mass;
  for (let i = 0; i < kept; i++) {
    left -= weights[i]!;
    if (left < 0) return i;
  }
  return kept - 1; // rounding
}

/** A number in [0, 1) that looks random and is decided by its arguments: splitmix32's finalizer over each of them. */
function uniform(...keys: readonly number[]): number {
  let hash = 0x9e3779b9;
  for (const key of keys) {
    hash = mix(hash ^ (key >>> 0));
    hash = mix(hash ^ (Math.floor(key / 2 ** 32) >>> 0));
  }
  return mix(hash) / 2 ** 32;
}

function mix(value: number): number {
  let z = (value + 0x9e3779b9) | 0;
  z = Math.imul(z ^ (z >>> 16), 0x21f0aaad);
  z = Math.imul(z ^ (z >>> 15), 0x735a2d97);
  return (z ^ (z >>> 15)) >>> 0;
}

function indexTensor(ids: readonly number[], device: string): Tensor {
  return fromTypedArray(BigInt64Array.from(ids, BigInt), [ids.length], 'int64', device);
}
