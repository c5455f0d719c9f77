/** Preference tuning: loss and metrics of an evaluation. Of all its records together, as if they were one step. */
import { type Batch, disposeBatch } from '../engine/collate.js';
import { answerLogProbs, recordsOf } from '../engine/preference.js';
import {
  type AnswerLogProbs,
  comparesWithReference,
  metricsOf,
  NO_REWARDS,
  recordLoss,
  sharedOf,
  sharedPart,
} from '../engine/preference-loss.js';
import { StepPictures } from '../engine/step-pictures.js';
import { exchangeLists } from '../parallel/agree.js';
import type { RunPreference } from './preference.js';
import type { Run } from './run.js';

/** Numbers of a record as ranks tell them: round, log-probabilities of both, lengths, whether the answer is called good. */
const NUMBERS = 8;

export class Comparison {
  /** Of this rank, a round after the other. */
  readonly #own: number[] = [];
  #round = 0;
  readonly #run: Run;
  readonly #preference: RunPreference;

  constructor(run: Run, preference: RunPreference) {
    this.#run = run;
    this.#preference = preference;
  }

  /** Takes a batch in and frees it; null: this rank has none in this round. Collective. */
  take(batch: Batch | null): { sum: number; count: number } {
    const { training, vision, sharding } = this.#run;
    const { options, live } = this.#preference;
    const pictures = live && !vision && !sharding?.gathers ? StepPictures.of(training.model) : null;
    const how = { vision: vision ?? pictures, sharding };
    try {
      const compares = comparesWithReference(options.loss);
      const known = batch?.answers?.reference ?? null;
      const reference =
        compares && live ? live.during(() => answerLogProbs(training.model, batch, how)) : compares ? known : null;
      const policy = answerLogProbs(training.model, batch, how);
      if (batch && policy)
        for (const { policy: own, reference: other, lengths, desirable } of recordsOf(batch, policy, reference))
          this.#own.push(this.#round, ...own, ...other, ...lengths, desirable === undefined ? -1 : Number(desirable));
    } finally {
      if (batch) {
        pictures?.forget(batch.inputs.pictures.flat());
        disposeBatch(batch);
      }
    }
    this.#round++;
    return { sum: 0, count: 0 };
  }

  /** Over the records of all ranks, in the order of the data. Collective. */
  result(): { loss: number; metrics: Record<string, number> } {
    const { options } = this.#preference;
    const before = this.#run.state.preferenceRewards ?? NO_REWARDS;
    const records = this.#all();
    const parts = records.map((record) => sharedPart(record, options));
    const sum = parts.reduce(([a, b], [c, d]) => [a + c, b + d] as const, [0, 0] as const);
    const { shared } = sharedOf(options, sum, before);
    const sums: Record<string, number> = {};
    let loss = 0;
    for (const record of records) {
      const one = recordLoss(record, options, shared);
      loss += one.loss;
      for (const [name, value] of Object.entries(one.metrics)) sums[name] = (sums[name] ?? 0) + value;
    }
    return { loss: loss / records.length, metrics: metricsOf(sums, records.length) };
  }

  #all(): AnswerLogProbs[] {
    const lists = exchangeLists(this.#run.ranks.group, this.#own, 'compared answers');
    const rows = lists.flatMap((numbers) =>
      Array.from({ length: numbers.length / NUMBERS }, (_, i) => numbers.subarray(NUMBERS * i, NUMBERS * (i + 1))),
    );
    return rows
      .sort((a, b) => a[0]! - b[0]!)
      .map(([, a, b, c, d, first, second, good]) => ({
        ...{ policy: [a!, b!], reference: [c!, d!], lengths: [first!, second!] },
        ...(good === -1 ? {} : { desirable: good === 1 }),
      }));
  }
}
