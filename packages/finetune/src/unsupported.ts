/** What a configuration can ask for and this version does not do: refused before anything else, instead of being ignored. */
import { type RunConfig, UserError } from '@minicpm-finetune/run';
import { METRIC_NAMES } from './metrics.js';

/** @throws UserError naming the flag. */
export function refuseUnsupported({ engine, lora, eval: evaluation }: RunConfig): void {
  const { device } = engine;
  if (device !== 'cpu' && device !== 'auto' && lora.q_lora)
    throw refusal(
      'device',
      'cpu or auto with --q_lora',
      device,
      'Weights are dequantized on the CPU alone: give --device cpu.',
    );
  checkMetric(evaluation);
}

function checkMetric({ metric_for_best_model: metric, eval_generate: answers }: RunConfig['eval']): void {
  if (metric === null || metric === 'loss') return;
  if (!(METRIC_NAMES as readonly string[]).includes(metric)) {
    const known = ['loss', ...METRIC_NAMES].join(', ');
    throw refusal('metric_for_best_model', `one of ${known}`, metric, 'Choose one of them.');
  }
  if (answers === 0) {
    const cure = 'The metric needs answers: give --eval_generate 32, or another number of records.';
    throw refusal('metric_for_best_model', 'loss without --eval_generate', metric, cure);
  }
}

function refusal(name: string, expected: string, received: unknown, cure: string): UserError {
  const flag = `--${name}`;
  return new UserError(`Expected ${expected} for ${flag} but received ${String(received)}.`, { flag, cure });
}
