/**
 * Writes events.jsonl, progress and TensorBoard. Turns steps into rates. What it has to remember is in the run's state.
 * Of several ranks, rank 0 has the files and the reporter; the others have an outbox, which goes to rank 0.
 */
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import {
  EventWriter,
  type OwnFiles,
  type PhaseEvent,
  RUN_FILES,
  type RunConfig,
  type RunEvent,
  type StartupPhase,
  type StepEvent,
} from '@minicpm-finetune/run';
import { liveTensors } from '@minicpm-finetune/torch';
import type { Mail, Outbox } from './outbox.js';
import { type Reporter, SILENT } from './reporter.js';
import { TensorBoard } from './tensorboard.js';

/** One optimizer step as the log takes it in: counts are over all ranks. */
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
  /** Means over the same steps, of preference tuning; null: there is none. */
  readonly preference: Readonly<Record<string, number>> | null;
  readonly lossScale: number | null;
  readonly skippedSteps: number;
  /** Seconds waited for data since the start of the run, of each step those of the rank that waited longest. */
  readonly dataWaitSeconds: number;
  /** Resident set of the largest of the other ranks; 0: there is none. */
  readonly largestOther: number;
  /** Most bytes of tensors on this rank's device so far; null: not known. */
  readonly devicePeak: number | null;
  /** Pictures looked up in the vision cache since the start of the run, and found; null: no cache. */
  readonly vision: { readonly pictures: number; readonly hits: number } | null;
}

export interface RunLogOptions {
  /** The step resumed from. */
  readonly startStep?: number;
  readonly reporter?: Reporter | undefined;
  /** Gets every event after it was written. */
  readonly onEvent?: ((event: RunEvent) => void) | undefined;
  /** Number of ranks; 1 unless given. */
  readonly worldSize?: number;
  /** On a rank other than rank 0: nothing is written or shown here. */
  readonly outbox?: Outbox | null;
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
  /** With --report_to tensorboard, as soon as the log is open. */
  board: TensorBoard | null = null;
  readonly #config: RunConfig;
  readonly #startStep: number;
  #files: { readonly own: OwnFiles; readonly writer: EventWriter; readonly growing: readonly string[] } | null = null;
  /** Events of before the log is open. */
  #early: RunEvent[] = [];
  #since: Totals = { ...EMPTY };
  #sinceTime = performance.now();
  #sinceWait = 0;
  #sinceVision = { pictures: 0, hits: 0 };
  /** Whether the last event could not be written. */
  #losing = false;
  #phase: PhaseEvent['name'] | null = null;
  readonly #startup = new Map<StartupPhase, number>();
  #starting: { readonly name: StartupPhase; readonly since: number } | null = null;

  readonly #onEvent: (event: RunEvent) => void;
  readonly #worldSize: number;
  readonly #outbox: Outbox | null;
  /** Notices and warnings so far. */
  readonly #said = new Set<string>();

  constructor(config: RunConfig, options: RunLogOptions = {}) {
    const { startStep = 0, reporter = SILENT, onEvent = () => {}, worldSize = 1, outbox = null } = options;
    this.reporter = outbox ?? remembering(reporter, this.#said);
    this.#onEvent = onEvent;
    this.#config = config;
    this.#startStep = startStep;
    this.#worldSize = worldSize;
    this.#outbox = outbox;
  }

  /** What rank 0 should say for this rank. */
  takeMail(): Mail[] {
    return this.#outbox?.take() ?? [];
  }

  /** Says what the rank `who` sent, unless all ranks say the same. */
  hear(mail: readonly Mail[], who: string): void {
    if (this.#outbox !== null) return;
    for (const one of mail) {
      const text = 'notice' in one ? one.notice : one.warning.message;
      if (this.#said.has(text)) continue;
      this.#said.add(text);
      if ('notice' in one) this.reporter.notice(`${who}: ${text}`);
      else this.event({ ...one.warning, message: `${who}: ${text}` });
    }
  }

  /** Whether there are files. */
  get isOpen(): boolean {
    return this.#files !== null;
  }

  /** Makes the files, with the events of before: a start that failed until now has left none. */
  open(own: OwnFiles): void {
    const { logging } = this.#config;
    const { folder } = own;
    const growing: string[] = [RUN_FILES.events];
    if (this.#config.data.on_bad_record === 'skip') growing.push(RUN_FILES.badRecords);
    for (const name of growing) own.noteGrowing(name);
    if (logging.report_to.includes('tensorboard')) {
      const logs = logging.logging_dir ?? join(folder, RUN_FILES.logs);
      mkdirSync(logs, { recursive: true });
      this.board = new TensorBoard(logs, this.#startStep, (name) => {
        if (logging.logging_dir !== null) return; // another folder: its files are never removed
        growing.push(join(RUN_FILES.logs, name));
        own.noteGrowing(growing.at(-1)!);
      });
    }
    this.#files = { own, growing, writer: new EventWriter(join(folder, RUN_FILES.events)) };
    for (const event of this.#early) this.#write(event);
    this.#early = [];
  }

  /** Writes an event and shows it. A full disk does not end the run: events are lost, which is said once. */
  event(event: RunEvent): void {
    if (event.event === 'warning') this.#said.add(event.message);
    if (this.#outbox !== null) {
      if (event.event === 'warning') this.#outbox.warning(event);
      this.#onEvent(event);
      return;
    }
    if (this.#files === null) this.#early.push(event);
    else this.#write(event);
    this.#tell(event);
  }

  #write(event: RunEvent): void {
    try {
      if (!this.#files!.writer.isThere) this.#openAgain();
      this.#files!.writer.write(event);
      this.board?.event(event);
      this.#losing = false;
    } catch (error) {
      if (!this.#losing) this.#tellLost((error as Error).message);
      this.#losing = true;
    }
  }

  /** Somebody removed the run folder: it is made again. */
  #openAgain(): void {
    const { own, writer } = this.#files!;
    writer.close();
    mkdirSync(own.folder, { recursive: true });
    own.restart();
    own.noteGrowing(RUN_FILES.events);
    this.#files = { own, growing: [RUN_FILES.events], writer: new EventWriter(writer.path) };
    const message = `THE RUN FOLDER WAS REMOVED: ${own.folder} is made again, with what is saved from now on.`;
    const warning: RunEvent = { event: 'warning', kind: 'folder_removed', message };
    this.#files.writer.write(warning);
    this.#tell(warning);
  }

  #tell(event: RunEvent): void {
    this.reporter.event?.(event);
    this.#onEvent(event);
  }

  #tellLost(reason: string): void {
    const message = `EVENTS ARE NOT RECORDED in ${this.#files!.writer.path}: ${reason}. The run goes on.`;
    this.#tell({ event: 'warning', kind: 'write_failed', message });
  }

  warn(kind: string, message: string, step?: number): void {
    this.event({ event: 'warning', kind, message, ...(step === undefined ? {} : { step }) });
  }

  /** The run does something else from now on; the same again is no event. */
  phase(name: PhaseEvent['name'], step: number): void {
    if (this.#phase === name || this.#outbox !== null) return;
    this.#phase = name;
    this.event({ event: 'phase', name, step });
  }

  /** What is done from now on, before there is a file; null: the start is over. */
  starting(name: StartupPhase | null): void {
    const now = performance.now();
    if (this.#starting !== null) {
      const { name: before, since } = this.#starting;
      this.#startup.set(before, (this.#startup.get(before) ?? 0) + (now - since) / 1000);
    }
    this.#starting = name === null ? null : { name, since: now };
  }

  /** Seconds of each part of the start. */
  get startupSeconds(): Partial<Record<StartupPhase, number>> {
    return Object.fromEntries([...this.#startup].map(([name, seconds]) => [name, Math.round(seconds * 1000) / 1000]));
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
      ...(record.preference === null ? {} : { preference: { ...record.preference } }),
      ...(record.lossScale === null ? {} : { loss_scale: record.lossScale }),
      ...(record.skippedSteps === 0 ? {} : { skipped_steps: record.skippedSteps }),
      step_seconds: seconds / steps,
      samples_per_s: samples / seconds,
      tokens_per_s: tokens / seconds,
      supervised_tokens_per_s: supervised / seconds,
      data_wait_share: Math.min(1, (record.dataWaitSeconds - this.#sinceWait) / seconds),
      ...this.#visionHitRate(record),
      world_size: this.#worldSize,
      memory: {
        rss: Math.max(process.memoryUsage.rss(), record.largestOther),
        tensors: liveTensors().tensors,
        ...(record.devicePeak === null ? {} : { device_peak: record.devicePeak }),
      },
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
    if (this.#files === null) return;
    const { writer, own, growing } = this.#files;
    writer.close();
    this.board?.close();
    try {
      for (const name of growing) own.noteGrown(name);
    } catch {
      // a full disk: what grew is known by its beginning
    }
  }
}

/** The reporter, whose notices are added to `said`. */
function remembering(reporter: Reporter, said: Set<string>): Reporter {
  return {
    notice: (message) => {
      said.add(message);
      reporter.notice(message);
    },
    task: (label, total, unit) => reporter.task(label, total, unit),
    event: (event) => reporter.event?.(event),
    training: (length) => reporter.training?.(length),
    step: (status) => reporter.step?.(status),
  };
}
