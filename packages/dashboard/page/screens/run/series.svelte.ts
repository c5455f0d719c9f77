/** The series of a run as its charts show them. Loaded again when the choice changes or new points come. */
import type { Series, SeriesRequest, XAxis } from '../../../src/shared/api.js';
import { call } from '../../client/request.js';
import { Resource } from '../../kit/resource.svelte.js';
import { format, t } from '../../messages/current.svelte.js';
import type { ValueKind } from './chart-groups.js';

/** What is drawn on a chart of this page's width at most: about two for each of its pixels. */
export const POINTS = 800;

/** A resource that reads the series which `choose` asks for. */
export const seriesResource = (choose: () => { id: string; request: SeriesRequest }): Resource<Series> =>
  new Resource((signal) => {
    const { id, request } = choose();
    return call('GET /api/runs/:id/series', { id, request, signal });
  });

/** The words and numbers of x. */
export function xFormat(axis: XAxis): { name: string; write: (x: number) => string } {
  const name = t().run.charts.axes[axis];
  switch (axis) {
    case 'step':
      return { name, write: (x) => format().whole(x) };
    case 'epoch':
      return { name, write: (x) => format().count(x) };
    case 'time':
      return { name, write: (x) => format().duration(x) };
    case 'tokens':
      return { name, write: (x) => format().count(x) };
  }
}

/** How a chart writes its values. */
export const yFormat =
  (kind: ValueKind) =>
  (y: number | null | undefined): string => {
    switch (kind) {
      case 'rate':
        return format().rate(y);
      case 'count':
        return format().count(y);
      case 'percent':
        return format().percent(y, 1);
      case 'bytes':
        return format().bytes(y);
      case 'seconds':
        return format().seconds(y);
      case 'value':
        return format().value(y);
    }
  };

/** How the axis of a chart writes its values. */
export const tickFormat = (kind: ValueKind): ((y: number) => string) =>
  kind === 'value' || kind === 'count' ? (y) => format().tick(y) : yFormat(kind);

/** The name of a metric for readers; `start`: of an abandoned branch. */
export function metricName(metric: string, start?: number): string {
  const { names, branch, evaluated } = t().run.charts;
  const known = (names as Readonly<Record<string, string>>)[metric];
  // Metrics of evaluations have a chart of their own, unless steps have them, too.
  const plain = metric.replace(/^eval_/, '');
  const name = known ?? (metric !== plain && plain.includes('/') ? evaluated(plain) : plain);
  return start === undefined ? name : branch(name, format().whole(start));
}
