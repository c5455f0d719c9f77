/**
 * Writes events.jsonl, progress and TensorBoard. Turns steps into rates. What it has to remember is in the run's state.
 */
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { EventWriter, RUN_FILES, type RunConfig, type RunEvent, type StepEvent } from '@minicpm-finetune/run';
import { liveTensors } from '@minicpm-finetune/torch';
import { type Reporter, SILENT } from './reporter.js';
import { TensorBoard } from './tensorboard.js';

/** One optimizer step as the log takes it in. */
export interface StepRecord {
  readonly step: number;
  readonly epoch: number;
  readonly gradNorm: number;
  readonly learningRate: number;
  readonly samples: number;
  readonly tokens: number;
  readonly supervisedTokens: number;
  /** Mean over the steps since the last one that was logged; null: none of them had a finite loss. */
  readonly meanLoss: number | null;
  readonly lossScale: number | null;
  readonly skippedSteps: number;
  /** Seconds waited for data since the start of the run. */
  readonly dataWaitSeconds: number;
  /** Pictures looked up in the vision cache since the start of the run, and found; null: no cache. */
  readonly vision: { readonly pictures: number; readonly hits: number } | null;
}

export interface RunLogOptions {
  /** The step resumed from. */
  readonly startStep?: number;
  readonly reporter?: Reporter | undefined;
  /** Gets every event after it was written. */
  readonly onEvent?: ((event: RunEvent) => void) | undefined;
}

const finite = (value: number): number | null => (Number.isFinite(value) ? value : null);

interface Totals {
  steps: number;
  samples: number;
  tokens: number;
  supervised: number;
}

const EMPTY: Totals = { steps: 0, samples: 0, tokens: 0, supervised: 0 };

export class RunLog {
  readonly reporter: Reporter;
  /** With --report_to tensorboard. */
  readonly board: TensorBoard | null;
  readonly #writer: EventWriter;
  #since: Totals = { ...EMPTY };
  #sinceTime = performance.now();
  #sinceWait = 0;
  #sinceVision = { pictures: 0, hits: 0 };
  /** Whether the last event could not be written. */
  #losing = false;

  readonly #onEvent: (event: RunEvent) => void;

  constructor({ logging, output: { output_dir: folder } }: RunConfig, options: RunLogOptions = {}) {
    const { startStep = 0, reporter = SILENT, onEvent = () => {} } = options;
    this.reporter = reporter;
    this.#onEvent = onEvent;
    mkdirSync(folder, { recursive: true });
    this.#writer = new EventWriter(join(folder, RUN_FILES.events));
    const logs = logging.logging_dir ?? join(folder, RUN_FILES.logs);
    this.board = logging.report_to.includes('tensorboard') ? new TensorBoard(logs, startStep) : null;
  }

  /** Writes an event and shows it. A full disk does not end the run: events are lost, which is said once. */
  event(event: RunEvent): void {
    try {
      this.#writer.write(event);
      this.board?.event(event);
      this.#losing = false;
    } catch (error) {
      if (!this.#losing) this.#tellLost((error as Error).message);
      this.#losing = true;
    }
    this.#tell(event);
  }

  #tell(event: RunEvent): void {
    this.reporter.event?.(event);
    this.#onEvent(event);
  }

  #tellLost(reason: string): void {
    const message = `EVENTS ARE NOT RECORDED in ${this.#writer.path}: ${reason}. The run goes on.`;
    this.#tell({ event: 'warning', kind: 'write_failed', message });
  }

  warn(kind: string, message: string, step?: number): void {
    this.event({ event: 'warning', kind, message, ...(step === undefined ? {} : { step }) });
  }

  /** Takes in a step; writes a step event if it is `due`, and returns it. */
  step(record: StepRecord, totalSteps: number, due: boolean): StepEvent | null {
    this.#since.steps++;
    this.#since.samples += record.samples;
    this.#since.tokens += record.tokens;
    this.#since.supervised += record.supervisedTokens;
    const event = this.#stepEvent(record, totalSteps);
    if (due) {
      this.event(event);
      this.#since = { ...EMPTY };
      this.#sinceTime = performance.now();
      this.#sinceWait = record.dataWaitSeconds;
      if (record.vision) this.#sinceVision = record.vision;
    }
    this.reporter.step?.(event);
    return due ? event : null;
  }

  /** Time that is no training (evaluation, saving) does not count in the rates. */
  exclude(seconds: number): void {
    this.#sinceTime += seconds * 1000;
  }

  #stepEvent(record: StepRecord, totalSteps: number): StepEvent {
    const { steps, samples, tokens, supervised } = this.#since;
    const seconds = Math.max(1e-9, (performance.now() - this.#sinceTime) / 1000);
    return {
      event: 'step',
      step: record.step,
      epoch: record.epoch,
      loss: record.meanLoss,
      grad_norm: finite(record.gradNorm),
      learning_rate: record.learningRate,
      ...(record.lossScale === null ? {} : { loss_scale: record.lossScale }),
      ...(record.skippedSteps === 0 ? {} : { skipped_steps: record.skippedSteps }),
      step_seconds: seconds / steps,
      samples_per_s: samples / seconds,
      tokens_per_s: tokens / seconds,
      supervised_tokens_per_s: supervised / seconds,
      data_wait_share: Math.min(1, (record.dataWaitSeconds - this.#sinceWait) / seconds),
      ...this.#visionHitRate(record),
      memory: { rss: process.memoryUsage.rss(), tensors: liveTensors().tensors },
      eta_seconds: ((totalSteps - record.step) * seconds) / steps,
    };
  }

  #visionHitRate({ vision }: StepRecord): { vision_hit_rate?: number } {
    const pictures = (vision?.pictures ?? 0) - this.#sinceVision.pictures;
    return vision === null || pictures === 0
      ? {}
      : { vision_hit_rate: (vision.hits - this.#sinceVision.hits) / pictures };
  }

  close(): void {
    this.#writer.close();
    this.board?.close();
  }
}
