/** Checkpoints of several ranks, by real processes: their bytes, resuming on other numbers of ranks, failures, and machines without a shared folder. */
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { contentOfFile, listCheckpoints } from '@minicpm-finetune/run';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { LONG } from '../../../torch/test/support/long.js';
import { removeUnfinished, verifyCheckpoint } from '../../src/checkpoint/checkpoint.js';
import { dealOut } from '../../src/checkpoint/held.js';
import { type RankEnd, runRanks } from '../support/rank-processes.js';

let work: string;
beforeAll(async () => {
  work = mkdtempSync(join(tmpdir(), 'ranks-files-'));
  await saved('one', 1);
});
afterAll(() => rmSync(work, { recursive: true }));

const folderOf = (name: string): string => join(work, name);
type Settings = Readonly<Record<string, unknown>>;
type Through = (rank: number) => readonly string[];

async function run(mode: string, size: number, settings: Settings, through?: Through): Promise<RankEnd[]> {
  return await runRanks(size, 'files-rank.mjs', () => [mode, JSON.stringify(settings)], through);
}

/** Saves in a folder of its own. */
async function saved(name: string, size: number, settings: Settings = {}, through?: Through): Promise<RankEnd[]> {
  mkdirSync(folderOf(name));
  return await run('save', size, { folder: folderOf(name), ...settings }, through);
}

const checkpoint = (name: string): string => join(folderOf(name), 'checkpoint-5');
const hidden = (name: string): string[] => readdirSync(folderOf(name)).filter((one) => one.startsWith('.'));

function expectSameFiles(name: string, as: string): void {
  const files = readdirSync(checkpoint(as)).sort();
  expect(files.length).toBeGreaterThan(7);
  expect(readdirSync(checkpoint(name)).sort()).toEqual(files);
  for (const file of files) {
    const same = readFileSync(join(checkpoint(name), file)).equals(readFileSync(join(checkpoint(as), file)));
    expect({ file, same }).toEqual({ file, same: true });
  }
}

describe('a checkpoint of several ranks', () => {
  for (const size of LONG ? [2, 3, 4] : [3]) {
    it(`of ${size} has the bytes of one's, and no rank keeps tensors`, async () => {
      const ends = await saved(`of ${size}`, size);
      const line = { path: checkpoint(`of ${size}`), kept: 0 };
      expect(ends.map(({ lines, stderr }) => ({ lines, stderr }))).toEqual(
        Array(size).fill({ lines: [line], stderr: '' }),
      );
      expectSameFiles(`of ${size}`, 'one');
      verifyCheckpoint(checkpoint(`of ${size}`));
      expect(hidden(`of ${size}`)).toEqual([]);
    });
  }

  for (const size of LONG ? [1, 2, 3, 4] : [1, 3]) {
    it(`is restored on ${size}, each rank its part`, async () => {
      const ends = await run('restore', size, { folder: folderOf('one') });
      const lines = ends.map(({ lines: [line], stderr }) => ({ ...(line as { parameters: number }), stderr }));
      for (const line of lines) expect(line).toMatchObject({ wrong: [], stderr: '' });
      expect(lines.reduce((sum, { parameters }) => sum + parameters, 0)).toBeGreaterThanOrEqual(6);
    });
  }
});

describe('a rank that fails', () => {
  it('to write: all know why, and nothing is left', async () => {
    const limit = (rank: number): string[] =>
      rank === 1 ? ['bash', '-c', 'trap "" XFSZ; ulimit -f 8; exec "$@"', 'bash'] : [];
    const ends = await saved('failed', 3, {}, limit);
    const errors = ends.map(({ code, lines }) => ({ code, error: (lines[0] as { error: string }).error }));
    expect(errors).toEqual([
      { code: 0, error: expect.stringMatching(/^Rank 1 on .*: EFBIG/) },
      { code: 0, error: expect.stringMatching(/^EFBIG/) },
      { code: 0, error: expect.stringMatching(/^Rank 1 on .*: EFBIG/) },
    ]);
    expect(existsSync(checkpoint('failed'))).toBe(false);
    expect(hidden('failed')).toEqual([]);
  });

  it('to make the folder: all know why', async () => {
    mkdirSync(folderOf('taken'));
    mkdirSync(checkpoint('taken'));
    writeFileSync(join(checkpoint('taken'), 'notes.txt'), 'mine');
    const ends = await run('save', 2, { folder: folderOf('taken') });
    const told = ends.map(({ lines }) => (lines[0] as { error: string }).error);
    expect(told[0]).toMatch(/^checkpoint-5\/notes.txt in .* was not written by this run/);
    expect(told[1]).toMatch(/^Rank 0 on .*checkpoint-5\/notes.txt/);
    expect(readdirSync(checkpoint('taken'))).toEqual(['notes.txt']);
  });

  const deaths = [[1, 'model'], [0, 'others'], [0, 'model'], [2, 'model']] as const; // biome-ignore format: one line
  for (const [rank, at] of LONG ? deaths : deaths.slice(0, 2))
    it(`by death (rank ${rank}, at ${at}): nothing can be loaded, and the others end with an error`, async () => {
      const name = `died ${rank} ${at}`;
      const started = performance.now();
      const ends = await saved(name, 3, { die: { rank, at } });
      expect(performance.now() - started, 'nobody waits for the timeout').toBeLessThan(60_000);
      expect(ends[rank]!.signal).toBe('SIGKILL');
      for (const [r, { code, lines }] of ends.entries()) {
        if (r === rank) continue;
        expect([0, 1]).toContain(code); // 1: its watchdog ended it
        for (const line of lines) expect(line).toEqual({ error: expect.stringMatching(`rank ${rank} `) });
      }
      expect(existsSync(checkpoint(name))).toBe(false);
      expect(listCheckpoints(folderOf(name))).toEqual([]);
      removeUnfinished(folderOf(name)); // what the next run does
      expect(hidden(name)).toEqual([]);
    });
});

/** Whether a process may have mounts of its own. */
const MOUNTS = spawnSync('unshare', ['-mu', 'mount', '-t', 'tmpfs', 'tmpfs', tmpdir()]).status === 0;
if (!MOUNTS) console.warn('Tests of machines without a shared folder are left out: unshare -mu is not permitted.');

describe('ranks that do not see the folder', () => {
  const seeing = [[true, false, true], [true, false], [true, false, false, false]]; // biome-ignore format: one line
  for (const sees of LONG ? seeing : seeing.slice(0, 1))
    it(`write and read through rank 0: ${sees.map((own) => (own ? 'sees' : 'does not')).join(', ')}`, async () => {
      const folder = folderOf(`streamed ${sees.join()}`);
      mkdirSync(folder);
      const ends = await run('stream', sees.length, { folder, sees });
      const last = sees.length - 1;
      for (const [rank, { lines, stderr }] of ends.entries())
        expect({ lines, stderr }).toEqual({
          lines: [
            { wrong: [] },
            { error: rank === last ? 'this rank cannot use it' : expect.stringMatching(`^Rank ${last} on .*: this rank cannot use it`) }, // biome-ignore format: one line
          ],
          stderr: '',
        });
      const file = 'optimizer.safetensors';
      expect(readFileSync(join(folder, file)).equals(readFileSync(join(checkpoint('one'), file)))).toBe(true);
    });

  it('and cannot send: all know why, and none waits', async () => {
    mkdirSync(folderOf('broken'));
    const ends = await run('broken', 3, { folder: folderOf('broken'), sees: [true, false, false] });
    const told = ends.map(({ lines }) => (lines[0] as { error: string }).error);
    const why = /^Rank 2 on .*: these numbers cannot be read$/;
    expect(told).toEqual([expect.stringMatching(why), expect.stringMatching(why), 'these numbers cannot be read']);
  });

  /** Ranks 2 and 3 are on machines of their own, where the folder is another, empty one. */
  const elsewhere =
    (folder: string): Through =>
    (rank) =>
      rank < 2
        ? []
        : ['unshare', '-mu', 'bash', '-c', 'hostname "m$RANK"; mount -t tmpfs tmpfs "$0" && exec "$@"', folder];

  it.skipIf(!MOUNTS)('save the same checkpoint', async () => {
    const ends = await saved('apart', 3, {}, elsewhere(folderOf('apart')));
    for (const { lines, stderr } of ends)
      expect({ lines, stderr }).toEqual({ lines: [{ path: checkpoint('apart'), kept: 0 }], stderr: '' });
    expectSameFiles('apart', 'one');
    expect(hidden('apart')).toEqual([]);
  });

  it.skipIf(!MOUNTS)('are brought its files, but the optimizer: of that they are sent their part', async () => {
    const folder = folderOf('one');
    const before = readdirSync(folder);
    const ends = await run('bring', 4, { folder }, elsewhere(folder));
    const hashes = Object.fromEntries(readdirSync(checkpoint('one')).map((name) => [name, contentOfFile(join(checkpoint('one'), name)).sha256])); // biome-ignore format: one line
    const { 'optimizer.safetensors': _, ...others } = hashes;
    for (const [rank, { lines, stderr }] of ends.entries()) {
      const here = { folder: checkpoint('one'), files: hashes, left: true };
      const there = { folder: join(folder, `.received-checkpoint-m${rank}`), files: others, left: false };
      expect({ lines, stderr }).toEqual({ lines: [{ wrong: [], ...(rank < 2 ? here : there) }], stderr: '' });
    }
    expect(readdirSync(folder)).toEqual(before);
  });
});

describe('who writes what', () => {
  const whole = { start: 0, length: 20_000 };
  const none = { start: 0, length: 0 };

  it('ranks with the same numbers share them, those that see the folder alone', () => {
    const lengths = (sees: boolean[]): number[] =>
      dealOut('w', 20_000, [whole, whole, whole], sees).map(({ length }) => length);
    expect(lengths([true, true, true])).toEqual([8192, 8192, 3616]);
    expect(lengths([true, false, true])).toEqual([12_288, 0, 7712]);
    expect(lengths([true, false, false])).toEqual([20_000, 0, 0]);
  });

  it('numbers of one rank are written by it, also where it does not see the folder', () => {
    const halves = [{ start: 10_000, length: 10_000 }, none, { start: 0, length: 10_000 }];
    expect(dealOut('w', 20_000, halves, [true, true, false])).toEqual([
      { name: 'w', start: 10_000, length: 10_000 },
      { name: 'w', start: 0, length: 0 },
      { name: 'w', start: 0, length: 10_000 },
    ]);
  });

  it('refuses numbers that nobody holds, and ranges that overlap', () => {
    const sees = [true, true];
    expect(() => dealOut('w', 20_000, [{ start: 0, length: 64 }, none], sees)).toThrow(
      /20000 numbers of w but .* hold 64/,
    );
    expect(() =>
      dealOut(
        'w',
        128,
        [
          { start: 0, length: 64 },
          { start: 32, length: 96 },
        ],
        sees,
      ),
    ).toThrow(/rank 1 holds 96 numbers from 32/);
    expect(() =>
      dealOut(
        'w',
        128,
        [
          { start: 0, length: 64 },
          { start: 0, length: 128 },
        ],
        sees,
      ),
    ).toThrow(/rank 1 holds 128/);
  });
});
