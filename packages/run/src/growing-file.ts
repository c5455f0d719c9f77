/**
 * Whether a file that grew is still as its writer left it. A killed process leaves whole pieces up to an unfinished last one:
 * JSON Lines (`.jsonl`) and TensorBoard's records.
 */
import { readFileSync } from 'node:fs';
import { areTfRecords } from './tf-record.js';

/** Looks at what follows the first `start` bytes. */
export function isWhole(path: string, start: number): boolean {
  const rest = readFileSync(path).subarray(start);
  return path.endsWith('.jsonl') ? hasLines(rest.toString('utf8')) : areTfRecords(rest);
}

function hasLines(text: string): boolean {
  const lines = text.split('\n');
  const unfinished = lines.pop()!;
  return (unfinished === '' || unfinished.startsWith('{')) && lines.every(isObject);
}

function isObject(line: string): boolean {
  try {
    const value: unknown = JSON.parse(line);
    return typeof value === 'object' && value !== null;
  } catch {
    return false;
  }
}
