/** The numbers of the events of one kind as columns that grow. A row for each event, a column for each number. */
import type { StampedEvent } from '@minicpm-finetune/run';
import { GAP, LineShape } from './line-shape.js';
import { parsed } from './sound-event.js';

/** Times the memory of a column that is full: each copy is of a new place in memory. */
const GROWTH = 8;

/** A column of numbers. NaN: the event has no such number; `GAP`: it was not finite. */
export class GrowingColumn {
  #values = new Float64Array(64);
  /** Values up to here are set; the memory after them is untouched, so that room to grow costs none. */
  #length = 0;

  set(row: number, value: number): void {
    if (row > this.#length) this.#fillTo(row);
    else if (row === this.#values.length) this.#grow(row + 1);
    this.#values[row] = value;
    if (row === this.#length) this.#length++;
  }

  get(row: number): number {
    return row < this.#length ? this.#values[row]! : Number.NaN;
  }

  /** The first `rows` values, to be read only. A view. */
  first(rows: number): Float64Array {
    if (rows > this.#length) this.#fillTo(rows);
    return this.#values.subarray(0, rows);
  }

  /** Makes rows without a value up to `rows`, and room for one more. */
  #fillTo(rows: number): void {
    this.#grow(rows + 1);
    this.#values.fill(Number.NaN, this.#length, rows);
    this.#length = rows;
  }

  #grow(rows: number): void {
    if (rows <= this.#values.length) return;
    const larger = new Float64Array(Math.max(rows, GROWTH * this.#values.length));
    larger.set(this.#values.subarray(0, this.#length));
    this.#values = larger;
  }
}

/** What is known of every event, in the order of the columns of `Table`. */
export interface Place {
  /** Index of the start. */
  start: number;
  step: number;
  epoch: number;
  /** Seconds that the run has run. */
  time: number;
  /** Tokens that it has trained on. */
  tokens: number;
}

/** Forms of lines that are known at once: with and without the numbers that only some events have. */
const MOST_SHAPES = 16;
const MOST_VALUES = 512;
/** No metrics. */
const NO_METRICS: ReadonlySet<string> = new Set(['event', 'time', 'step', 'epoch', 'world_size', 'answers_file']);

interface KnownShape {
  readonly shape: LineShape;
  /** For each value its column; null: it is no metric. */
  readonly columns: readonly (GrowingColumn | null)[];
  readonly step: number;
  readonly epoch: number;
  readonly time: number;
}

export class Table {
  readonly place = {
    start: new GrowingColumn(),
    step: new GrowingColumn(),
    epoch: new GrowingColumn(),
    time: new GrowingColumn(),
    tokens: new GrowingColumn(),
  };
  readonly metrics = new Map<string, GrowingColumn>();
  rows = 0;
  readonly #shapes: KnownShape[] = [];
  readonly #values = new Float64Array(MOST_VALUES);
  readonly #nameOf: (path: string) => string | null;
  #row: KnownShape | null = null;

  /** @param nameOf the metric of a path in the event; null: none */
  constructor(nameOf: (path: string) => string | null) {
    this.#nameOf = nameOf;
  }

  /**
   * Reads a line; `addRow` then makes a row of it.
   *
   * @returns false: the line is no event
   */
  read(bytes: Buffer, start: number, end: number): boolean {
    if (this.#readKnown(bytes, start, end)) return true;
    const event = parsed(bytes.toString('utf8', start, end));
    return event !== null && this.readEvent(event);
  }

  /** Reads an event however its line was written; as `read`. */
  readEvent(event: StampedEvent): boolean {
    const line = JSON.stringify(event);
    const bytes = Buffer.from(line);
    return this.#readKnown(bytes, 0, bytes.length) || this.#learn(line, bytes);
  }

  #readKnown(bytes: Buffer, start: number, end: number): boolean {
    for (let i = 0; i < this.#shapes.length; i++) {
      const known = this.#shapes[i]!;
      if (!known.shape.read(bytes, start, end, this.#values)) continue;
      if (i > 0) this.#shapes.unshift(...this.#shapes.splice(i, 1));
      this.#row = known;
      return true;
    }
    return false;
  }

  /** Of the line that was read last; NaN without it. Time in milliseconds since 1970. */
  get(name: 'step' | 'epoch' | 'time'): number {
    const index = this.#row?.[name] ?? -1;
    return index < 0 ? Number.NaN : this.#values[index]!;
  }

  addRow(place: Place): void {
    const { rows: row } = this;
    const { start, step, epoch, time, tokens } = this.place;
    start.set(row, place.start);
    step.set(row, place.step);
    epoch.set(row, place.epoch);
    time.set(row, place.time);
    tokens.set(row, place.tokens);
    const { columns } = this.#row!;
    for (let i = 0; i < columns.length; i++) columns[i]?.set(row, this.#values[i]!);
    this.rows++;
  }

  #learn(line: string, bytes: Buffer): boolean {
    const shape = LineShape.of(line);
    if (shape === null || shape.paths.length > MOST_VALUES) return false;
    const columns = shape.paths.map((path) => (NO_METRICS.has(path) ? null : this.#columnOf(this.#nameOf(path))));
    const index = (name: string): number => shape.paths.indexOf(name);
    this.#row = { shape, columns, step: index('step'), epoch: index('epoch'), time: index('time') };
    this.#shapes.unshift(this.#row);
    this.#shapes.length = Math.min(this.#shapes.length, MOST_SHAPES);
    return shape.read(bytes, 0, bytes.length, this.#values);
  }

  #columnOf(metric: string | null): GrowingColumn | null {
    if (metric === null) return null;
    const column = this.metrics.get(metric) ?? new GrowingColumn();
    this.metrics.set(metric, column);
    return column;
  }

  /** Points of a metric: rows that have it. */
  pointsOf(metric: string): number {
    const column = this.metrics.get(metric);
    let points = 0;
    for (let row = 0; column !== undefined && row < this.rows; row++) if (!Number.isNaN(column.get(row))) points++;
    return points;
  }

  /** Of a row; null: not finite or missing. */
  value(metric: string, row: number): number | null {
    const value = this.metrics.get(metric)?.get(row) ?? Number.NaN;
    return Number.isNaN(value) || value === GAP ? null : value;
  }
}
