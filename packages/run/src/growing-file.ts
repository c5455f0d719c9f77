/**
 * Whether a file that grew is still as its writer left it. A killed process leaves whole pieces up to an unfinished last one:
 * JSON Lines (`.jsonl`), the output of ranks (`.log`: lines with their times) and TensorBoard's records.
 */
import { readFileSync } from 'node:fs';
import { areTfRecords } from './tf-record.js';

/** Looks at what follows the first `start` bytes. */
export function isWhole(path: string, start: number): boolean {
  const rest = readFileSync(path).subarray(start);
  if (path.endsWith('.jsonl')) return hasLines(rest.toString('utf8'), isObject, (part) => part.startsWith('{'));
  if (path.endsWith('.log')) return hasLines(rest.toString('utf8'), hasTime, (part) => /^[\dT:.-]+(Z|$)/.test(part));
  return areTfRecords(rest);
}

const hasTime = (line: string): boolean => /^\d{4}-\d\d-\d\dT[\d:.]+Z /.test(line);

function hasLines(text: string, isLine: (line: string) => boolean, isStart: (part: string) => boolean): boolean {
  const lines = text.split('\n');
  const unfinished = lines.pop()!;
  return (unfinished === '' || isStart(unfinished)) && lines.every(isLine);
}

function isObject(line: string): boolean {
  try {
    const value: unknown = JSON.parse(line);
    return typeof value === 'object' && value !== null;
  } catch {
    return false;
  }
}
