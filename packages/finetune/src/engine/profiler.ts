/**
 * A trace of a run's first steps in Chrome's format. chrome://tracing and ui.perfetto.dev open it: steps, blocks
 * forward and backward, loss, update, operators, waiting for data or other ranks, and memory. Without --profile none of its hooks
 * exist.
 *
 * Operators inside a backward pass are libtorch's own and seen as a whole: as the part of the block's span without operators.
 */
import type { PlanNode } from '@minicpm-finetune/minicpm-v';
import { liveTensors, traceOperators } from '@minicpm-finetune/torch';

/** One entry of the format; times in microseconds. */
export interface TraceEvent {
  readonly name: string;
  /** X: a span with a duration; C: counters. */
  readonly ph: 'X' | 'C' | 'M';
  readonly cat?: string;
  readonly ts: number;
  readonly dur?: number;
  readonly pid: number;
  readonly tid: number;
  readonly args?: Readonly<Record<string, number | string>>;
}

/** What a block is doing. */
export type Phase = 'forward' | 'recompute' | 'backward';

/** Observer of the phases of a step. */
export interface StepProfile {
  /** Runs something and records when. Categories: data, loss, optimizer, collective (a wait for other ranks). */
  span<T>(name: string, category: string, run: () => T): T;
  /** Runs a block's pass and records when. */
  block<T>(phase: Phase, node: PlanNode, run: () => T): T;
}

const PLACE = { pid: 1, tid: 1 };
const micro = (milliseconds: number): number => Math.round(milliseconds * 1000);

export interface ProfilerOutput {
  /** Writes the trace. */
  write(text: string): void;
  /** Gets the message when that fails; the run continues. */
  failed(message: string): void;
}

export class Profiler implements StepProfile {
  readonly events: TraceEvent[] = [
    { name: 'process_name', ph: 'M', ts: 0, ...PLACE, args: { name: 'minicpm-finetune' } },
    { name: 'thread_name', ph: 'M', ts: 0, ...PLACE, args: { name: 'training' } },
  ];
  #left: number;
  #waited = 0;

  readonly path: string;
  readonly #output: ProfilerOutput;

  /** Traces this many steps and then writes the trace, which a message calls `path`. */
  constructor(steps: number, path: string, output: ProfilerOutput) {
    this.path = path;
    this.#output = output;
    this.#left = steps;
  }

  get active(): boolean {
    return this.#left > 0;
  }

  /** Runs something and records when. */
  span<T>(name: string, category: string, run: () => T): T {
    const start = performance.now();
    try {
      return run();
    } finally {
      this.#add(name, category, start, performance.now());
    }
  }

  /** Runs a block's pass; records its time, and the memory after it. */
  block<T>(phase: Phase, node: PlanNode, run: () => T): T {
    const result = this.span(node.name, phase, run);
    this.#memory();
    return result;
  }

  /** Records a wait for data that ends now. `seconds`: all the time waited so far. */
  wait(seconds: number): void {
    const now = performance.now();
    this.#add('data wait', 'data', now - (seconds - this.#waited) * 1000, now);
    this.#waited = seconds;
  }

  /** Runs an optimizer step. Writes the file after the last one. */
  step<T>(step: number, run: () => T): T {
    traceOperators((name, from, to) => this.#add(name, 'operator', from, to));
    try {
      return this.span(`step ${step}`, 'step', run);
    } finally {
      traceOperators(null);
      this.#memory();
      this.#left--;
      if (!this.active) this.write();
    }
  }

  /** Writes what there is and ends tracing. */
  write(): void {
    this.#left = 0;
    try {
      this.#output.write(JSON.stringify({ traceEvents: this.events, displayTimeUnit: 'ms' }));
    } catch (error) {
      this.#output.failed(`THE TRACE WAS NOT SAVED in ${this.path}: ${(error as Error).message}`);
    }
    this.events.length = 0;
  }

  #add(name: string, cat: string, start: number, end: number): void {
    this.events.push({ name, cat, ph: 'X', ts: micro(start), dur: micro(end - start), ...PLACE });
  }

  #memory(): void {
    const { tensors, bytes } = liveTensors();
    const ts = micro(performance.now());
    const resident = process.memoryUsage.rss();
    this.events.push({ name: 'memory', ph: 'C', ts, ...PLACE, args: { resident, tensors: bytes } });
    this.events.push({ name: 'live tensors', ph: 'C', ts, ...PLACE, args: { tensors } });
  }
}

/** Runs something, traced if there is a profiler. */
export function traced<T>(profile: StepProfile | null | undefined, name: string, category: string, run: () => T): T {
  return profile ? profile.span(name, category, run) : run();
}
