/**
 * What those who watch a run folder see beside the steps. The process and its command, what memory is planned with, and
 * the machine's figures.
 */
import { type MemoryPlanEvent, type RunStartEvent, thisProcess } from '@minicpm-finetune/run';
import { watchSystem } from '../report/system.js';
import type { Run } from './run.js';

/** A plan that differs by less is the same. */
const CHANGE = 0.01;
/** Optimizer steps of this start after which memory has been planned. */
const WARMUP = 2;

/** The figures of a run that does not plan. */
const UNPLANNED = { budget: null, baseline: null, kept: 0 } as const;

/** Which process trains, and how it was started. */
export function processOfRun(): Pick<RunStartEvent, 'pid' | 'process_start' | 'hostname' | 'cwd' | 'command'> {
  const { pid, start, host } = thisProcess();
  const command = [process.argv0, ...process.argv.slice(1)];
  return { pid, process_start: start, hostname: host, cwd: process.cwd(), command };
}

/** Tells of a run until it is disposed; on ranks other than rank 0 of nothing. */
export class RunWatch implements Disposable {
  readonly #run: Run;
  readonly #system: Disposable | null;
  #steps = 0;
  #told: MemoryPlanEvent | null = null;

  constructor(run: Run) {
    const { log, config, training, ranks } = run;
    this.#run = run;
    const options = { folder: config.output.output_dir, device: training.device };
    this.#system = ranks.rank === 0 ? watchSystem((event) => log.event(event), options) : null;
  }

  /** An optimizer step is done: tells what memory is planned with once it is known, and when it has changed. */
  stepDone(): void {
    const { log, memory, estimated, ranks } = this.#run;
    if (ranks.rank !== 0 || ++this.#steps < WARMUP) return;
    const figures = memory === null ? UNPLANNED : memory.figures;
    if (figures === null) return; // a step without records plans nothing
    const { budget, baseline, kept } = figures;
    const lines = estimated?.likely.device ?? [];
    const by = Object.fromEntries(lines.map(({ category, bytes }) => [category, bytes]));
    const plan: MemoryPlanEvent = { event: 'memory_plan', budget, baseline, kept, by };
    if (this.#told !== null && same(this.#told.baseline, baseline)) return;
    this.#told = plan;
    log.event(plan);
  }

  [Symbol.dispose](): void {
    this.#system?.[Symbol.dispose]();
  }
}

/** The graphs that are kept change with every batch; a plan is another one when what it stands on is. */
function same(a: number | null, b: number | null): boolean {
  return a === b || (a !== null && b !== null && Math.abs(a - b) <= CHANGE * a);
}
