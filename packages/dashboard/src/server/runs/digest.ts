/**
 * What the list shows of a run. Made of `events.jsonl`, line by line. Most lines are steps, and of these only the last one of each
 * piece is parsed, so that hundreds of runs are read in well under a second. What older runs do not say stays null.
 *
 * Not here: the series of numbers (columns.ts), and whether the process is there (state.ts).
 */
import type { RunConfig, StampedEvent } from '@minicpm-finetune/run';
import type { AtStep, Method } from '../../shared/api.js';
import { firstBrace, isAt, LastPlace, wholeNumber } from './bytes.js';
import { changedFlags } from './config-entries.js';
import { readLines } from './lines.js';
import { methodOf } from './method.js';
import { soundEvent } from './sound-event.js';

type EventOf<K extends StampedEvent['event']> = StampedEvent & { event: K };

type Evaluation = Pick<EventOf<'eval'>, 'step' | 'loss' | 'metrics'>;

/** One start of a run. */
export interface StartDigest {
  time: string | null;
  resumedAtStep: number;
  lastStep: number;
  /** Time of its last event. */
  lastTime: string | null;
  pid: number | null;
  processStart: string | null;
  hostname: string | null;
  cwd: string | null;
  command: readonly string[] | null;
}

/** A line in the bytes of a piece. */
interface Place {
  start: number;
  end: number;
}

const NOWHERE = -1;
const STEP = Buffer.from('{"event":"step",');
const SYSTEM = Buffer.from('{"event":"system",');
/** Where the second letter of the kind stands. */
const SECOND = 11;
const [CLOSE, NEWLINE] = [125, 10];
/** Where the trainer writes memory: `"memory":{"rss":1,"tensors":2,"device_peak":3}`, and among the first fields of an event of the machine. */
const STEP_RSS = new LastPlace('"memory":{"rss":');
const SYSTEM_RSS = new LastPlace('"rss":');
const DEVICE_PEAK = new LastPlace('"device_peak":');
/** Without this word an event has no memory. */
const ANY_RSS = new LastPlace('rss');

export class Digest {
  /** The byte after the last line that was read. */
  offset = 0;
  starts: StartDigest[] = [];
  name: string | null = null;
  model: string | null = null;
  method: Method | null = null;
  changed: Readonly<Record<string, unknown>> = {};
  totalSteps: number | null = null;
  phase: string | null = null;
  lastStep: EventOf<'step'> | null = null;
  lastSystem: EventOf<'system'> | null = null;
  end: { status: 'finished' | 'stopped' | 'failed'; step: number; error: string | null } | null = null;
  stopping = false;
  bestEvalLoss: AtStep | null = null;
  bestMetric: AtStep | null = null;
  warnings = 0;
  #metric: { name: string; greater: boolean } | null = null;
  #peakDevice = 0;
  #peakRss = 0;
  #onCpu = false;
  #evals: Evaluation[] = [];
  /** Where the last step of a piece is, and the last event of the machine: they are parsed when another event comes. */
  readonly #step: Place = { start: NOWHERE, end: 0 };
  readonly #system: Place = { start: NOWHERE, end: 0 };
  /** Where the first line is that waits for that. */
  #unparsed = 0;

  /** Bytes: of the device where its allocator counts, else of the process, as on a CPU, where tensors are a part of it. */
  get peakMemory(): number | null {
    return (this.#onCpu ? 0 : this.#peakDevice) || this.#peakRss || null;
  }

  /** Takes in what the file has got up to `size` bytes. */
  read(path: string, size: number): void {
    if (size <= this.offset) return;
    this.offset = readLines(
      path,
      this.offset,
      size,
      (bytes, start, end) => this.#line(bytes, start, end),
      (bytes) => this.#settle(bytes),
    );
  }

  #line(bytes: Buffer, start: number, end: number): void {
    const isWhole = bytes[end - 1] === CLOSE; // a line that was cut must not hide the one before it
    const isStep = isWhole && isKind(STEP, bytes, start, end);
    if (!isStep && !(isWhole && isKind(SYSTEM, bytes, start, end))) {
      this.#settle(bytes);
      const event = soundEvent(bytes.toString('utf8', start, end));
      if (event !== null) this.#take(event);
      return;
    }
    if (this.#step.start === NOWHERE && this.#system.start === NOWHERE) this.#unparsed = start;
    const isKnown = isStep ? this.#stepMemory(bytes, start, end) : this.#systemMemory(bytes, start, end);
    const event = isKnown ? null : soundEvent(bytes.toString('utf8', start, end));
    if (event !== null) this.#noteEvent(event);
    const place = isStep ? this.#step : this.#system;
    place.start = start;
    place.end = end;
  }

  /** False: the line is not as the trainer writes it. */
  #stepMemory(bytes: Buffer, start: number, end: number): boolean {
    const key = STEP_RSS.in(bytes, start, end);
    if (key < 0) return ANY_RSS.in(bytes, start, end) < 0;
    const from = key + STEP_RSS.text.length;
    const close = firstBrace(bytes, from, end);
    if (bytes[close] !== CLOSE) return false;
    const device = DEVICE_PEAK.in(bytes, from, close);
    const most = device < 0 ? 0 : wholeNumber(bytes, device + DEVICE_PEAK.text.length, end);
    return this.#noteMemory(wholeNumber(bytes, from, end), most);
  }

  /** False: the line is not as the trainer writes it. */
  #systemMemory(bytes: Buffer, start: number, end: number): boolean {
    const key = SYSTEM_RSS.in(bytes, start, end);
    if (key < 0) return ANY_RSS.in(bytes, start, end) < 0;
    if (firstBrace(bytes, start + 1, key) < key) return false;
    return this.#noteMemory(wholeNumber(bytes, key + SYSTEM_RSS.text.length, end), 0);
  }

  #noteEvent(event: StampedEvent): void {
    if (event.event === 'step' && event.memory !== undefined)
      this.#noteMemory(event.memory.rss, event.memory.device_peak ?? 0);
    if (event.event === 'system' && typeof event.rss === 'number') this.#noteMemory(event.rss, 0);
  }

  #noteMemory(rss: number, device: number): boolean {
    if (Number.isNaN(rss) || Number.isNaN(device)) return false;
    this.#peakRss = Math.max(this.#peakRss, rss);
    this.#peakDevice = Math.max(this.#peakDevice, device);
    return true;
  }

  /** Parses the last step and what the machine was like last; all lines, where these are no whole events. */
  #settle(bytes: Buffer): void {
    const places = [this.#step, this.#system].filter(({ start }) => start !== NOWHERE);
    places.sort((a, b) => a.start - b.start);
    const events = places.map(({ start, end }) => soundEvent(bytes.toString('utf8', start, end)));
    if (events.every((event) => event?.time !== undefined)) for (const event of events) this.#take(event!);
    else this.#takeAll(bytes, this.#unparsed, places.at(-1)!.end);
    this.#step.start = NOWHERE;
    this.#system.start = NOWHERE;
  }

  #takeAll(bytes: Buffer, from: number, to: number): void {
    for (let start = from; start < to; ) {
      const end = bytes.indexOf(NEWLINE, start);
      const event = soundEvent(bytes.toString('utf8', start, end));
      if (event !== null) this.#take(event);
      start = end + 1;
    }
  }

  #take(event: StampedEvent): void {
    if (event.event === 'run_start') this.#begin(event);
    const start = this.starts.at(-1);
    if (start !== undefined && typeof event.time === 'string') start.lastTime = event.time;
    this.#noteEvent(event);
    switch (event.event) {
      case 'step':
        this.lastStep = event;
        if (start !== undefined) start.lastStep = event.step;
        return;
      case 'system':
        this.lastSystem = event;
        return;
      case 'phase':
        this.phase = event.name;
        return;
      case 'eval':
        this.#evaluated(event);
        return;
      case 'warning':
        this.warnings++;
        return;
      case 'stop':
        this.stopping = true;
        return;
      case 'run_end':
        this.end = { status: event.status, step: event.step, error: event.error ?? null };
        this.phase = null;
        return;
    }
  }

  #begin(event: EventOf<'run_start'>): void {
    const { resumed_at_step: resumed = 0, config } = event;
    this.starts.push({
      time: event.time ?? null,
      resumedAtStep: resumed,
      lastStep: resumed,
      lastTime: event.time ?? null,
      pid: event.pid ?? null,
      processStart: event.process_start ?? null,
      hostname: event.hostname ?? null,
      cwd: event.cwd ?? null,
      command: event.command ?? null,
    });
    this.end = null;
    this.stopping = false;
    this.phase = null;
    this.#onCpu = event.device === 'cpu';
    this.totalSteps = event.total_steps ?? null;
    this.#configure(config as Partial<RunConfig> | undefined);
    // What was measured after the step that is resumed belongs to the branch that was left.
    const kept = this.#evals.filter(({ step }) => step <= resumed);
    this.#evals = [];
    this.bestEvalLoss = null;
    this.bestMetric = null;
    for (const one of kept) this.#evaluated(one);
  }

  #configure(config: Partial<RunConfig> | undefined): void {
    if (config === undefined) return;
    this.name = textOf(config.output?.run_name);
    this.model = textOf(config.model?.model_name_or_path);
    this.method = methodOf(config);
    this.changed = changedFlags(config);
    const name = config.eval?.metric_for_best_model;
    if (typeof name !== 'string') return;
    this.#metric = { name: name.replace(/^eval_/, ''), greater: config.eval?.greater_is_better ?? true };
  }

  #evaluated({ step, loss, metrics = {} }: Evaluation): void {
    this.#evals.push({ step, loss, metrics });
    if (typeof loss === 'number' && (this.bestEvalLoss === null || loss < this.bestEvalLoss.value))
      this.bestEvalLoss = { name: 'loss', value: loss, step };
    const asked = this.#metric?.name === 'loss' ? null : this.#metric;
    const name = asked?.name ?? Object.keys(metrics)[0];
    const value = name === undefined ? undefined : metrics[name];
    if (name === undefined || typeof value !== 'number') return;
    const best = this.bestMetric?.name === name ? this.bestMetric.value : null;
    const better = best === null || ((asked?.greater ?? true) ? value > best : value < best);
    if (better) this.bestMetric = { name, value, step };
  }
}

const textOf = (value: unknown): string | null => (typeof value === 'string' && value !== '' ? value : null);

function isKind(kind: Buffer, bytes: Buffer, start: number, end: number): boolean {
  return bytes[start + SECOND] === kind[SECOND] && isAt(kind, bytes, start, end);
}
