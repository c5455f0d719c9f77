/** The series of a run for charts. They are columns of points over step, epoch, time or tokens, each metric with its own points. */
import type { Column, Mark, Series, XAxis } from '../../shared/api.js';
import { reduced, smoothed } from './reduce.js';
import type { RunRecord, Source } from './run-record.js';
import type { GrowingColumn, Table } from './table.js';

export interface SeriesOptions {
  readonly x: XAxis;
  readonly metrics: readonly string[];
  /** Most points of a metric. */
  readonly points: number;
  readonly from: number;
  readonly to: number;
  /** Weight of the average before, 0 to below 1. */
  readonly smoothing: number;
  readonly abandoned: boolean;
}

const SOURCES: readonly Source[] = ['step', 'eval', 'system'];

export function seriesOf(record: RunRecord, options: SeriesOptions): Series {
  const kept = record.lastKeptSteps;
  const columns: Record<string, Column> = {};
  const abandoned: Record<number, Record<string, Column>> = {};
  for (const metric of options.metrics) {
    const table = SOURCES.map((source) => record.tables[source]).find(({ metrics }) => metrics.has(metric));
    if (table === undefined) continue;
    columns[metric] = columnOf(table, metric, options, (start, step) => step <= kept[start]!);
    if (!options.abandoned) continue;
    for (const [start, last] of kept.entries()) {
      const column = columnOf(table, metric, options, (of, step) => of === start && step > last);
      if (column.of > 0) abandoned[start] = { ...abandoned[start], [metric]: column };
    }
  }
  return {
    x: options.x,
    columns,
    abandoned: Object.entries(abandoned).map(([start, of]) => ({ start: Number(start), columns: of })),
    marks: marksOf(record, options.x, kept),
    offset: record.offset,
  };
}

function columnOf(
  table: Table,
  metric: string,
  options: SeriesOptions,
  belongs: (start: number, step: number) => boolean,
): Column {
  const all = rowsOf(table, metric, belongs);
  const values = table.metrics.get(metric)!;
  const [x, y] = [take(all, table.place[options.x]), take(all, values)];
  const smooth = options.smoothing > 0 ? smoothed(y, options.smoothing) : null;
  const [first, last] = [firstAtLeast(x, options.from), firstAbove(x, options.to)];
  const chosen = reduced({ x: x.subarray(first, last), y: y.subarray(first, last) }, options.points);
  const step = table.place.step;
  return {
    x: Array.from(chosen, (i) => x[first + i]!),
    step: Array.from(chosen, (i) => step.get(all[first + i]!)),
    y: Array.from(chosen, (i) => finite(y[first + i]!)),
    smooth: smooth === null ? [] : Array.from(chosen, (i) => finite(smooth[first + i]!)),
    of: last - first,
  };
}

const finite = (value: number): number | null => (Number.isFinite(value) ? value : null);

function rowsOf(table: Table, metric: string, belongs: (start: number, step: number) => boolean): Uint32Array {
  const values = table.metrics.get(metric)!;
  const { start, step } = table.place;
  const rows = new Uint32Array(table.rows);
  let count = 0;
  for (let row = 0; row < table.rows; row++) {
    if (!Number.isNaN(values.get(row)) && belongs(start.get(row), step.get(row))) rows[count++] = row;
  }
  return rows.subarray(0, count);
}

function take(rows: Uint32Array, column: GrowingColumn): Float64Array {
  return Float64Array.from(rows, (row) => column.get(row));
}

function firstAtLeast(x: Float64Array, limit: number): number {
  let at = 0;
  while (at < x.length && x[at]! < limit) at++;
  return at;
}

function firstAbove(x: Float64Array, limit: number): number {
  let at = x.length;
  while (at > 0 && x[at - 1]! > limit) at--;
  return at;
}

function marksOf(record: RunRecord, axis: XAxis, kept: readonly number[]): Mark[] {
  const position = positions(record, axis, kept);
  const marks: Mark[] = [];
  for (const { resumedAtStep: step } of record.starts.slice(1)) marks.push({ kind: 'resume', step, x: position(step) });
  for (const { start, event } of record.checkpoints)
    if (event.step <= kept[start]!) marks.push({ kind: 'checkpoint', step: event.step, x: position(event.step) });
  for (const { kind, step } of record.warnings)
    if (kind === 'nonfinite' && step !== undefined) marks.push({ kind: 'nonfinite', step, x: position(step) });
  return marks;
}

/** Where a step is on the axis: at the last logged step up to it. */
function positions({ tables }: RunRecord, axis: XAxis, kept: readonly number[]): (step: number) => number {
  if (axis === 'step') return (step) => step;
  const { place, rows } = tables.step;
  const main: number[] = [];
  for (let row = 0; row < rows; row++) if (place.step.get(row) <= kept[place.start.get(row)]!) main.push(row);
  return (step) => {
    let [low, high] = [0, main.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (place.step.get(main[middle]!) <= step) low = middle + 1;
      else high = middle;
    }
    return low === 0 ? 0 : place[axis].get(main[low - 1]!);
  };
}
