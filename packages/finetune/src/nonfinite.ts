/** A loss or gradient that is not finite: what happens then. */
import { UserError } from '@minicpm-finetune/run';
import type { MicroBatch } from './data/loader.js';
import type { Run } from './run.js';
import type { StepResult } from './step.js';

/** A loss or gradient that is not finite: float16 lowers its scale; else the run ends or skips, as asked. */
export function handleNonfinite(
  run: Run,
  result: StepResult,
  micros: readonly MicroBatch[],
  scaleHelps: boolean,
): void {
  run.skippedSteps++;
  const step = micros[0]!.step + 1;
  const records = micros.flatMap((micro) => micro.indices).join(', ');
  const what = `the loss was ${result.loss} and the gradient norm ${result.gradNorm} at step ${step} (records ${records})`;
  if (scaleHelps && Number.isFinite(result.loss)) return;
  if (run.config.precision.on_nonfinite === 'skip') {
    run.log.warn('nonfinite', `The step was skipped: ${what}.`, step);
    return;
  }
  throw new UserError(`Expected a finite loss and gradient but ${what}.`, {
    cure: 'Lower --learning_rate, set --max_grad_norm, or skip such steps with --on_nonfinite skip.',
  });
}
