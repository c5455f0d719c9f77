/** Which metrics share a chart. And how each chart writes its values. */
import type { Series } from '../../../src/shared/api.js';
import type { Line } from '../../charts/lines.js';

export type ValueKind = 'value' | 'rate' | 'count' | 'percent' | 'bytes' | 'seconds';

export interface ChartGroup {
  /** A key of the titles; of a metric that this page does not know, its name. */
  readonly key: string;
  readonly metrics: readonly string[];
  readonly kind: ValueKind;
  /** Averages help: the values jump from step to step. */
  readonly smoothed: boolean;
}

type Known = Omit<ChartGroup, 'metrics'> & { readonly takes: RegExp };

/** In the order in which they are shown. */
const KNOWN: readonly Known[] = [
  { key: 'loss', takes: /^(loss|eval_loss)$/, kind: 'value', smoothed: true },
  { key: 'rewards', takes: /^(eval_)?rewards\//, kind: 'value', smoothed: true },
  { key: 'logps', takes: /^(eval_)?logps\//, kind: 'value', smoothed: true },
  { key: 'eval', takes: /^eval_/, kind: 'value', smoothed: false },
  { key: 'learning_rate', takes: /^learning_rate$/, kind: 'rate', smoothed: false },
  { key: 'grad_norm', takes: /^grad_norm$/, kind: 'value', smoothed: true },
  { key: 'tokens', takes: /^(supervised_)?tokens_per_s$/, kind: 'count', smoothed: true },
  { key: 'samples_per_s', takes: /^samples_per_s$/, kind: 'count', smoothed: true },
  { key: 'step_seconds', takes: /^step_seconds$/, kind: 'seconds', smoothed: true },
  { key: 'data_wait_share', takes: /^data_wait_share$/, kind: 'percent', smoothed: true },
  { key: 'memory', takes: /^memory\.(rss|device_peak)$/, kind: 'bytes', smoothed: false },
  { key: 'tensors', takes: /^memory\.tensors$/, kind: 'count', smoothed: false },
  { key: 'eta_seconds', takes: /^eta_seconds$/, kind: 'seconds', smoothed: false },
  { key: 'skipped_steps', takes: /^skipped_steps$/, kind: 'count', smoothed: false },
  { key: 'loss_scale', takes: /^loss_scale$/, kind: 'count', smoothed: false },
  { key: 'vision_hit_rate', takes: /^vision_hit_rate$/, kind: 'percent', smoothed: false },
];

/** The charts of these metrics. Measurements of the machine have charts of their own. */
export function groupsOf(names: readonly string[]): ChartGroup[] {
  const rest = new Set(names.filter((name) => !name.startsWith('system.')));
  const groups: ChartGroup[] = [];
  for (const { takes, ...known } of KNOWN) {
    const metrics = [...rest].filter((name) => takes.test(name));
    for (const name of metrics) rest.delete(name);
    if (metrics.length > 0) groups.push({ ...known, metrics });
  }
  return [
    ...groups,
    ...[...rest].map((name) => ({ key: name, metrics: [name], kind: 'value' as const, smoothed: true })),
  ];
}

/**
 * The lines of one chart, abandoned branches after the others.
 *
 * @param nameOf the name of a metric for readers; of a branch, with the number of its start from 1.
 */
export function linesOf(group: ChartGroup, series: Series, nameOf: (metric: string, start?: number) => string): Line[] {
  const line = (metric: string, columns: Series['columns']): Line[] => {
    const column = columns[metric];
    if (column === undefined || column.x.length === 0) return [];
    const evaluation = metric.startsWith('eval_');
    return [
      {
        key: metric,
        label: nameOf(metric),
        x: column.x,
        y: column.y,
        style: group.metrics.indexOf(metric),
        ...(group.smoothed && !evaluation ? { smooth: column.smooth } : {}),
        ...(evaluation ? { dots: true } : {}),
      },
    ];
  };
  return [
    ...group.metrics.flatMap((metric) => line(metric, series.columns)),
    ...series.abandoned.flatMap(({ start, columns }) =>
      group.metrics
        .flatMap((metric) => line(metric, columns))
        .map(({ smooth, ...one }) => ({
          ...one,
          key: `${one.key}@${start}`,
          label: nameOf(one.key, start + 1),
          faint: true,
        })),
    ),
  ];
}
