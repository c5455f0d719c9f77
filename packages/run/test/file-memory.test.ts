import {
  appendFileSync,
  copyFileSync,
  cpSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeEach, expect, it, vi } from 'vitest';
import { cacheFolder, fileState, remembering } from '../src/file-memory.js';
import { atOnce } from '../src/steps.js';

const remembered = <T>(kind: string, path: string, compute: () => T): T =>
  atOnce(
    remembering(kind, path, function* () {
      yield;
      return compute();
    }),
  );

const work = mkdtempSync(join(tmpdir(), 'memory-'));
afterAll(() => rmSync(work, { recursive: true }));

let file = '';
let made = 0;
beforeEach(() => {
  process.env.XDG_CACHE_HOME = join(work, `cache-${++made}`);
  file = join(work, `file-${made}`);
  writeFileSync(file, 'aaaa');
  vi.useFakeTimers({ now: Date.now() + 60_000, toFake: ['Date'] });
});
afterEach(() => {
  vi.useRealTimers();
});

/** The content, and whether it was read. */
function ask(path = file): [string, boolean] {
  let read = false;
  const content = remembered('text', path, () => {
    read = true;
    return readFileSync(path, 'utf8');
  });
  return [content, read];
}

/** Two writes in one tick of the kernel's clock have one time; here the clock of the process says that much time has passed. */
const clockTick = () => new Promise((resolve) => setTimeout(resolve, 30));

const entries = (): string[] => readdirSync(join(cacheFolder(), 'files', 'text'));

it('reads a file once', () => {
  expect([ask(), ask(), ask()]).toEqual([
    ['aaaa', true],
    ['aaaa', false],
    ['aaaa', false],
  ]);
});

it('is for one kind of result', () => {
  ask();
  expect(remembered('length', file, () => 4)).toBe(4);
  expect(ask()).toEqual(['aaaa', false]);
});

it('sees another content of the same size whose time was set back', async () => {
  const time = new Date(1_700_000_000_000);
  utimesSync(file, time, time);
  ask();
  await clockTick();
  writeFileSync(file, 'bbbb');
  utimesSync(file, time, time);
  expect(statSync(file).mtime).toEqual(time);
  expect(ask()).toEqual(['bbbb', true]);
});

it('sees another file in its place, also one with all of its times and its size', () => {
  const other = join(work, `other-${made}`);
  writeFileSync(other, 'bbbb');
  const { atime, mtime } = statSync(file);
  utimesSync(other, atime, mtime);
  ask();
  renameSync(other, file);
  expect(ask()).toEqual(['bbbb', true]);
});

it('sees what a copy with preserved times writes', () => {
  const folder = join(work, `folder-${made}`);
  mkdirSync(folder);
  writeFileSync(join(folder, 'a'), 'aaaa');
  ask(join(folder, 'a'));
  const copy = join(work, `copy-${made}`);
  cpSync(folder, copy, { recursive: true, preserveTimestamps: true });
  expect(ask(join(copy, 'a'))).toEqual(['aaaa', true]);
  copyFileSync(file, join(folder, 'a'));
  expect(ask(join(folder, 'a'))).toEqual(['aaaa', true]);
});

it('remembers nothing of a file that changed a moment ago, or in the future', () => {
  vi.setSystemTime(statSync(file).ctimeMs + 1000);
  expect([ask(), ask()]).toEqual([
    ['aaaa', true],
    ['aaaa', true],
  ]);
  vi.setSystemTime(statSync(file).ctimeMs - 3_600_000);
  expect([ask(), ask()]).toEqual([
    ['aaaa', true],
    ['aaaa', true],
  ]);
});

it('remembers nothing of a file that is written while it is read', async () => {
  await clockTick();
  remembered('text', file, () => {
    const content = readFileSync(file, 'utf8');
    appendFileSync(file, 'b');
    return content;
  });
  expect(ask()).toEqual(['aaaab', true]);
});

it('takes a damaged entry for none', () => {
  ask();
  const entry = join(cacheFolder(), 'files', 'text', entries()[0]!);
  const whole = readFileSync(entry, 'utf8');
  for (const damaged of ['', whole.slice(0, 80), whole.replace('aaaa', 'abaa'), '\0'.repeat(whole.length)]) {
    writeFileSync(entry, damaged);
    expect(ask()).toEqual(['aaaa', true]);
  }
});

it('works without a folder that can be written', () => {
  writeFileSync(process.env.XDG_CACHE_HOME!, 'a file');
  expect([ask(), ask()]).toEqual([
    ['aaaa', true],
    ['aaaa', true],
  ]);
});

it('forgets what nobody asked for in months', () => {
  ask();
  const [old] = entries();
  const long = new Date(Date.now() - 100 * 24 * 3_600_000);
  utimesSync(join(cacheFolder(), 'files', 'text', old!), long, long);
  const second = `${file}-2`;
  writeFileSync(second, 'b');
  ask(second);
  expect(entries()).toHaveLength(1);
  expect(entries()).not.toContain(old);
});

it('throws for a file that is not there', () => {
  expect(() => ask(join(work, 'none'))).toThrow('ENOENT');
  expect(() => fileState(join(work, 'none'))).toThrow('ENOENT');
});
