/**
 * The data of one optimizer step after the other, on this rank. Before a step all ranks have said that they are ready for it; where one
 * of them has met an error, all save a checkpoint and end with it.
 */
import type { DecodeAhead } from '../data/decode-ahead.js';
import type { Loader } from '../data/loader.js';
import { type Batch, collateAll, disposeBatch } from '../engine/collate.js';
import { traced } from '../engine/profiler.js';
import { attempt, attempted } from '../parallel/agree.js';
import { confer } from './confer.js';
import { optimizerSteps } from './open-data.js';
import { type KnownMicro, withReference } from './preference.js';
import type { Run } from './run.js';
import { saved } from './save-first.js';

/** A step that all ranks are ready for. */
export interface ReadyStep {
  /** Counted over all epochs from 0. */
  readonly step: number;
  /** Of this rank. */
  readonly micros: readonly KnownMicro[];
  /** Of this rank, one for each of `micros`; null: without records. */
  readonly batches: readonly (Batch | null)[];
  /** Over all ranks. */
  readonly samples: number;
  readonly tokens: number;
  /** Seconds waited for data so far, of each step those of the rank that waited longest. */
  readonly dataWaitSeconds: number;
  /** Resident set of the largest other rank; 0: there is none. */
  readonly largestOther: number;
  /** Pictures that the other ranks looked up in their vision cache before this step, and found. */
  readonly otherVision: { readonly pictures: number; readonly hits: number };
}

type Own = Pick<ReadyStep, 'micros' | 'batches'>;

/** The steps of a loader; `ahead` is the decoding beside it, whose failure ends them. */
export async function* readySteps(run: Run, loader: Loader, ahead: readonly DecodeAhead[]): AsyncGenerator<ReadyStep> {
  const steps = optimizerSteps(loader);
  let [waited, dataWaitSeconds] = [0, 0];
  for (;;) {
    run.ranks.at(`step ${run.state.step + 1}, waiting for its records`);
    const own = await attempted(async () => {
      const next = await steps.next();
      if (next.done) return null;
      for (const { failure } of ahead) if (failure !== null) throw failure;
      const micros = next.value.map((micro) => withReference(run.preference, run.data.train, micro));
      return { micros, batches: collated(run, loader, micros) } satisfies Own;
    });
    if ('value' in own && own.value === null) return; // on all ranks at once
    const waiting = loader.dataWaitSeconds + (run.staging?.idleSeconds ?? 0);
    const batches = 'value' in own ? own.value!.batches : [];
    const numbers = [...sizesOf(batches), waiting - waited, process.memoryUsage.rss(), ...visionOf(run)];
    const told = attempt(() => confer(run, { label: 'next step', bad: loader.bad }, own, numbers));
    if ('error' in told) {
      for (const batch of batches) if (batch !== null) disposeBatch(batch);
      throw saved(run, told.error);
    }
    const { micros } = told.value.value!;
    const { waitSeconds, ...all } = together(run.ranks.rank, told.value.numbers);
    waited = waiting;
    dataWaitSeconds += waitSeconds;
    yield { step: micros[0]!.step, micros, batches, ...all, dataWaitSeconds };
  }
}

function collated({ profile, training, staging }: Run, loader: Loader, micros: readonly KnownMicro[]): Own['batches'] {
  const active = profile?.active ? profile : null;
  active?.wait(loader.dataWaitSeconds);
  const taken = performance.now();
  const batches = traced(active, 'collate', 'data', () => collateAll(micros, training.device, staging));
  loader.dataWaitSeconds += (performance.now() - taken) / 1000;
  return batches;
}

function sizesOf(batches: Own['batches']): [samples: number, tokens: number] {
  const sum = (count: (batch: Batch) => number): number =>
    batches.reduce((total, batch) => total + (batch === null ? 0 : count(batch)), 0);
  return [sum(({ samples }) => samples), sum(({ tokens }) => tokens)];
}

const visionOf = ({ vision }: Run): [pictures: number, hits: number] => [vision?.pictures ?? 0, vision?.hits ?? 0];

/** Sums and maxima of what the ranks said. */
function together(
  rank: number,
  numbers: readonly Float64Array[],
): Pick<ReadyStep, 'samples' | 'tokens' | 'largestOther' | 'otherVision'> & { readonly waitSeconds: number } {
  const others = numbers.filter((_, r) => r !== rank);
  const sum = (of: readonly Float64Array[], i: number): number => of.reduce((total, one) => total + one[i]!, 0);
  const largest = (of: readonly Float64Array[], i: number): number => Math.max(0, ...of.map((one) => one[i]!));
  return {
    samples: sum(numbers, 0),
    tokens: sum(numbers, 1),
    waitSeconds: largest(numbers, 2),
    largestOther: largest(others, 3),
    otherVision: { pictures: sum(others, 4), hits: sum(others, 5) },
  };
}
