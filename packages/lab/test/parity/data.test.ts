/** The parity command on a small folder of reference results: all of it agrees, and what does not is found. */
import { spawnSync } from 'node:child_process';
import { cpSync, mkdtempSync, readFileSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { LONG } from '../../../torch/test/support/long.js';

const FIXTURES = join(import.meta.dirname, '../../../processor/test/fixtures');
const COMMAND = join(import.meta.dirname, '../../dist/parity/data.js');

interface Line {
  model: string;
  check: string;
  error: number;
  tolerance: number;
  ok: boolean;
  cases: number;
  failed?: string[];
}

function run(...args: string[]): { status: number | null; lines: Line[]; stderr: string } {
  const { status, stdout, stderr } = spawnSync(process.execPath, [COMMAND, ...args], { encoding: 'utf8' });
  const lines = stdout.split('\n').filter((line) => line !== '');
  return { status, lines: lines.map((line) => JSON.parse(line) as Line), stderr };
}

/** A copy of the reference folder, with JSON files changed. */
function changed(changes: readonly (readonly [file: string, change: (content: never) => void])[]): string {
  const root = mkdtempSync(join(tmpdir(), 'parity-'));
  cpSync(FIXTURES, root, { recursive: true });
  for (const [file, change] of changes) {
    const path = join(root, 'reference', file);
    const content = JSON.parse(readFileSync(path, 'utf8')) as never;
    change(content);
    writeFileSync(path, JSON.stringify(content));
  }
  return join(root, 'reference');
}

/** What is changed in the reference folder, and the check that finds it. */
const CHANGES = [
  [
    'an id',
    'tokenize/minicpm-v-2_6.tiny.json',
    (c: { cases: { ids: number[] }[] }) => c.cases[3]!.ids.push(7),
    'tokenize.ids',
  ],
  [
    'a size',
    'slices.json',
    (c: { cases: { source_size: number[] }[] }) => c.cases[5]!.source_size.push(0),
    'slices.geometry',
  ],
  [
    'a record',
    'samples.json',
    (c: { samples: { record: { conversations: { content: string }[] } }[] }) => {
      c.samples[0]!.record.conversations[0]!.content += '!';
    },
    'samples.ids',
  ],
  [
    'a pixel',
    'images.json',
    (c: { images: { file: string; rgb_sha256: string }[] }) => {
      c.images.find(({ file }) => file.includes('tiny'))!.rgb_sha256 = '0';
    },
    'images.rgb',
  ],
  [
    'a prompt',
    'inference.json',
    (c: { cases: { messages: { content: string }[] }[] }) => {
      for (const { messages } of c.cases) messages[0]!.content += '?';
    },
    'inference.ids',
  ],
] as [string, string, (content: never) => void, string][];

describe('parity:data', () => {
  it('agrees with the reference in all models', () => {
    const { status, lines, stderr } = run(join(FIXTURES, 'reference'));
    expect(lines.filter(({ ok }) => !ok)).toEqual([]);
    expect([status, stderr]).toEqual([0, '']);
    const checks = new Set(lines.map(({ check }) => check));
    for (const check of [
      'slices.geometry',
      'images.rgb',
      'pixels',
      'tokenize.ids',
      'samples.labels',
      'inference.ids',
      'collate',
    ])
      expect(checks).toContain(check);
    expect(new Set(lines.map(({ model }) => model)).size).toBe(6); // five models and what they have in common
    for (const line of lines) expect(line.cases).toBeGreaterThan(0);
  });

  describe('on one model and a folder in which several things are changed', () => {
    let all: ReturnType<typeof run>;
    beforeAll(() => {
      all = run(changed(CHANGES.map(([, file, change]) => [file, change])), '--model', 'minicpm-v-2_6');
    });

    it('keeps to that model', () => {
      expect(new Set(all.lines.map(({ model }) => model))).toEqual(new Set(['common', 'minicpm-v-2_6.tiny']));
    });

    it.each(CHANGES)('finds %s that differs', (_, __, ___, check) => {
      expect(all.status).toBe(1);
      const failed = all.lines.filter(({ ok }) => !ok);
      expect(failed.map((line) => line.check)).toContain(check);
      for (const line of failed) expect(line.failed!.length).toBeGreaterThan(0);
    });
  });

  it('says what is wrong with its arguments', () => {
    expect(run('/nowhere')).toMatchObject({ status: 1, stderr: expect.stringContaining('/nowhere') });
    const unknown = run(join(FIXTURES, 'reference'), '--model', 'gpt');
    expect(unknown).toMatchObject({ status: 1, stderr: expect.stringContaining('minicpm-v-2_6.tiny') });
    if (!LONG) return;
    expect(run()).toMatchObject({ status: 1, stderr: expect.stringContaining('Expected a folder of reference data') });
    expect(run(mkdtempSync(join(tmpdir(), 'empty-')))).toMatchObject({
      status: 1,
      stderr: expect.stringContaining('found none'),
    });
    expect(run('--verbose')).toMatchObject({ status: 1, stderr: expect.stringContaining('--verbose') });
  });
});
