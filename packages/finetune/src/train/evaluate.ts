/** Evaluation: mean cross entropy of supervised tokens. In the memory of one batch. */
import { setLoraTraining } from '@minicpm-finetune/minicpm-v';
import { epochAt } from '@minicpm-finetune/run';
import { yieldToEventLoop } from '@minicpm-finetune/torch';
import type { Dataset } from '../data/dataset.js';
import { collate } from '../engine/collate.js';
import { evaluateBatch } from '../engine/micro-batch.js';
import { asTask } from '../report/reporter.js';
import { answerRecords } from './answers.js';
import { openPass } from './open-data.js';
import type { Run } from './run.js';
import { saveBest } from './saving.js';

interface Evaluation {
  readonly loss: number;
  readonly samples: number;
  readonly seconds: number;
}

/** Goes through the evaluation data once. Dropout is off meanwhile; nothing is kept of a batch but its summed loss. */
async function evaluate({ config, data, log, training, vision }: Run, dataset: Dataset): Promise<Evaluation> {
  const { model, device } = training;
  const started = performance.now();
  const loader = await openPass(config, data, dataset, config.batch.per_device_eval_batch_size, log.reporter);
  const task = { label: 'Evaluating', total: dataset.length, unit: 'records' };
  let [sum, tokens, samples] = [0, 0, 0];
  setLoraTraining(model, false);
  try {
    await asTask(log.reporter, task, async (update) => {
      for await (const micro of loader) {
        if (micro.samples.length === 0) continue;
        const result = evaluateBatch(model, collate(micro.samples, device), vision);
        sum += result.sum;
        tokens += result.count;
        samples += micro.samples.length;
        update(samples, tokens > 0 ? `loss ${(sum / tokens).toFixed(4)}` : '');
        await yieldToEventLoop();
      }
    });
  } finally {
    setLoraTraining(model, true);
    await loader.close();
  }
  return { loss: sum / tokens, samples, seconds: (performance.now() - started) / 1000 };
}

/** Evaluates, logs it, and keeps the best checkpoint if a metric is configured. Nothing is saved by the evaluation before the first step. */
export async function runEvaluation(run: Run): Promise<void> {
  const { config, data, log, derived, state } = run;
  const { step } = state;
  if (data.evaluation === null) return;
  const started = performance.now();
  const { loss, samples, seconds } = await evaluate(run, data.evaluation);
  const answers = config.eval.eval_generate > 0 ? await answerRecords(run) : null;
  log.exclude((performance.now() - started) / 1000);
  const metrics = { ...answers?.metrics };
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
