/** Events of a run in words. The fields of a training line, and the lines of all other events. Text only, no output. */
import type { RunEvent, StepEvent } from './events.js';
import { formatBytes, formatCount, formatDuration, formatNumber, formatRate } from './format.js';

/**
 * The parts of a training line, most important first: a narrow terminal shows as many as fit.
 *
 * @param length of the whole run, for `step 3/100`.
 */
export function stepFields(
  status: Omit<StepEvent, 'event'>,
  length: { totalSteps: number; epochs: number } | undefined,
): string[] {
  const fields = [
    length === undefined ? `step ${status.step}` : `step ${status.step}/${length.totalSteps}`,
    `loss ${formatNumber(status.loss)}`,
    ...preferenceFields(status),
    `ETA ${formatDuration(status.eta_seconds)}`,
    `lr ${formatRate(status.learning_rate)}`,
    `grad norm ${formatNumber(status.grad_norm)}`,
    `${formatCount(status.samples_per_s)} samples/s`,
    `${formatCount(status.supervised_tokens_per_s)} supervised tokens/s`,
    `wait ${Math.round(status.data_wait_share * 100)} %`,
    `memory ${formatBytes(status.memory.rss)}`,
    `epoch ${formatCount(status.epoch)}${length === undefined ? '' : `/${formatCount(length.epochs)}`}`,
  ];
  if (status.loss_scale !== undefined) fields.push(`loss scale ${status.loss_scale}`);
  if (status.skipped_steps) fields.push(`skipped ${status.skipped_steps}`);
  return fields;
}

function preferenceFields({ preference }: Pick<StepEvent, 'preference'>): string[] {
  const named = [
    ['accuracy', 'rewards/accuracies'],
    ['margin', 'rewards/margins'],
    ['chosen', 'rewards/chosen'],
  ] as const;
  return named.flatMap(([label, name]) => {
    const value = preference?.[name];
    return value === undefined ? [] : [`${label} ${formatNumber(value)}`];
  });
}

const STOP_REASONS = {
  sigint: 'Ctrl-C',
  sigterm: 'SIGTERM',
  stop_file: 'a STOP file in the run folder',
  abort: 'the program asked for it',
  nonfinite: 'a loss or gradient that is not finite',
} as const;

/** The lines for an event that is no step. */
export function describeEvent(event: Exclude<RunEvent, StepEvent>): string[] {
  switch (event.event) {
    case 'run_start': {
      const share = ((100 * event.trainable_parameters) / event.total_parameters).toPrecision(3);
      const lines = [
        `${formatCount(event.trainable_parameters)} of ${formatCount(event.total_parameters)} parameters train (${Number(share)} %), on ${event.device}`,
        `${event.train_samples} records, ${event.total_steps} steps`,
        ...event.derived,
      ];
      if (event.resumed_at_step > 0) lines.push(`continuing after step ${event.resumed_at_step}`);
      return lines;
    }
    case 'eval': {
      const metrics = Object.entries(event.metrics).map(([name, value]) => `, ${name} ${formatNumber(value)}`);
      const where = `${event.samples} records in ${formatDuration(event.seconds)}`;
      return [`eval at step ${event.step}: loss ${formatNumber(event.loss)}${metrics.join('')} (${where})`];
    }
    case 'checkpoint': {
      const removed = event.removed.length === 0 ? '' : `, removed ${event.removed.join(' and ')}`;
      return [`saved ${event.path} (${formatBytes(event.bytes)} in ${event.seconds.toFixed(1)} s)${removed}`];
    }
    case 'phase':
    case 'system':
    case 'memory_plan':
      return []; // for those who watch the file
    case 'warning':
      return [`warning: ${event.message}`];
    case 'stop':
      return [`stopping after step ${event.step}: ${STOP_REASONS[event.reason]}`];
    case 'run_end': {
      const loss = event.train_loss === undefined ? '' : `, mean loss ${formatNumber(event.train_loss)}`;
      return [`${event.status} after step ${event.step}, ${formatDuration(event.seconds)}${loss}`]; // the error is thrown, and said there
    }
  }
}
