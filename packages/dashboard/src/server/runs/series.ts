/** The series of a run for charts. They are columns of points over step, epoch, time or tokens, each metric with its own points. */
import type { Column, Mark, Series, XAxis } from '../../shared/api.js';
import { reduced, smoothed } from './reduce.js';
import type { RunRecord, Source } from './run-record.js';
import type { Table } from './table.js';

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
  const main = new Rows(options.x, (start, step) => step <= kept[start]!);
  const left = kept.map((last, start) => new Rows(options.x, (of, step) => of === start && step > last));
  const columns: Record<string, Column> = {};
  const abandoned: Record<number, Record<string, Column>> = {};
  for (const metric of options.metrics) {
    const table = SOURCES.map((source) => record.tables[source]).find(({ metrics }) => metrics.has(metric));
    if (table === undefined) continue;
    columns[metric] = columnOf(main.of(table), table, metric, options);
    if (!options.abandoned) continue;
    for (const [start, rows] of left.entries()) {
      const column = columnOf(rows.of(table), table, metric, options);
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

/** Some rows of a table: their places, to be used by all its metrics. */
interface Chosen {
  readonly rows: Uint32Array;
  readonly x: Float64Array;
  readonly step: Float64Array;
}

/** The rows that belong to a branch, chosen once for each table. */
class Rows {
  readonly #axis: XAxis;
  readonly #belongs: (start: number, step: number) => boolean;
  readonly #known = new Map<Table, Chosen>();

  constructor(axis: XAxis, belongs: (start: number, step: number) => boolean) {
    this.#axis = axis;
    this.#belongs = belongs;
  }

  of(table: Table): Chosen {
    const known = this.#known.get(table) ?? this.#choose(table);
    this.#known.set(table, known);
    return known;
  }

  #choose({ place, rows: count }: Table): Chosen {
    const [start, step, x] = [place.start.first(count), place.step.first(count), place[this.#axis].first(count)];
    const rows = new Uint32Array(count);
    let chosen = 0;
    for (let row = 0; row < count; row++)
      if (!Number.isNaN(x[row]!) && this.#belongs(start[row]!, step[row]!)) rows[chosen++] = row;
    const own = rows.subarray(0, chosen);
    return { rows: own, x: taken(x, own), step: taken(step, own) };
  }
}

function columnOf(all: Chosen, table: Table, metric: string, { from, to, points, smoothing }: SeriesOptions): Column {
  const { x, y } = withMetric(all, table.metrics.get(metric)!.first(table.rows));
  const [first, last] = [firstAtLeast(x, from), firstAbove(x, to)];
  const places = reduced({ x: x.subarray(first, last), y: y.subarray(first, last) }, points).map((i) => first + i);
  return {
    x: Array.from(places, (i) => x[i]!),
    y: Array.from(places, (i) => finite(y[i]!)),
    smooth: smoothing > 0 ? Array.from(smoothed(y, smoothing, places), finite) : [],
    of: last - first,
  };
}

/** The rows that have a metric: mostly all. */
function withMetric({ rows, x }: Chosen, values: Float64Array): { x: Float64Array; y: Float64Array } {
  const y = taken(values, rows);
  if (!hasNaN(y)) return { x, y };
  const has = (_: number, i: number): boolean => !Number.isNaN(y[i]!);
  return { x: x.filter(has), y: y.filter(has) };
}

function hasNaN(values: Float64Array): boolean {
  for (let i = 0; i < values.length; i++) if (Number.isNaN(values[i]!)) return true;
  return false;
}

/** The values of some rows; of all rows, themselves. */
function taken(values: Float64Array, rows: Uint32Array): Float64Array {
  if (rows.length === values.length) return values;
  const some = new Float64Array(rows.length);
  for (let i = 0; i < rows.length; i++) some[i] = values[rows[i]!]!;
  return some;
}

const finite = (value: number): number | null => (Number.isFinite(value) ? value : null);

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
  const { x, step: steps } = new Rows(axis, (start, step) => step <= kept[start]!).of(tables.step);
  return (step) => {
    let [low, high] = [0, steps.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (steps[middle]! <= step) low = middle + 1;
      else high = middle;
    }
    return low === 0 ? 0 : x[low - 1]!;
  };
}
