/** Evaluation: the mean cross entropy over the supervised tokens of a data set, in the memory of one batch. */
import { setLoraTraining } from '@minicpm-finetune/minicpm-v';
import type { RunConfig } from '@minicpm-finetune/run';
import { collate } from './collate.js';
import type { Dataset, Notice } from './data/dataset.js';
import { openPass, type RunData } from './data-setup.js';
import type { TrainingModel } from './model-setup.js';
import type { Progress } from './progress.js';
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
      const result = evaluateBatch(model, collate(micro.samples, config.precision.dtype));
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
