/**
 * Losses of preference tuning. Numbers in, numbers out: of the log-probabilities of whole answers under the model and under
 * the reference, the loss of each record, its gradient by log-probabilities, and what is reported. Formulas are those of
 * TRL where it has them; all sums are float64.
 *
 * Papers: DPO (Rafailov et al., 2023) with label smoothing (Mitchell, 2023), IPO (Azar et al., 2023), hinge (SLiC, Zhao et al., 2023),
 * SimPO (Meng et al., 2024), ORPO (Hong et al., 2024), KTO (Ethayarajh et al., 2024), MPO (Wang et al., 2024), BCO (Jung et al., 2024),
 * and the cross entropy beside them as in RPO (Pang et al., 2024).
 */
import type { PreferenceLoss, RunConfig } from '@minicpm-finetune/run';

export interface PreferenceOptions {
  readonly loss: PreferenceLoss;
  readonly beta: number;
  readonly labelSmoothing: number;
  /** Weight of the cross entropy of chosen answers. */
  readonly rpoAlpha: number;
  readonly simpoGamma: number;
  readonly desirableWeight: number;
  readonly undesirableWeight: number;
}

/** The options of a run; null: it learns from single answers. */
export function preferenceOptions({ preference }: Pick<RunConfig, 'preference'>): PreferenceOptions | null {
  const { preference: loss } = preference;
  if (loss === null) return null;
  return {
    loss,
    beta: preference.beta ?? (loss === 'simpo' ? 2 : 0.1),
    labelSmoothing: preference.label_smoothing,
    rpoAlpha: preference.rpo_alpha ?? (loss === 'mpo' ? 1 : 0),
    simpoGamma: preference.simpo_gamma,
    desirableWeight: preference.desirable_weight,
    undesirableWeight: preference.undesirable_weight,
  };
}

/** Whether a loss compares with a reference. */
export const comparesWithReference = (loss: PreferenceLoss): boolean => loss !== 'simpo' && loss !== 'orpo';

/** Whether the gradient of one record depends on the other records of the step. */
export const isCoupled = (loss: PreferenceLoss): boolean => loss === 'kto' || loss === 'mpo';

/**
 * The two answers of a record. Of a pair, the chosen and the rejected one. Of KTO, the record's own answer and the answer to another question,
 * which measures how far the model has gone from the reference.
 */
export interface AnswerLogProbs {
  /** Summed over the tokens of each answer, its end token included. */
  readonly policy: readonly [number, number];
  /** The same under the reference; zeros where the loss needs none. */
  readonly reference: readonly [number, number];
  /** Tokens of each answer. */
  readonly lengths: readonly [number, number];
  /** KTO: whether the answer is called good. */
  readonly desirable?: boolean;
}

/** What the records of a step have in common: KTO's distance from the reference, BCO's mean reward. 0 for other losses. */
export type Shared = number;

/** Rewards of all steps so far, for BCO's mean. */
export interface RewardMean {
  readonly mean: number;
  readonly count: number;
}

export const NO_REWARDS: RewardMean = { mean: 0, count: 0 };

/** Loss and gradient of one record. */
export interface RecordLoss {
  readonly loss: number;
  /** By the policy's log-probability of each answer. */
  readonly gradient: readonly [number, number];
  /** Sums that make the metrics, by name; each is divided by the sum named after `/count` or by the records. */
  readonly metrics: Readonly<Record<string, number>>;
}

/** log(1 / (1 + e^-x)), also for large |x|. */
const logSigmoid = (x: number): number => (x < 0 ? x - Math.log1p(Math.exp(x)) : -Math.log1p(Math.exp(-x)));
const sigmoid = (x: number): number => (x < 0 ? Math.exp(x) / (1 + Math.exp(x)) : 1 / (1 + Math.exp(-x)));

/** log(1 - e^x) for x < 0 (Mächler, 2012). */
const log1mExp = (x: number): number => (x > -Math.LN2 ? Math.log(-Math.expm1(x)) : Math.log1p(-Math.exp(x)));

const ratios = ({ policy, reference }: AnswerLogProbs): [chosen: number, rejected: number] => [
  policy[0] - reference[0],
  policy[1] - reference[1],
];

/** A value and its derivatives by two numbers. */
type Term = readonly [value: number, first: number, second: number];

const plus = (terms: readonly (readonly [weight: number, term: Term])[]): Term =>
  [0, 1, 2].map((i) => terms.reduce((sum, [weight, term]) => (weight === 0 ? sum : sum + weight * term[i]!), 0)) as [
    number,
    number,
    number,
  ];

/** −log σ(x) with x = factor · (first − second) − shift. */
function logistic(first: number, second: number, factor: number, shift = 0): Term {
  const x = factor * (first - second) - shift;
  const slope = -factor * sigmoid(-x);
  return [-logSigmoid(x), slope, -slope];
}

function dpo(chosen: number, rejected: number, { beta, labelSmoothing }: PreferenceOptions): Term {
  return plus([
    [1 - labelSmoothing, logistic(chosen, rejected, beta)],
    [labelSmoothing, logistic(chosen, rejected, -beta)],
  ]);
}

function ipo(record: AnswerLogProbs, { beta }: PreferenceOptions): Term {
  const [chosen, rejected] = ratios(record);
  const [first, second] = record.lengths;
  const distance = chosen / first - rejected / second - 1 / (2 * beta);
  return [distance ** 2, (2 * distance) / first, (-2 * distance) / second];
}

function hinge(chosen: number, rejected: number, { beta }: PreferenceOptions): Term {
  const missing = 1 - beta * (chosen - rejected);
  return missing > 0 ? [missing, -beta, beta] : [0, 0, 0];
}

function simpo({ policy, lengths }: AnswerLogProbs, { beta, simpoGamma }: PreferenceOptions): Term {
  const [value, first, second] = logistic(policy[0] / lengths[0], policy[1] / lengths[1], beta, simpoGamma);
  return [value, first / lengths[0], second / lengths[1]];
}

/** Cross entropy of the chosen answer, and λ times the odds ratio. */
function orpo({ policy, lengths }: AnswerLogProbs, { beta }: PreferenceOptions): { term: Term; ratio: number } {
  const mean = policy.map((sum, i) => Math.min(sum / lengths[i]!, -Number.EPSILON)) as [number, number];
  const ratio = mean[0] - log1mExp(mean[0]) - (mean[1] - log1mExp(mean[1]));
  const slope = -beta * sigmoid(-ratio);
  const [first, second] = mean.map((x, i) => slope / (-Math.expm1(x) * lengths[i]!)) as [number, number];
  return { term: [-mean[0] - beta * logSigmoid(ratio), first - 1 / lengths[0], -second], ratio };
}

/** BCO: each answer by itself against the mean reward (Jung et al., 2024). */
function bco(chosen: number, rejected: number, beta: number, mean: number): Term {
  const [good, bad] = [beta * chosen - mean, beta * rejected - mean];
  return [-logSigmoid(good) - logSigmoid(-bad), -beta * sigmoid(-good), beta * sigmoid(bad)];
}

const sft = ({ policy, lengths }: AnswerLogProbs): Term => [-policy[0] / lengths[0], -1 / lengths[0], 0];

function kto(record: AnswerLogProbs, options: PreferenceOptions, distance: Shared): Term {
  const [reward] = ratios(record);
  const { beta, desirableWeight, undesirableWeight } = options;
  const good = record.desirable === true;
  const weight = good ? desirableWeight : undesirableWeight;
  const value = sigmoid((good ? beta : -beta) * (reward - distance));
  const slope = weight * beta * value * (1 - value);
  return [weight * (1 - value), good ? -slope : slope, 0];
}

const MPO = { dpo: 0.8, bco: 0.2 } as const;

function pairTerm(record: AnswerLogProbs, options: PreferenceOptions, shared: Shared): Term {
  const [chosen, rejected] = ratios(record);
  switch (options.loss) {
    case 'ipo':
      return ipo(record, options);
    case 'hinge':
      return hinge(chosen, rejected, options);
    case 'simpo':
      return simpo(record, options);
    case 'orpo':
      return orpo(record, options).term;
    case 'kto':
      return kto(record, options, shared);
    case 'mpo':
      return plus([
        [MPO.dpo, dpo(chosen, rejected, options)],
        [MPO.bco, bco(chosen, rejected, options.beta, shared)],
      ]);
    case 'dpo':
      return dpo(chosen, rejected, options);
  }
}

/** The loss of one record with the sums that make the metrics. `shared` is that of its whole step (`sharedOf`). */
export function recordLoss(record: AnswerLogProbs, options: PreferenceOptions, shared: Shared): RecordLoss {
  const alpha = options.loss === 'orpo' || options.loss === 'kto' ? 0 : options.rpoAlpha;
  const [loss, first, second] = plus([
    [1, pairTerm(record, options, shared)],
    [alpha, sft(record)],
  ]);
  const metrics =
    options.loss === 'kto' ? singleMetrics(record, options, shared) : pairMetrics(record, options, alpha > 0);
  return { loss, gradient: [first, second], metrics };
}

/** Rewards of a pair's answers: β times the log ratio to the reference; without one, as the loss weighs log-probabilities. */
function rewards(record: AnswerLogProbs, { loss, beta }: PreferenceOptions): [number, number] {
  if (comparesWithReference(loss)) return ratios(record).map((ratio) => beta * ratio) as [number, number];
  return record.policy.map((sum, i) => (beta * sum) / record.lengths[i]!) as [number, number];
}

function pairMetrics(record: AnswerLogProbs, options: PreferenceOptions, withSft: boolean): Record<string, number> {
  const [chosen, rejected] = rewards(record, options);
  const { policy, reference, lengths } = record;
  return {
    'rewards/chosen': chosen,
    'rewards/rejected': rejected,
    'rewards/margins': chosen - rejected,
    'rewards/accuracies': chosen > rejected ? 1 : 0,
    'logps/chosen': policy[0],
    'logps/rejected': policy[1],
    'lengths/chosen': lengths[0],
    'lengths/rejected': lengths[1],
    ...(comparesWithReference(options.loss) ? { chosen_below_reference: policy[0] < reference[0] ? 1 : 0 } : {}),
    ...(withSft ? { nll_loss: -policy[0] / lengths[0] } : {}),
    ...(options.loss === 'orpo'
      ? { sft_loss: -policy[0] / lengths[0], odds_ratio_loss: -logSigmoid(orpo(record, options).ratio) }
      : {}),
  };
}

/** Of single answers: sums over those called good and over those called bad, with their counts. */
function singleMetrics(record: AnswerLogProbs, { beta }: PreferenceOptions, shared: Shared): Record<string, number> {
  const good = record.desirable === true ? 1 : 0;
  const reward = beta * ratios(record)[0];
  const [logp] = record.policy;
  return {
    'rewards/chosen': good * reward,
    'rewards/rejected': (1 - good) * reward,
    'logps/chosen': good * logp,
    'logps/rejected': (1 - good) * logp,
    'count/chosen': good,
    'count/rejected': 1 - good,
    kl: shared,
  };
}

/** The metrics of a step or an evaluation from the sums over its records. A side without answers has none. */
export function metricsOf(sums: Readonly<Record<string, number>>, records: number): Record<string, number> {
  const metrics: Record<string, number> = {};
  for (const [name, sum] of Object.entries(sums)) {
    if (name.startsWith('count/')) metrics[name] = sum;
    else {
      const count = sums[`count/${name.split('/')[1]}`] ?? records;
      if (count > 0) metrics[name] = sum / count;
    }
  }
  if (sums['count/chosen'] !== undefined) {
    const [chosen, rejected] = [metrics['rewards/chosen'], metrics['rewards/rejected']];
    if (chosen !== undefined && rejected !== undefined) metrics['rewards/margins'] = chosen - rejected;
  }
  return metrics;
}

/** What one record gives to what the records of its step have in common: a sum, and what it counts. */
export function sharedPart(record: AnswerLogProbs, { loss, beta }: PreferenceOptions): [sum: number, count: number] {
  const [first, second] = ratios(record);
  if (loss === 'kto') return [second, 1];
  return loss === 'mpo' ? [beta * (first + second), 2] : [0, 0];
}

/**
 * What the records of a step have in common, from the sums of their parts. KTO: the mean log ratio of answers to other questions, at least 0.
 * BCO: the mean reward of all steps, this one included, which `before` becomes.
 */
export function sharedOf(
  { loss }: Pick<PreferenceOptions, 'loss'>,
  [sum, count]: readonly [sum: number, count: number],
  before: RewardMean,
): { shared: Shared; rewards: RewardMean } {
  if (loss === 'kto') return { shared: count === 0 ? 0 : Math.max(0, sum / count), rewards: before };
  if (loss !== 'mpo' || count === 0) return { shared: loss === 'mpo' ? before.mean : 0, rewards: before };
  const all = before.count + count;
  const mean = before.mean + (sum / count - before.mean) * (count / all);
  return { shared: mean, rewards: { mean, count: all } };
}
