/**
 * Writing and reading `events.jsonl`. The file is append-only: a resumed run appends to the same file. A process may be
 * killed in the middle of a line, so a reader ignores an unfinished last line and a writer removes it before appending.
 */
import {
  closeSync,
  constants,
  fstatSync,
  ftruncateSync,
  openSync,
  readFileSync,
  readSync,
  statSync,
  writeSync,
} from 'node:fs';
import type { RunEvent, StampedEvent } from './events.js';
import { UserError } from './user-error.js';

const NEWLINE = 10;

/** Appends events to a file. Writes are synchronous and unbuffered: what `write` returned from survives the process. */
export class EventWriter {
  readonly path: string;
  #fd: number | undefined;

  /** Creates the file (not its folder) or continues it. */
  constructor(path: string) {
    this.path = path;
    this.#fd = openSync(path, constants.O_RDWR | constants.O_CREAT | constants.O_APPEND);
    removeUnfinishedLine(this.#fd);
  }

  /** Whether the file is still there: somebody may have removed the folder. */
  get isThere(): boolean {
    return this.#fd !== undefined && statSync(this.path, { throwIfNoEntry: false })?.ino === fstatSync(this.#fd).ino;
  }

  /**
   * Stamps the event with the current time and appends it. Throws what the file system throws (a full disk); the file then ends with the
   * event before.
   */
  write(event: RunEvent, time: Date = new Date()): StampedEvent {
    if (this.#fd === undefined) throw new Error(`events cannot be written to ${this.path} after close()`);
    const { event: kind, ...fields } = event;
    const stamped = { event: kind, time: time.toISOString(), ...fields } as StampedEvent;
    const line = Buffer.from(`${JSON.stringify(stamped)}\n`);
    const { size } = fstatSync(this.#fd);
    try {
      for (let written = 0; written < line.length; ) written += writeSync(this.#fd, line, written);
    } catch (error) {
      ftruncateSync(this.#fd, size);
      throw error;
    }
    return stamped;
  }

  close(): void {
    if (this.#fd !== undefined) closeSync(this.#fd);
    this.#fd = undefined;
  }

  [Symbol.dispose](): void {
    this.close();
  }
}

/** Cuts the file after its last newline. */
function removeUnfinishedLine(fd: number): void {
  const block = Buffer.alloc(64 * 1024);
  const { size } = fstatSync(fd);
  for (let end = size; end > 0; ) {
    const start = Math.max(0, end - block.length);
    const length = readSync(fd, block, 0, end - start, start);
    const newline = block.subarray(0, length).lastIndexOf(NEWLINE);
    if (newline >= 0 || start === 0) {
      if (start + newline + 1 < size) ftruncateSync(fd, start + newline + 1);
      return;
    }
    end = start;
  }
}

/**
 * All events of a file in order. An unfinished last line is ignored; any other line that is no event is a `UserError`
 * with its line number.
 */
export function readEvents(path: string): StampedEvent[] {
  return parseEvents(readFileSync(path, 'utf8'), path).events;
}

/**
 * Events of a piece of the file, for readers that follow it: pass the text after `consumed` again, with more appended.
 *
 * @returns the events of the finished lines, and how many characters those lines took.
 */
export function parseEvents(text: string, path: string): { events: StampedEvent[]; consumed: number } {
  const consumed = text.lastIndexOf('\n') + 1;
  const events: StampedEvent[] = [];
  for (const [index, line] of text.slice(0, consumed).split('\n').entries()) {
    if (line.trim() !== '') events.push(parseEvent(line, path, index + 1));
  }
  return { events, consumed };
}

function parseEvent(line: string, file: string, lineNumber: number): StampedEvent {
  const cure = 'The file was changed by hand or damaged; remove this line.';
  let value: unknown;
  try {
    value = JSON.parse(line);
  } catch (cause) {
    throw new UserError('Expected a JSON object for an event but received something else.', {
      file,
      line: lineNumber,
      cure,
      cause,
    });
  }
  if (typeof value !== 'object' || value === null || typeof (value as { event?: unknown }).event !== 'string') {
    throw new UserError('Expected an object with the field "event" for an event but received something else.', {
      file,
      line: lineNumber,
      cure,
    });
  }
  return value as StampedEvent;
}
