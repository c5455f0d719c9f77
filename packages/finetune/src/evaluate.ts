/** Evaluation: the mean cross entropy over the supervised tokens of a data set, in the memory of one batch. */
import { setLoraTraining } from '@minicpm-finetune/minicpm-v';
import type { RunConfig } from '@minicpm-finetune/run';
import { collate } from './collate.js';
import type { Dataset, Notice } from './data/dataset.js';
import type { Loader } from './data/loader.js';
import { openPass, type RunData } from './data-setup.js';
import type { TrainingModel } from './model-setup.js';
import type { Progress } from './progress.js';
import type { Run } from './run.js';
import { saveBest } from './saving.js';
import { evaluateBatch } from './step.js';

export interface Evaluation {
  readonly loss: number;
  readonly samples: number;
  readonly seconds: number;
}

/** Goes through the data once. Dropout is off meanwhile; nothing is kept of a batch but its summed loss. */
export async function evaluate(
  config: RunConfig,
  data: RunData,
  dataset: Dataset,
  { model }: TrainingModel,
  progress: Progress,
  notice: Notice,
): Promise<Evaluation> {
  const started = performance.now();
  const loader = await openPass(config, data, dataset, config.batch.per_device_eval_batch_size, notice);
  const task = progress.task('Evaluating', dataset.length, 'records');
  let [sum, tokens, samples] = [0, 0, 0];
  setLoraTraining(model, false);
  try {
    for await (const micro of loader) {
      if (micro.samples.length === 0) continue;
      const result = evaluateBatch(model, collate(micro.samples));
      sum += result.sum;
      tokens += result.count;
      samples += micro.samples.length;
      task.update(samples, tokens > 0 ? `loss ${(sum / tokens).toFixed(4)}` : '');
      await new Promise(setImmediate);
    }
  } finally {
    setLoraTraining(model, true);
    task.finish(samples);
    await loader.close();
  }
  return { loss: sum / tokens, samples, seconds: (performance.now() - started) / 1000 };
}

/** Evaluates, logs it, and keeps the best checkpoint if a metric says which that is. */
export async function runEvaluation(run: Run, step: number, loader?: Loader): Promise<void> {
  const { config, data, log, derived } = run;
  if (data.evaluation === null) return;
  const { loss, samples, seconds } = await evaluate(config, data, data.evaluation, run.training, log.progress, (m) =>
    log.progress.print(m),
  );
  const epoch = Number((step / derived.stepsPerEpoch).toFixed(4));
  log.event({ event: 'eval', step, epoch, loss, metrics: {}, samples, seconds, samples_per_s: samples / seconds });
  log.history.push({ epoch, eval_loss: loss, eval_runtime: seconds, eval_samples_per_second: samples / seconds, step });
  log.exclude(seconds);
  const metric = config.eval.metric_for_best_model ?? (config.eval.load_best_model_at_end ? 'loss' : null);
  if (metric === null || loader === undefined) return;
  const better =
    run.bestMetric === null || (config.eval.greater_is_better ? loss > run.bestMetric : loss < run.bestMetric);
  if (!better) return;
  saveBest(run, step, loader, loss);
}
