/** Windows of console.log: whole characters, no terminal codes, nothing missed between two of them. */
import { appendFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, expect, it } from 'vitest';
import { lastLineOf, readLog, withoutTerminalCodes } from '../src/server/process/console-log.js';
import { makeFolder } from './support/page-server.js';

const place = makeFolder('log');
const file = join(place.path, 'console.log');
afterAll(place.remove);

it.each([
  ['\u001b[1;31mred\u001b[0m and \u001b[38;5;10mgreen\u001b[m', 'red and green'],
  ['\u001b]0;title\u0007text \u001b]8;;http://x\u001b\\link\u001b]8;;\u001b\\', 'text link'],
  ['10 %\r20 %\r100 %\nnext\r\n', '100 %\nnext\n'],
  ['\u001b[2K\u001b[1Aup\u001b(B', 'up'],
  ['bell\u0007 null\u0000 tab\t', 'bell null tab\t'],
  ['\u009b31mC1', '31mC1'],
  ['中文 🙂', '中文 🙂'],
])('%j is shown as %j', (text, shown) => {
  expect(withoutTerminalCodes(text)).toBe(shown);
});

it('has no window of a run without a log', () => {
  expect(readLog(place.path, {})).toBeNull();
  expect(lastLineOf(place.path)).toBeNull();
});

it('never cuts a character, wherever a window begins', () => {
  const text = 'aé中🙂\n'.repeat(3);
  writeFileSync(file, text);
  const bytes = Buffer.from(text);
  for (let from = 0; from <= bytes.length; from++) {
    const log = readLog(place.path, { from })!;
    expect(log.text).not.toContain('\ufffd');
    expect(text.endsWith(log.text)).toBe(true);
    expect([log.to, log.size]).toEqual([bytes.length, bytes.length]);
  }
});

it('goes on where the last window ended, also when that was inside a character', () => {
  const text = 'loss 中文 🙂 1.0\n';
  const bytes = Buffer.from(text);
  for (let cut = 0; cut <= bytes.length; cut++) {
    writeFileSync(file, bytes.subarray(0, cut));
    const first = readLog(place.path, { from: 0 })!;
    appendFileSync(file, bytes.subarray(cut));
    const second = readLog(place.path, { from: first.to })!;
    expect(first.text + second.text).toBe(text);
  }
});

it('shows the end of a large log, from the start of a line', () => {
  writeFileSync(file, Array.from({ length: 200_000 }, (_, i) => `line ${i}\n`).join(''));
  const log = readLog(place.path, {})!;
  expect(log.text).toMatch(/^line \d+\n/);
  expect(log.text.endsWith('line 199999\n')).toBe(true);
  expect(log.to - log.from).toBeLessThanOrEqual(1 << 20);
  expect(readLog(place.path, { last: 30 })!.text).toBe('line 199998\nline 199999\n');
  expect(readLog(place.path, { from: 0 })!.text).toMatch(/^line 0\n/);
});

it('tells its last line, as a terminal would leave it', () => {
  writeFileSync(file, '\n');
  expect(lastLineOf(place.path)).toBeNull();
  writeFileSync(file, 'notice: one\n\u001b[2KLoading weights 1/9\rLoading weights 2/9');
  expect(lastLineOf(place.path)).toBe('Loading weights 2/9');
  writeFileSync(file, `${'x'.repeat(5000)}\nChecking records\n\n`);
  expect(lastLineOf(place.path)).toBe('Checking records');
});
