/** Which measurements of the machine share a chart. */
import type { ValueKind } from './chart-groups.js';

export interface SystemChart {
  readonly key: 'cpu' | 'memory' | 'disk' | 'gpu' | 'gpuMemory';
  /** Index of the card; null: of the machine. */
  readonly gpu: number | null;
  readonly metrics: readonly string[];
  readonly kind: ValueKind;
}

/** The charts of the series that there are. */
export function systemCharts(names: readonly string[]): SystemChart[] {
  const known = new Set(names);
  const chart = (key: SystemChart['key'], gpu: number | null, metrics: string[], kind: ValueKind): SystemChart[] => {
    const there = metrics.filter((name) => known.has(name));
    return there.length === 0 ? [] : [{ key, gpu, metrics: there, kind }];
  };
  const cards = new Set(names.flatMap((name) => /^system\.gpu\.(\d+)\./.exec(name)?.[1] ?? []).map(Number));
  return [
    ...chart('cpu', null, ['system.cpu_percent'], 'count'),
    ...chart('memory', null, ['system.rss', 'system.available'], 'bytes'),
    ...chart('disk', null, ['system.disk_free'], 'bytes'),
    ...[...cards]
      .sort((a, b) => a - b)
      .flatMap((card) => {
        const of = (field: string): string => `system.gpu.${card}.${field}`;
        return [
          ...chart('gpu', card, [of('util'), of('temp'), of('power')], 'count'),
          ...chart('gpuMemory', card, [of('mem_used'), of('mem_total')], 'bytes'),
        ];
      }),
  ];
}
