/**
 * Learning to prefer one of two answers, in an optimizer step. Log-probabilities of whole answers come from the hidden
 * states as the cross entropy does, in chunks; the loss of a record is a function of those numbers (preference-loss.ts), and its
 * gradient is that of the cross entropy with a weight for each answer. So a step takes the memory of learning both answers.
 *
 * The unit is the record, over the whole step: how it is cut into micro-batches changes nothing. Where the records of a step have something in
 * common (KTO, MPO), all answers are run forward once before.
 */
import { strict as assert } from 'node:assert';
import type { MiniCPMV } from '@minicpm-finetune/minicpm-v';
import { fromTypedArray, type Group, noGrad, soloGroup, type Tensor } from '@minicpm-finetune/torch';
import { exchangeTexts } from '../parallel/agree.js';
import type { Batch } from './collate.js';
import { type Head, type LossResult, lossAndGradient, type StretchLogProbs, stretchLogProbs } from './loss.js';
import { type ForwardOptions, headOf, type Objective, withHidden } from './micro-batch.js';
import {
  type AnswerLogProbs,
  comparesWithReference,
  isCoupled,
  metricsOf,
  type PreferenceOptions,
  type RewardMean,
  recordLoss,
  sharedOf,
  sharedPart,
} from './preference-loss.js';
import { type PictureSource, StepPictures } from './step-pictures.js';

/** Where the reference is computed: its weights are the model's while `work` is done. */
export interface LiveReference {
  during<T>(work: () => T): T;
}

/** Log-probabilities of the two answers of each record of a batch. */
type Pairs = readonly (readonly [number, number])[];

export interface ObjectiveParts {
  readonly options: PreferenceOptions;
  /** Null: the reference's log-probabilities come with the batches, or the loss needs none. */
  readonly reference: LiveReference | null;
  /** Rewards before the step. */
  readonly rewards: RewardMean;
  /** Of the ranks; alone unless given. */
  readonly group?: Group;
  /** Before the first step: how far a log-probability may be from the reference's, as a share of it; null: any distance. */
  readonly mostApart?: number | null;
}

/** The log-probabilities of a batch's answers, without gradients; null: there is no batch. Collective. */
export function answerLogProbs(model: MiniCPMV, batch: Batch | null, options: ForwardOptions): Pairs | null {
  return withHidden(model, batch, options, (hidden, { labels, answers }) =>
    pairsOf(stretchLogProbs(hidden, labels, answers!.ends, headOf(model)).sums),
  );
}

const pairsOf = (numbers: Float64Array): Pairs =>
  Array.from({ length: numbers.length / 2 }, (_, i) => [numbers[2 * i]!, numbers[2 * i + 1]!] as const);

/** Records of a batch with what is known of them. */
export function recordsOf({ answers, labels }: Batch, policy: Pairs, reference: Pairs | null): AnswerLogProbs[] {
  const lengths = pairsOf(countsOf(labels, answers!.ends));
  return policy.map((own, i) => {
    const desirable = answers!.desirable[i];
    const record = { policy: own, reference: reference?.[i] ?? ([0, 0] as const), lengths: lengths[i]! };
    return desirable === undefined ? record : { ...record, desirable };
  });
}

/** Supervised tokens of each stretch of a row. */
function countsOf(labels: Int32Array, ends: readonly number[]): Float64Array {
  let start = 0;
  return Float64Array.from(ends, (end) => {
    let count = 0;
    for (let i = start; i < end; i++) if (labels[i] !== -100) count++;
    start = end;
    return count;
  });
}

/** The objective of one optimizer step. */
export class PreferenceStep implements Objective {
  /** Over the records of this rank so far. */
  readonly #sums: Record<string, number> = {};
  #records = 0;
  #shared: number | null = null;
  #rewards: RewardMean;
  readonly #references = new Map<Batch, Pairs | null>();
  #pictures: StepPictures | null = null;
  readonly #parts: ObjectiveParts;
  readonly #group: Group;

  constructor(parts: ObjectiveParts) {
    this.#parts = parts;
    this.#rewards = parts.rewards;
    this.#group = parts.group ?? soloGroup();
  }

  prepare(model: MiniCPMV, batches: readonly (Batch | null)[], given: ForwardOptions): void {
    const { options, reference } = this.#parts;
    const passes = reference !== null || (isCoupled(options.loss) && batches.length > 1);
    if (passes && !given.vision && !given.sharding?.gathers) this.#pictures = StepPictures.of(model);
    const how = this.#pictures === null ? given : { ...given, vision: this.#pictures };
    if (comparesWithReference(options.loss))
      for (const batch of batches) {
        // stored features of pictures are those of frozen weights, which are the reference's as well
        const own = reference
          ? reference.during(() => answerLogProbs(model, batch, how))
          : (batch?.answers?.reference ?? null);
        if (batch) this.#references.set(batch, own);
      }
    if (isCoupled(options.loss) && (batches.length > 1 || this.#group.size > 1))
      this.#share(batches.map((batch) => this.#partOf(batch, answerLogProbs(model, batch, how))));
  }

  get pictures(): PictureSource | null {
    return this.#pictures;
  }

  done({ inputs }: Batch): void {
    this.#pictures?.forget(inputs.pictures.flat());
  }

  /** What a batch gives to what the records of the step have in common. */
  #partOf(batch: Batch | null, policy: Pairs | null): [sum: number, count: number] {
    if (batch === null || policy === null) return [0, 0];
    return this.#partOfRecords(recordsOf(batch, policy, this.#references.get(batch) ?? null));
  }

  #partOfRecords(records: readonly AnswerLogProbs[]): [sum: number, count: number] {
    return records
      .map((record) => sharedPart(record, this.#parts.options))
      .reduce(([a, b], [c, d]) => [a + c, b + d], [0, 0]);
  }

  /** Adds the parts of all ranks up, in the order in which one rank alone would. Collective where there are several. */
  #share(parts: readonly (readonly [sum: number, count: number])[]): void {
    const all = this.#group.exchange(parts.flat(), 'what answers have in common');
    const [sum, count] = parts
      .flatMap((_, k) => all.map((own) => [own[2 * k]!, own[2 * k + 1]!] as const))
      .reduce(([a, b], [c, d]) => [a + c, b + d] as const, [0, 0] as const);
    const { shared, rewards } = sharedOf(this.#parts.options, [sum, count], this.#parts.rewards);
    this.#shared = shared;
    this.#rewards = rewards;
  }

  lossAndGradient(
    hidden: Tensor,
    batch: Batch,
    head: Head,
    { scale, needsHidden }: { readonly scale: number; readonly needsHidden: boolean },
  ): LossResult {
    assert(batch.answers, 'a batch of answers that are compared');
    const { options } = this.#parts;
    const found = stretchLogProbs(hidden, batch.labels, batch.answers.ends, head);
    const reference = this.#references.get(batch) ?? null;
    assert(reference !== null || !comparesWithReference(options.loss), 'log-probabilities of the reference');
    const records = recordsOf(batch, pairsOf(found.sums), reference);
    if (isCoupled(options.loss) && this.#shared === null) this.#share([this.#partOfRecords(records)]);
    const losses = records.map((record) => recordLoss(record, options, this.#shared ?? 0));
    for (const { metrics } of losses)
      for (const [name, value] of Object.entries(metrics)) this.#sums[name] = (this.#sums[name] ?? 0) + value;
    this.#records += records.length;
    if (reference !== null) this.#requireNoMargin(records);
    const weights = weightsOf(
      found,
      losses.flatMap(({ gradient }) => gradient),
    );
    const { gradHidden, gradients } = lossAndGradient(hidden, batch.labels, head, { scale, weights, needsHidden });
    const loss = losses.reduce((sum, one) => sum + one.loss, 0);
    return { sum: scalar(loss, hidden.device), gradHidden, gradients };
  }

  /** Before the first step the model is the reference: another margin is a fault of this program, and would be learned from. */
  #requireNoMargin(records: readonly AnswerLogProbs[]): void {
    const { mostApart = null } = this.#parts;
    if (mostApart === null) return;
    for (const { policy, reference } of records)
      for (const [i, logProb] of policy.entries()) {
        const apart = Math.abs(logProb - reference[i]!);
        assert(
          apart <= mostApart * (1 + Math.abs(logProb)),
          `a margin of zero before the first step: log-probability ${logProb}, of the reference ${reference[i]}`,
        );
      }
  }

  /** Rewards after the step. */
  get rewards(): RewardMean {
    return this.#rewards;
  }

  /** The metrics over the records of all ranks. Collective. */
  metrics(): Record<string, number> {
    const all = exchangeTexts(this.#group, JSON.stringify([this.#records, this.#sums]), 'preference metrics');
    let records = 0;
    const sums: Record<string, number> = {};
    for (const [count, own] of all.map((text) => JSON.parse(text) as [number, Record<string, number>])) {
      records += count;
      for (const [name, value] of Object.entries(own)) sums[name] = (sums[name] ?? 0) + value;
    }
    return metricsOf(sums, records);
  }
}

/** The cross entropy's weight at each supervised position: minus the gradient by the log-probability of its answer. */
function weightsOf({ stretches }: StretchLogProbs, gradient: readonly number[]): Float64Array {
  return Float64Array.from(stretches, (stretch) => -gradient[stretch]!);
}

const scalar = (value: number, device: string): Tensor =>
  noGrad(() =>
    device.startsWith('mps')
      ? fromTypedArray(Float32Array.of(value), [], 'float32', device)
      : fromTypedArray(Float64Array.of(value), [], 'float64', device),
  );
