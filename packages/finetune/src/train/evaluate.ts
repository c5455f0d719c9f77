/** Evaluation: mean cross entropy of supervised tokens. Or the loss of preference tuning. In the memory of one batch. */
import { setLoraTraining } from '@minicpm-finetune/minicpm-v';
import { epochAt } from '@minicpm-finetune/run';
import { yieldToEventLoop } from '@minicpm-finetune/torch';
import type { Dataset } from '../data/dataset.js';
import type { Loader } from '../data/loader.js';
import { collateAll, disposeBatch } from '../engine/collate.js';
import { evaluateBatch } from '../engine/micro-batch.js';
import { agree, attempt, attempted } from '../parallel/agree.js';
import { asTask } from '../report/reporter.js';
import { answerRecords, type EvalAnswers } from './answers.js';
import { Comparison } from './comparison.js';
import { confer } from './confer.js';
import { openPass } from './open-data.js';
import { withReference } from './preference.js';
import type { Run } from './run.js';
import { saveBest } from './saving.js';

interface Evaluation {
  readonly loss: number;
  /** Of preference tuning. */
  readonly metrics: Readonly<Record<string, number>>;
  readonly samples: number;
  readonly seconds: number;
}

/** What a batch, or all of them, gave. */
interface Sums {
  readonly sum: number;
  readonly count: number;
  readonly samples: number;
}

const NOTHING: Sums = { sum: 0, count: 0, samples: 0 };

/**
 * Goes through the evaluation data once, all ranks together. Dropout is off meanwhile; nothing is kept of a batch but its summed loss. The
 * sums are added in the order of the data, so the loss does not depend on the number of ranks.
 */
async function evaluate(run: Run, dataset: Dataset): Promise<Evaluation> {
  const { log, training, ranks } = run;
  const started = performance.now();
  const reading = { ...run, reporter: log.reporter };
  const loader = await agree(
    ranks,
    'evaluation data',
    () => openPass(dataset, reading),
    (own) => own.close(),
  );
  const task = { label: 'Evaluating', total: dataset.length, unit: 'records' };
  const compare = run.preference && new Comparison(run, run.preference);
  let total = NOTHING;
  setLoraTraining(training.model, false);
  try {
    await asTask(log.reporter, task, async (update) => {
      for await (const sums of batchSums(run, loader, dataset, compare)) {
        total = sums.reduce(plus, total);
        const { sum, count, samples } = total;
        if (samples > 0) update(samples, count > 0 && !compare ? `loss ${(sum / count).toFixed(4)}` : '');
      }
    });
  } finally {
    setLoraTraining(training.model, true);
    await loader.close();
  }
  const compared = compare?.result();
  return {
    loss: compared?.loss ?? total.sum / total.count,
    metrics: compared?.metrics ?? {},
    samples: total.samples,
    seconds: (performance.now() - started) / 1000,
  };
}

const plus = (a: Sums, b: Sums): Sums => ({
  sum: a.sum + b.sum,
  count: a.count + b.count,
  samples: a.samples + b.samples,
});

/** The sums of the batches of all ranks, a round at a time, by rank. Before a batch all ranks have said that they are ready for it. */
async function* batchSums(
  { ranks, log, training, vision, sharding, preference }: Run,
  loader: Loader,
  dataset: Dataset,
  compare: Comparison | null,
): AsyncGenerator<Sums[]> {
  const batches = loader[Symbol.asyncIterator]();
  let before = NOTHING;
  for (;;) {
    const own = await attempted(async () => {
      const { value: micro, done } = await batches.next();
      if (done) return null;
      const known = withReference(preference, dataset, micro);
      return { batch: collateAll([known], training.device)[0]! };
    });
    const { sum, count, samples: records } = before;
    const next = { label: 'next evaluation batch', bad: loader.bad };
    const told = attempt(() => confer({ ranks, log }, next, own, [sum, count, records]));
    if ('error' in told) {
      if ('value' in own && own.value?.batch) disposeBatch(own.value.batch);
      throw told.error;
    }
    const { value, numbers } = told.value;
    yield numbers.map(([s, c, n]) => ({ sum: s!, count: c!, samples: n! }));
    if (value === null) return;
    const { batch } = value;
    const samples = batch?.samples ?? 0;
    const found = compare?.take(batch) ?? evaluateBatch(training.model, batch, vision, sharding);
    before = { samples, ...found };
    await yieldToEventLoop();
  }
}

/** Evaluates, logs it, and keeps the best checkpoint if a metric is configured. Nothing is saved by the evaluation before the first step. */
export async function runEvaluation(run: Run): Promise<void> {
  const { config, data, log, derived, state } = run;
  const { step } = state;
  if (data.evaluation === null) return;
  log.phase('evaluating', step);
  const started = performance.now();
  const { loss, metrics: compared, samples, seconds } = await evaluate(run, data.evaluation);
  const ask = (): Promise<EvalAnswers> => answerRecords(run);
  const asked = config.eval.eval_generate > 0;
  if (asked) log.phase('answering', step);
  const answers = asked ? await (run.sharding?.withAllWeights(ask) ?? ask()) : null;
  log.exclude((performance.now() - started) / 1000);
  const metrics = { ...compared, ...answers?.metrics };
  const epoch = epochAt(step, derived.stepsPerEpoch);
  log.event({
    event: 'eval',
    step,
    epoch,
    loss: Number.isFinite(loss) ? loss : null,
    metrics,
    samples,
    seconds,
    samples_per_s: samples / seconds,
    ...(answers?.file ? { answers_file: answers.file } : {}),
  });
  const named = Object.fromEntries(Object.entries(metrics).map(([name, value]) => [`eval_${name}`, value]));
  state.logHistory.push({
    epoch,
    eval_loss: loss,
    ...named,
    eval_runtime: seconds,
    eval_samples_per_second: samples / seconds,
    step,
  });
  if (step > 0) keepBest(run, { loss, ...metrics });
}

/** Saves the model if the metric that decides says that it is the best so far. */
function keepBest(run: Run, values: Readonly<Record<string, number>>): void {
  const { bestMetric: best, step } = run.state;
  const { metric_for_best_model: metric, greater_is_better: greater } = run.config.eval;
  if (metric === null) return;
  const value = values[metric];
  if (value === undefined || !Number.isFinite(value)) {
    run.log.warn('no_metric', `${metric} is ${value ?? 'unknown'} at step ${step}: this model is not the best.`, step);
    return;
  }
  if (best === null || (greater ? value > best : value < best)) saveBest(run, value);
}
