/**
 * Chooses the next token of a sequence: greedy or sampled. Temperature, top-k, top-p, min-p and repetition penalty have the order and the
 * meaning of transformers' logits processors; frequency and presence penalty and the bias are OpenAI's and come first. As in the
 * reference, where prompts enter as embeddings, penalties are for generated tokens only.
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
  /** Draw among the tokens with at least this share of the most likely one's probability; 0: among all. */
  readonly minP: number;
  /** Above 1: tokens generated before become less likely. */
  readonly repetitionPenalty: number;
  /** Is taken from a token's logit as often as it was generated. */
  readonly frequencyPenalty: number;
  /** Is taken once from the logit of every token that was generated. */
  readonly presencePenalty: number;
  /** Is added to the logits of these ids. */
  readonly logitBias: ReadonlyMap<number, number>;
  readonly seed: number;
}

export const GREEDY: Sampling = {
  temperature: 0,
  topP: 1,
  topK: 0,
  minP: 0,
  repetitionPenalty: 1,
  frequencyPenalty: 0,
  presencePenalty: 0,
  logitBias: new Map(),
  seed: 0,
};

/** A sequence under way. */
export interface SampledSequence {
  /** Number that tells its draws from those of other sequences. */
  readonly stream: number;
  /** Ids generated so far. */
  readonly ids: readonly number[];
  /** How many of the most likely tokens are wanted with their log-probabilities, beside that of the chosen one; absent: none of these. */
  readonly logProbs?: number | undefined;
}

export interface LogProb {
  readonly id: number;
  readonly logProb: number;
}

/** Log-probabilities are the model's own: before penalties, bias and temperature. */
export interface PickedToken {
  readonly id: number;
  readonly logProb?: number;
  /** Most likely first. */
  readonly top?: readonly LogProb[];
}

/** @throws UserError naming the flag whose value is out of range. */
export function checkSampling(sampling: Sampling): void {
  const { temperature, topP, topK, minP, repetitionPenalty, frequencyPenalty, presencePenalty, seed } = sampling;
  const check = (ok: boolean, flag: string, what: string, received: number): void => {
    if (!ok) throw new UserError(`Expected ${what} for --${flag} but received ${received}.`, { flag: `--${flag}` });
  };
  check(temperature >= 0 && temperature < Infinity, 'temperature', 'a number of at least 0', temperature);
  check(topP > 0 && topP <= 1, 'top_p', 'a number above 0 and of at most 1', topP);
  check(Number.isInteger(topK) && topK >= 0, 'top_k', 'an integer of at least 0', topK);
  check(minP >= 0 && minP <= 1, 'min_p', 'a number from 0 to 1', minP);
  check(
    repetitionPenalty > 0 && repetitionPenalty < Infinity,
    'repetition_penalty',
    'a number above 0',
    repetitionPenalty,
  );
  check(Number.isFinite(frequencyPenalty), 'frequency_penalty', 'a number', frequencyPenalty);
  check(Number.isFinite(presencePenalty), 'presence_penalty', 'a number', presencePenalty);
  check(Number.isSafeInteger(seed) && seed >= 0, 'seed', 'an integer of at least 0', seed);
}

/** Candidates among which a draw is looked for first: with all of a large vocabulary, most draws end there. */
const LIKELY = 1024;

/**
 * The next id of a sequence.
 *
 * @param logits (V) float32; written to where there are penalties or a bias
 * @throws UserError when the model computes NaN
 */
export function pickToken(logits: Tensor, sampling: Sampling, sequence: SampledSequence): PickedToken {
  return scope(() => {
    const { logProbs } = sequence;
    const own = logProbs === undefined ? undefined : ops.logSoftmax(logits, 0);
    const id = choose(logits, sampling, sequence);
    if (own === undefined) return { id };
    const logProb = ops.select(own, 0, id).item();
    if (logProbs === 0) return { id, logProb, top: [] };
    const [values, indices] = ops.topk(own, Math.min(logProbs!, own.numel));
    const ids = indices.toNumbers();
    return { id, logProb, top: values.toNumbers().map((value, i) => ({ id: ids[i]!, logProb: value })) };
  });
}

function choose(logits: Tensor, sampling: Sampling, { stream, ids }: SampledSequence): number {
  adjust(logits, sampling, ids);
  if (sampling.temperature === 0) return mostLikely(logits);
  const random = uniform(sampling.seed, stream, ids.length);
  const most = sampling.topK === 0 ? logits.numel : Math.min(sampling.topK, logits.numel);
  const total = sampling.topK === 0 ? totalWeight(logits, sampling.temperature) : undefined;
  for (const count of [Math.min(LIKELY, most), most]) {
    const [values, indices] = ops.topk(logits, count); // largest first
    const scores = values.toNumbers();
    refuseNaN(scores[0]!);
    const choice = draw(scores, sampling, random, count === most ? undefined : total);
    if (choice !== undefined) return ops.select(indices, 0, choice).item();
  }
  throw new Error('Expected a draw among all tokens to end');
}

/** Bias and penalties, in place. */
function adjust(logits: Tensor, sampling: Sampling, ids: readonly number[]): void {
  const { repetitionPenalty, frequencyPenalty, presencePenalty, logitBias } = sampling;
  addTo(
    logits,
    [...logitBias].filter(([id]) => id < logits.numel),
  );
  if (repetitionPenalty !== 1) penalize(logits, ids, repetitionPenalty);
  if (frequencyPenalty === 0 && presencePenalty === 0) return;
  const counts = new Map<number, number>();
  for (const id of ids) counts.set(id, (counts.get(id) ?? 0) + 1);
  addTo(
    logits,
    [...counts].map(([id, count]) => [id, -(count * frequencyPenalty + presencePenalty)] as const),
  );
}

/** Adds numbers to the scores of ids, each of which is there once. row (V) */
function addTo(row: Tensor, terms: readonly (readonly [id: number, value: number])[]): void {
  if (terms.length === 0) return;
  const index = indexTensor(
    terms.map(([id]) => id),
    row.device,
  );
  ops.indexAdd_(
    row,
    0,
    index,
    fromTypedArray(
      Float32Array.from(terms, ([, value]) => value),
      [terms.length],
      'float32',
      row.device,
    ),
  );
}

/** Divides positive and multiplies negative scores of `ids` by the penalty. row (V) */
function penalize(row: Tensor, ids: readonly number[], penalty: number): void {
  if (ids.length === 0) return;
  const index = indexTensor([...new Set(ids)], row.device);
  const scores = ops.indexSelect(row, 0, index);
  const lowered = ops.where(ops.ltScalar(scores, 0), ops.mulScalar(scores, penalty), ops.divScalar(scores, penalty));
  ops.indexCopy_(row, 0, index, lowered);
}

function mostLikely(logits: Tensor): number {
  const best = ops.rowsArgmax(logits);
  refuseNaN(best < 0 ? Number.NaN : 0);
  return best;
}

function refuseNaN(score: number): void {
  if (!Number.isNaN(score)) return;
  throw new UserError('Expected numbers for the scores of the next token but received NaN.', {
    flag: '--dtype',
    cure: 'The weights hold NaN, or float16 overflows: try --dtype float32, then an earlier checkpoint.',
  });
}

/** Sum of e^((score - highest) / temperature) over all tokens. */
function totalWeight(logits: Tensor, temperature: number): number {
  const above = ops.sub(logits, ops.maxAll(logits));
  return ops.sumAll(ops.exp(ops.divScalar(above, temperature)), { dtype: 'float64' }).item();
}

/**
 * Index of the drawn candidate. `scores` are sorted, largest first; `random` is in [0, 1). With `total`, they are the first of more candidates
 * whose weights have that sum, and the result is undefined where the draw needs the others.
 */
function draw(
  scores: readonly number[],
  { temperature, topP, minP }: Sampling,
  random: number,
  total?: number,
): number | undefined {
  const weights = scores.map((score) => Math.exp((score - scores[0]!) / temperature));
  const all = total ?? weights.reduce((sum, weight) => sum + weight, 0);
  let kept = 0;
  let mass = 0;
  while (kept < weights.length && (kept === 0 || mass < topP * all) && (kept === 0 || weights[kept]! >= minP))
    mass += weights[kept++]!;
  const isCut = kept < weights.length; // by top-p or min-p
  if (!isCut && total !== undefined) mass = topP === 1 && minP === 0 ? total : Number.NaN;
  if (Number.isNaN(mass)) return undefined;
  let left = random * mass;
  for (let i = 0; i < kept; i++) {
    left -= weights[i]!;
    if (left < 0) return i;
  }
  return total === undefined || isCut ? kept - 1 : undefined; // rounding, or among the others
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
