/** `console.log`: what a run that the page started prints. Read in windows of at most 1 MiB, without terminal codes. */
import { closeSync, fstatSync, lstatSync, openSync, readSync } from 'node:fs';
import { join } from 'node:path';
import type { LogWindow } from '../../shared/api.js';

export const CONSOLE_LOG = 'console.log';
const LARGEST_WINDOW = 1 << 20;
/** What is shown of a start that failed. */
const FAILURE_BYTES = 8 << 10;
const FAILURE_LINES = 12;
/** More than a line of progress has. */
const LINE_BYTES = 2 << 10;

/** Escape sequences: CSI, OSC, and those of two characters. */
// biome-ignore lint/suspicious/noControlCharactersInRegex: terminal codes are control characters
const TERMINAL_CODES = /\u001b(?:\[[0-?]*[ -/]*[@-~]|\][^\u0007\u001b]*(?:\u0007|\u001b\\)|[ -/]*[0-~])/g;
// biome-ignore lint/suspicious/noControlCharactersInRegex: as above; a tab and the ends of lines stay
const CONTROLS = /[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f]/g;

/** The text as a terminal would leave it: a line that was written over shows its last state. */
export function withoutTerminalCodes(text: string): string {
  return text
    .replaceAll(TERMINAL_CODES, '')
    .replaceAll('\r\n', '\n')
    .split('\n')
    .map((line) => line.slice(line.replace(/\r+$/, '').lastIndexOf('\r') + 1).replaceAll('\r', ''))
    .join('\n')
    .replaceAll(CONTROLS, '');
}

export function hasLog(folder: string): boolean {
  return lstatSync(join(folder, CONSOLE_LOG), { throwIfNoEntry: false })?.isFile() ?? false;
}

export interface WindowRequest {
  /** Byte to begin at. */
  readonly from?: number | undefined;
  /** Instead: so many bytes before the end, from the start of a line. */
  readonly last?: number | undefined;
}

/** Null: the run has no log. `to` is the next `from`; characters are never cut. */
export function readLog(folder: string, { from, last }: WindowRequest): LogWindow | null {
  if (!hasLog(folder)) return null;
  const file = openSync(join(folder, CONSOLE_LOG), 'r');
  try {
    const { size } = fstatSync(file);
    const tail = Math.max(0, size - Math.min(last ?? LARGEST_WINDOW, LARGEST_WINDOW));
    const start = Math.min(from ?? tail, size);
    const bytes = Buffer.alloc(Math.min(size - start, LARGEST_WINDOW));
    const filled = bytes.subarray(0, readSync(file, bytes, 0, bytes.length, start));
    const first = from === undefined && start > 0 ? filled.indexOf(10) + 1 : continuationBytes(filled);
    const end = wholeCharacters(filled);
    const text = withoutTerminalCodes(filled.toString('utf8', first, Math.max(first, end)));
    return { text, from: start + first, to: start + Math.max(first, end), size };
  } finally {
    closeSync(file);
  }
}

/** The last line that was printed; null: there is none. */
export function lastLineOf(folder: string): string | null {
  const text = readLog(folder, { last: LINE_BYTES })?.text.trim() ?? '';
  return text.split('\n').at(-1)?.trim() || null;
}

/** The end of what a start printed that failed before its first event. */
export function failureOf(folder: string): string | null {
  const log = readLog(folder, { last: FAILURE_BYTES });
  if (log === null) return null;
  const lines = log.text.trim().split('\n');
  const error = lines.findLastIndex((line) => /^\s*error:/.test(line));
  return (
    lines
      .slice(error < 0 ? -FAILURE_LINES : error)
      .slice(0, FAILURE_LINES)
      .join('\n') || null
  );
}

const isContinuation = (byte: number | undefined): boolean => byte !== undefined && (byte & 0xc0) === 0x80;

/** Bytes at the start that belong to a character before. */
function continuationBytes(bytes: Buffer): number {
  let count = 0;
  while (count < 3 && isContinuation(bytes[count])) count++;
  return count;
}

/** Where the last whole character ends. */
function wholeCharacters(bytes: Buffer): number {
  let lead = bytes.length - 1;
  while (lead > bytes.length - 4 && isContinuation(bytes[lead])) lead--;
  const byte = bytes[lead] ?? 0;
  const length = byte >= 0xf0 ? 4 : byte >= 0xe0 ? 3 : byte >= 0xc0 ? 2 : 1;
  return lead >= 0 && lead + length > bytes.length ? lead : bytes.length;
}
