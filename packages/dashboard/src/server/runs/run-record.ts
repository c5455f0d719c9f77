/**
 * All that a run's `events.jsonl` tells. For the screens of one run: columns of numbers, and the events that are no numbers. Read on, never
 * read again.
 *
 * A resumed run repeats steps: what an earlier start did after the step that a later one resumed at is an abandoned branch. Time and tokens
 * go on from that step, without the pause between.
 */
import type { StampedEvent } from '@minicpm-finetune/run';
import { isAt } from './bytes.js';
import { readLines } from './lines.js';
import { parsed, sound } from './sound-event.js';
import { Table } from './table.js';

type EventOf<K extends StampedEvent['event']> = StampedEvent & { event: K };

const MOST_WARNINGS = 1000;
const MOST_DAMAGED = 1000;

export interface StartRecord {
  readonly resumedAtStep: number;
  /** Milliseconds since 1970. */
  readonly began: number;
  /** Seconds and tokens of the run when it began. */
  readonly time: number;
  readonly tokens: number;
}

/** Metrics of preference tuning have the names that TRL gives them. */
const stepMetric = (path: string): string => path.replace(/^preference\./, '');
const NOT_EVALUATED: ReadonlySet<string> = new Set(['samples', 'seconds', 'samples_per_s']);
const evalMetric = (path: string): string | null =>
  NOT_EVALUATED.has(path) ? null : `eval_${path.replace(/^metrics\./, '').replace(/^eval_/, '')}`;
const systemMetric = (path: string): string => `system.${path}`;

const HEADS = {
  step: Buffer.from('{"event":"step",'),
  eval: Buffer.from('{"event":"eval",'),
  system: Buffer.from('{"event":"system",'),
} as const;
/** Where the second letter of a kind stands, and what it is. */
const SECOND = 11;
const [T, V, Y] = [116, 118, 121];

export type Source = keyof typeof HEADS;

export class RunRecord {
  offset = 0;
  readonly tables: Readonly<Record<Source, Table>> = {
    step: new Table(stepMetric),
    eval: new Table(evalMetric),
    system: new Table(systemMetric),
  };
  readonly starts: StartRecord[] = [];
  start: EventOf<'run_start'> | null = null;
  memoryPlan: EventOf<'memory_plan'> | null = null;
  end: EventOf<'run_end'> | null = null;
  readonly warnings: EventOf<'warning'>[] = [];
  /** Of the start with the index `start`. */
  readonly checkpoints: { start: number; event: EventOf<'checkpoint'> }[] = [];
  readonly evals: { start: number; event: EventOf<'eval'> }[] = [];
  readonly damaged: number[] = [];
  #step = 0;
  #epoch = 0;
  #tokens = 0;

  /** Takes in what the file has got up to `size` bytes. */
  read(path: string, size: number): void {
    if (size <= this.offset) return;
    this.offset = readLines(path, this.offset, size, (bytes, start, end, offset) => {
      if (!this.#line(bytes, start, end) && end > start && this.damaged.length < MOST_DAMAGED)
        this.damaged.push(offset);
    });
  }

  #line(bytes: Buffer, start: number, end: number): boolean {
    const source = sourceOf(bytes, start, end);
    if (source !== null) {
      if (!this.tables[source].read(bytes, start, end)) return false;
      this.#addRow(source);
      if (source !== 'eval') return true;
    }
    const event = parsed(bytes.toString('utf8', start, end));
    if (event === null) return false;
    if (source === null && isSource(event.event) && this.tables[event.event].readEvent(event))
      this.#addRow(event.event);
    const known = sound(event);
    if (known !== null) this.#take(known);
    return known !== null;
  }

  #addRow(source: Source): void {
    const table = this.tables[source];
    const begin = this.starts.at(-1);
    const moment = table.get('time');
    const seconds = begin === undefined ? 0 : (moment - begin.began) / 1000;
    const time = (begin?.time ?? 0) + (Number.isFinite(seconds) ? Math.max(0, seconds) : 0);
    const step = source === 'system' ? this.#step : wholeOf(table.get('step'));
    const epoch = source === 'system' ? this.#epoch : table.get('epoch');
    const row = table.rows;
    const place = { start: Math.max(0, this.starts.length - 1), step, epoch, time, tokens: this.#tokens };
    table.addRow(place);
    if (source !== 'step') return;
    const seen = (table.value('tokens_per_s', row) ?? 0) * (table.value('step_seconds', row) ?? 0);
    this.#tokens += Math.max(0, seen * (step - this.#step)) || 0;
    table.place.tokens.set(row, this.#tokens);
    if (!Number.isNaN(step)) this.#step = step;
    this.#epoch = epoch;
  }

  #take(event: StampedEvent): void {
    const start = Math.max(0, this.starts.length - 1);
    switch (event.event) {
      case 'run_start':
        this.#begin(event);
        return;
      case 'eval':
        this.evals.push({ start, event });
        return;
      case 'checkpoint':
        this.checkpoints.push({ start, event });
        return;
      case 'warning':
        if (this.warnings.length < MOST_WARNINGS) this.warnings.push(event);
        return;
      case 'memory_plan':
        this.memoryPlan = event;
        return;
      case 'run_end':
        this.end = event;
        return;
    }
  }

  #begin(event: EventOf<'run_start'>): void {
    const resumedAtStep = event.resumed_at_step ?? 0;
    const { step: table } = this.tables;
    let row = table.rows - 1;
    while (row >= 0 && !(table.place.step.get(row) <= resumedAtStep)) row--;
    const time = row < 0 ? 0 : table.place.time.get(row);
    this.#tokens = row < 0 ? 0 : table.place.tokens.get(row);
    this.#step = resumedAtStep;
    this.#epoch = row < 0 ? 0 : table.place.epoch.get(row);
    this.starts.push({ resumedAtStep, began: Date.parse(event.time), time, tokens: this.#tokens });
    this.start = event;
    this.end = null;
  }

  /** For each start, the last of its steps that no later start did again. */
  get lastKeptSteps(): number[] {
    const kept: number[] = [];
    let last = Number.POSITIVE_INFINITY;
    for (const { resumedAtStep } of this.starts.toReversed()) {
      kept.unshift(last);
      last = Math.min(last, resumedAtStep);
    }
    return kept.length === 0 ? [last] : kept;
  }
}

/** A step is a whole number; NaN: the event says none. */
const wholeOf = (step: number): number => (Number.isSafeInteger(step) && step >= 0 ? step : Number.NaN);

const isSource = (kind: string): kind is Source => Object.hasOwn(HEADS, kind);

/** The kind of a line that begins as the trainer's do; null: it may be of any kind. */
function sourceOf(bytes: Buffer, start: number, end: number): Source | null {
  const letter = bytes[start + SECOND];
  const source = letter === T ? 'step' : letter === V ? 'eval' : letter === Y ? 'system' : null;
  if (source === null) return null;
  return isAt(HEADS[source], bytes, start, end) ? source : null;
}
