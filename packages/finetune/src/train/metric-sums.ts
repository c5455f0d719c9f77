/** Means of named numbers over steps. Since the last one that was logged. */

/** Mean of metrics over some steps. */
export interface MetricSums {
  readonly sums: Record<string, number>;
  /** Steps by metric: a step without an answer of a kind has no metric of it. */
  readonly steps: Record<string, number>;
}

export const NO_METRICS: MetricSums = { sums: {}, steps: {} };

export function addMetrics({ sums, steps }: MetricSums, metrics: Readonly<Record<string, number>>): MetricSums {
  const all = { sums: { ...sums }, steps: { ...steps } };
  for (const [name, value] of Object.entries(metrics)) {
    all.sums[name] = (all.sums[name] ?? 0) + value;
    all.steps[name] = (all.steps[name] ?? 0) + 1;
  }
  return all;
}

export const meanMetrics = ({ sums, steps }: MetricSums): Record<string, number> =>
  Object.fromEntries(Object.entries(sums).map(([name, sum]) => [name, sum / steps[name]!]));
