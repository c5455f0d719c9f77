/**
 * What the list shows of a run. Made of `events.jsonl`, line by line. Most lines are steps, and of these only the last one of each
 * piece is parsed, so that hundreds of runs are read in well under a second. What older runs do not say stays null.
 *
 * Not here: the series of numbers (columns.ts), and whether the process is there (state.ts).
 */
import type { RunConfig, StampedEvent } from '@minicpm-finetune/run';
import type { AtStep, Method } from '../../shared/api.js';
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

const STEP = Buffer.from('{"event":"step",');
const SYSTEM = Buffer.from('{"event":"system",');
/** Where the second letter of the kind stands. */
const SECOND = 11;
const CLOSE = 125;
const RSS = Buffer.from('"rss":');
const DEVICE_PEAK = Buffer.from('"device_peak":');
const MOST_DAMAGED = 100;

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
  /** Byte offsets of lines that are no events. */
  damaged: number[] = [];
  #metric: { name: string; greater: boolean } | null = null;
  #peakDevice = 0;
  #peakRss = 0;
  #onCpu = false;
  #evals: Evaluation[] = [];
  /** Where the last step of a piece is, and the last event of the machine after it. */
  #step: [start: number, end: number] | null = null;
  #system: [start: number, end: number] | null = null;

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
      (bytes, start, end, offset) => this.#line(bytes, start, end, offset),
      (bytes) => this.#settle(bytes),
    );
  }

  #line(bytes: Buffer, start: number, end: number, offset: number): void {
    const isWhole = bytes[end - 1] === CLOSE; // a line that was cut must not hide the one before it
    if (isWhole && isKind(STEP, bytes, start, end)) {
      this.#memory(bytes, start, end);
      this.#step = [start, end];
      this.#system = null;
      return;
    }
    if (isWhole && isKind(SYSTEM, bytes, start, end)) {
      this.#memory(bytes, start, end);
      this.#system = [start, end];
      return;
    }
    this.#settle(bytes);
    const event = soundEvent(bytes.toString('utf8', start, end));
    if (event !== null) this.#take(event);
    else if (end > start && this.damaged.length < MOST_DAMAGED) this.damaged.push(offset);
  }

  /** Of `"memory":{"rss":…,"tensors":…,"device_peak":…}`, and of an event of the machine. */
  #memory(bytes: Buffer, start: number, end: number): void {
    const rss = lastKey(RSS, bytes, start, end);
    if (rss < 0) return;
    this.#peakRss = Math.max(this.#peakRss, wholeNumber(bytes, rss + RSS.length));
    const closed = bytes.indexOf(CLOSE, rss);
    const device = lastKey(DEVICE_PEAK, bytes, rss, Math.min(closed, end));
    if (device >= 0) this.#peakDevice = Math.max(this.#peakDevice, wholeNumber(bytes, device + DEVICE_PEAK.length));
  }

  /** Parses the last step and what the machine was like after it. */
  #settle(bytes: Buffer): void {
    for (const place of [this.#step, this.#system]) {
      const event = place === null ? null : soundEvent(bytes.toString('utf8', ...place));
      if (event !== null) this.#take(event);
    }
    this.#step = null;
    this.#system = null;
  }

  #take(event: StampedEvent): void {
    if (event.event === 'run_start') this.#begin(event);
    const start = this.starts.at(-1);
    if (start !== undefined && typeof event.time === 'string') start.lastTime = event.time;
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

/**
 * Where a key begins in `bytes`, looked for backwards between two places: what is asked for stands near the end of its line, and a call of
 * the system's search for each line takes longer. -1: nowhere. In a text a key's quotes would be escaped.
 */
function lastKey(key: Buffer, bytes: Buffer, start: number, end: number): number {
  for (let at = end - key.length; at >= start; at--) {
    let same = 0;
    while (same < key.length && bytes[at + same] === key[same]) same++;
    if (same === key.length) return at;
  }
  return -1;
}

/** The whole number at a place. */
function wholeNumber(bytes: Buffer, from: number): number {
  let value = 0;
  for (let at = from; ; at++) {
    const digit = bytes[at]! - 48;
    if (!(digit >= 0 && digit <= 9)) return value;
    value = value * 10 + digit;
  }
}

function isKind(kind: Buffer, bytes: Buffer, start: number, end: number): boolean {
  if (end - start < kind.length || bytes[start + SECOND] !== kind[SECOND]) return false;
  for (let i = 0; i < kind.length; i++) if (bytes[start + i] !== kind[i]) return false;
  return true;
}
