/**
 * Progress on a terminal, as lines, as JSON, or none. One live line on a terminal, plain lines elsewhere, JSON lines
 * for programs, or nothing.
 *
 * It shows; it records nothing (that is `events.jsonl`) and measures nothing but its own pace. Only the live line uses
 * control characters, and only on a terminal.
 */
import assert from 'node:assert';
import type { RunConfig, RunEvent } from '@minicpm-finetune/run';
import {
  cutToWidth,
  describeEvent,
  displayWidth,
  ENGLISH,
  formatBytes,
  formatCount,
  formatDuration,
  type Say,
  stepFields,
} from '@minicpm-finetune/run';
import type { Reporter, StepStatus, Task, TrainingLength } from './reporter.js';

/** A sink of text: `process.stderr`, or anything like it. */
export interface TextStream {
  write(text: string): unknown;
  readonly isTTY?: boolean | undefined;
  readonly columns?: number | undefined;
}

export interface ProgressOptions {
  /** `--progress`; `auto` is a live line if `stream` is a terminal, else plain lines. */
  mode?: RunConfig['logging']['progress'];
  /** For the live line and plain lines; standard error unless given. */
  stream?: TextStream;
  /** For JSON lines; standard output unless given. */
  output?: TextStream;
  /** In what language lines are shown; English unless given. JSON lines are English. */
  say?: Say;
  /** Seconds, from any origin. */
  now?: () => number;
}

/** Seconds between repaints of the live line, and between plain lines of a task. */
const REPAINT_SECONDS = 0.1;
const PLAIN_SECONDS = 10;

const CLEAR_LINE = '\r\u001b[2K';

export class Progress implements Reporter {
  readonly mode: 'live' | 'plain' | 'quiet' | 'json';
  readonly #stream: TextStream;
  readonly #output: TextStream;
  readonly #say: Say;
  readonly #now: () => number;
  #live = '';
  #paintedAt = Number.NEGATIVE_INFINITY;
  #length: TrainingLength | undefined;
  /** Label of the task under way. */
  #task: string | undefined;

  constructor(options: ProgressOptions = {}) {
    this.#stream = options.stream ?? process.stderr;
    this.#output = options.output ?? process.stdout;
    this.#say = options.say ?? ENGLISH;
    this.#now = options.now ?? (() => performance.now() / 1000);
    const mode = options.mode ?? 'auto';
    this.mode = mode === 'auto' ? (this.#stream.isTTY ? 'live' : 'plain') : mode;
  }

  /** A line that stays: above the live line, or as a plain or JSON line. Not shown when quiet. */
  print(text: string): void {
    if (this.mode === 'json') this.#json({ message: text });
    else if (this.mode !== 'quiet') this.#above(this.#say(text));
  }

  /** A notice, as such a line. */
  notice(message: string): void {
    this.print(this.mode === 'json' ? message : `notice: ${message}`);
  }

  /** An event of the run. Warnings, and a failed end, are shown even when quiet. */
  event(event: RunEvent): void {
    if (this.mode === 'json') {
      this.#json(event);
      return;
    }
    if (event.event === 'step') {
      if (this.mode === 'plain') this.#above(stepFields(event, this.#length).map(this.#say).join('  '));
      return;
    }
    const urgent = event.event === 'warning' || (event.event === 'run_end' && event.status === 'failed');
    if (event.event === 'run_end') this.#live = '';
    if (this.mode !== 'quiet' || urgent) for (const line of describeEvent(event)) this.#above(this.#say(line));
  }

  /** Tells how long the training is; before the first `step`. */
  training(length: TrainingLength): void {
    this.#length = length;
  }

  /** Repaints the live line after an optimizer step; elsewhere nothing (a logged step is an `event`). */
  step(status: StepStatus): void {
    if (this.mode !== 'live') return;
    const fields = stepFields(status, this.#length).map(this.#say);
    this.#paint(
      fitted(fields, this.#bar(status.step / (this.#length?.totalSteps ?? Number.POSITIVE_INFINITY)), this.#width),
    );
  }

  task(label: string, total: number | undefined, unit: string): Task {
    assert(this.#task === undefined, `progress: "${label}" started before "${this.#task}" was finished`);
    const started = this.#now();
    let shownAt = started;
    this.#task = label;
    return {
      update: (done, note = '') => {
        const now = this.#now();
        const fields = taskFields({ label, total, unit }, done, now - started, note).map(this.#say);
        if (this.mode === 'live') {
          this.#paint(fitted(fields, total === undefined ? '' : this.#bar(done / total), this.#width));
        } else if (now - shownAt >= PLAIN_SECONDS) {
          shownAt = now;
          if (this.mode === 'json')
            this.#json({ task: label, done, total: total ?? null, unit, seconds: now - started });
          else if (this.mode === 'plain') this.#above(fields.join('  '));
        }
      },
      finish: (done, note = '') => {
        this.#task = undefined;
        this.#live = '';
        const seconds = this.#now() - started;
        if (this.mode === 'json') this.#json({ task: label, done, total: done, unit, seconds, finished: true });
        else if (this.mode !== 'quiet') this.#above(this.#say(taskSummary(label, done, unit, seconds, note)));
      },
      stop: () => {
        this.#task = undefined;
        this.#live = '';
      },
    };
  }

  /** Removes the live line, so that the terminal is left clean. Call it before the process ends, also after an error. */
  close(): void {
    this.#live = '';
    this.#task = undefined;
    if (this.mode === 'live' && Number.isFinite(this.#paintedAt)) this.#stream.write(CLEAR_LINE);
  }

  [Symbol.dispose](): void {
    this.close();
  }

  #json(value: object): void {
    this.#output.write(`${JSON.stringify(value)}\n`);
  }

  /** A line above the live line. */
  #above(text: string): void {
    this.#stream.write(this.mode === 'live' ? `${CLEAR_LINE}${text}\n${this.#live}` : `${text}\n`);
  }

  #paint(line: string): void {
    this.#live = line;
    const now = this.#now();
    if (now - this.#paintedAt < REPAINT_SECONDS) return;
    this.#paintedAt = now;
    this.#stream.write(`${CLEAR_LINE}${line}`);
  }

  /** Columns of the terminal, less one: a full line would wrap. */
  get #width(): number {
    return (this.#stream.columns ?? 80) - 1;
  }

  #bar(share: number): string {
    const width = 16;
    const filled = Math.floor(Math.min(1, Math.max(0, share)) * width);
    return `[${'='.repeat(filled)}${' '.repeat(width - filled)}]`;
  }
}

interface TaskName {
  readonly label: string;
  readonly total: number | undefined;
  readonly unit: string;
}

/** Fields joined as far as they fit; the bar goes first, then fields from the right. The first field always stays. */
function fitted(fields: readonly string[], bar: string, width: number): string {
  const full = [bar, ...fields].filter((part) => part !== '').join('  ');
  if (displayWidth(full) <= width) return full;
  let line = fields[0] ?? '';
  for (const field of fields.slice(1)) {
    if (displayWidth(line) + 2 + displayWidth(field) > width) break;
    line += `  ${field}`;
  }
  return cutToWidth(line, width);
}

function taskFields({ label, total, unit }: TaskName, done: number, seconds: number, note: string): string[] {
  const amount = (n: number) => (unit === 'bytes' ? formatBytes(n) : String(n));
  const rate = done / seconds;
  const fields = [label, total === undefined ? amount(done) : `${amount(done)}/${amount(total)}`];
  if (unit !== 'bytes') fields[1] += ` ${unit}`;
  if (seconds > 0 && done > 0) fields.push(unit === 'bytes' ? `${formatBytes(rate)}/s` : `${formatCount(rate)}/s`);
  if (total !== undefined && done > 0) fields.push(`ETA ${formatDuration((total - done) / rate)}`);
  if (note !== '') fields.push(note);
  return fields;
}

function taskSummary(label: string, done: number, unit: string, seconds: number, note: string): string {
  const amount = unit === 'bytes' ? formatBytes(done) : `${done} ${unit}`;
  return `${label}: ${amount} in ${seconds < 10 ? `${seconds.toFixed(1)} s` : formatDuration(seconds)}${note === '' ? '' : `, ${note}`}`;
}
