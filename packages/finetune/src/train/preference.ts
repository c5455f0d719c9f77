/** Preference tuning in a run. Its objective for each step, what is known of the reference, and what a person should be told. */
import type { RunConfig, StepEvent } from '@minicpm-finetune/run';
import type { Dataset } from '../data/dataset.js';
import type { MicroBatch } from '../data/loader.js';
import type { StartReference } from '../engine/live-reference.js';
import { PreferenceStep } from '../engine/preference.js';
import { NO_REWARDS, type PreferenceOptions } from '../engine/preference-loss.js';
import type { Ranks } from '../parallel/ranks.js';
import type { RunLog } from '../report/run-log.js';
import type { ReferenceLogs } from './reference.js';
import type { RunState } from './state.js';

export interface RunPreference {
  readonly options: PreferenceOptions;
  /** The reference is computed beside the training; null: its log-probabilities are known, or the loss needs none. */
  readonly live: StartReference | null;
  readonly logs: ReferenceLogs | null;
  readonly watch: PreferenceWatch;
}

/** A micro-batch with what is known of its answers under the reference. */
export type KnownMicro = MicroBatch & { readonly reference: readonly (readonly [number, number])[] | null };

/** Adds what is known of the reference to a micro-batch of a data set. @throws UserError for records that were changed since */
export function withReference(preference: RunPreference | null, dataset: Dataset, micro: MicroBatch): KnownMicro {
  const logs = preference?.logs ?? null;
  const own = logs && [logs.train, logs.evaluation].find((one) => one?.dataset === dataset);
  return { ...micro, reference: own ? own.log.of(micro.indices, micro.contents) : null };
}

/** The parts of a run that decide about a step. */
interface Learning {
  readonly preference: RunPreference | null;
  readonly state: RunState;
  readonly ranks: Ranks;
  readonly config: RunConfig;
}

/** The objective of the next step; null: the run learns from answers. */
export function objectiveOf({ preference, state, ranks, config }: Learning): PreferenceStep | null {
  if (preference === null) return null;
  const { options, live: reference } = preference;
  const isFirst = state.step === 0 && config.lora.lora_dropout === 0;
  return new PreferenceStep({
    ...{ options, reference, rewards: state.preferenceRewards ?? NO_REWARDS, group: ranks.group },
    mostApart: isFirst ? (config.precision.dtype === 'float32' ? 1e-3 : 2e-2) : null,
  });
}

/** Logged steps without progress that are worth a warning. */
const LONG = 100;
/** Logged steps whose mean stands for the start, and for now, where there is no reference: each has other answers. */
const WINDOW = 10;

/** Of chosen answers at some time: mean reward and mean log-probability. */
interface Chosen {
  readonly reward: number;
  readonly logp: number;
}

const meanOf = (all: readonly Chosen[]): Chosen => ({
  reward: all.reduce((sum, { reward }) => sum + reward, 0) / all.length,
  logp: all.reduce((sum, { logp }) => sum + logp, 0) / all.length,
});

/** Tells once of what surprises in preference tuning. */
export class PreferenceWatch {
  #toldFall = false;
  #toldUnlikely = false;
  #toldStill = false;
  #still: { readonly step: number } | null = null;
  readonly #first: Chosen[] = [];
  #last: Chosen[] = [];
  readonly #log: RunLog;
  readonly #beta: number | null;

  /** @param beta of rewards that are log ratios to a reference; null: there is no reference */
  constructor(log: RunLog, beta: number | null) {
    this.#log = log;
    this.#beta = beta;
  }

  /** Looks at a step that was logged. */
  see({ step, preference }: Pick<StepEvent, 'step' | 'preference'>): void {
    if (preference === undefined) return;
    const { 'logps/chosen': logp, 'rewards/chosen': reward, 'rewards/margins': margin } = preference;
    // before the first update rewards are rounding
    if (logp !== undefined && reward !== undefined && step > 1) {
      const now = { reward, logp };
      const compared = this.#beta === null ? this.#means(now) : { now, before: before(now, this.#beta) };
      if (compared !== null) {
        if (margin !== undefined && margin > 0 && compared.now.reward < compared.before.reward) this.#tellFall();
        this.#seeLogp(compared.before.logp, compared.now.logp, step);
      }
    }
    this.#seeAccuracy(preference['rewards/accuracies'], step);
  }

  /** Means of the first and of the last logged steps; null: there are too few. */
  #means(now: Chosen): { readonly before: Chosen; readonly now: Chosen } | null {
    if (this.#first.length < WINDOW) {
      this.#first.push(now);
      return null;
    }
    this.#last = [...this.#last.slice(1 - WINDOW), now];
    return this.#last.length < WINDOW ? null : { before: meanOf(this.#first), now: meanOf(this.#last) };
  }

  #tellFall(): void {
    if (this.#toldFall) return;
    this.#toldFall = true;
    const fall =
      this.#beta === null
        ? 'The rewards of chosen answers fall: the model makes them less likely than it did at first. '
        : 'The rewards of chosen answers fall: the model makes them less likely than the reference does, and rejected ones still less. ';
    this.#log.reporter.notice(
      `${fall}That is usual, for only the margin is learned. To keep chosen answers likely give --rpo_alpha 1, a smaller --learning_rate, ` +
        'or train on the chosen answers first.',
    );
  }

  #seeLogp(before: number, now: number, step: number): void {
    if (this.#toldUnlikely || now >= Math.min(1.2 * before, before - 1)) return;
    this.#toldUnlikely = true;
    const message =
      `logps/chosen fell from ${before.toFixed(1)} to ${now.toFixed(1)}, more than 20 %: chosen answers become unlikely. ` +
      'Give --rpo_alpha 1, a larger --beta or a smaller --learning_rate.';
    this.#log.warn('chosen_unlikely', message, step);
  }

  #seeAccuracy(accuracy: number | undefined, step: number): void {
    if (accuracy === undefined || this.#toldStill) return;
    if (Math.abs(accuracy - 0.5) > 0.05) this.#still = null;
    else this.#still ??= { step };
    if (this.#still === null || step - this.#still.step < LONG) return;
    this.#toldStill = true;
    const message =
      `rewards/accuracies has been near 0.5 for ${LONG} steps: the model does not tell the answers apart. ` +
      'Give a larger --learning_rate, or look at the pairs with check-data and render.';
    this.#log.warn('no_preference', message, step);
  }
}

/** The same answers under the reference. */
const before = ({ reward, logp }: Chosen, beta: number): Chosen => ({ reward: 0, logp: logp - reward / beta });
