/** Texts, failures and decisions over real processes, and over one. */
import { hostname } from 'node:os';
import { UserError } from '@minicpm-finetune/run';
import { describe, expect, it } from 'vitest';
import { agree, exchangeTexts, firstOfMachine, fromFirst, settle } from '../../src/parallel/agree.js';
import { soloRanks } from '../../src/parallel/ranks.js';
import { runRanks } from '../support/rank-processes.js';

describe('three ranks', () => {
  it('hear one another, and all fail where one does', async () => {
    const ranks = await runRanks(3, 'agree-rank.mjs', () => []);
    for (const [rank, { code, lines, stderr }] of ranks.entries()) {
      expect(code, stderr).toBe(0);
      const [texts, lists, all, one, two, now, first, none, firstFails, machine] = lines;
      expect(texts).toEqual({ same: [true, true, true] });
      expect(lists).toEqual([[], [0.5, 1.5], [1, 2, 3, 4]]);
      expect(all).toEqual({ value: rank });
      const from = (failed: number): string => (failed === rank ? '' : `Rank ${failed} on ${hostname()}: `);
      expect(one).toEqual({
        user: true,
        message: `${from(1)}Expected a file but received none.`,
        file: 'a.json',
        record: 7,
        cure: 'Give one.',
      });
      expect(two).toEqual({ user: false, message: rank === 0 ? `${from(1)}broken 1` : `broken ${rank}` });
      expect(now).toEqual({ user: false, message: `${from(2)}late` });
      expect(first).toEqual({ value: { from: 0, text: '微调' } });
      expect(none).toEqual({});
      expect(firstFails).toMatchObject({ message: `${from(0)}Expected room on the disk but received none.` });
      expect(machine).toEqual({ value: `by ${rank}` });
    }
  }, 120_000);
});

describe('one rank', () => {
  it('hears itself', async () => {
    using ranks = soloRanks();
    expect(exchangeTexts(ranks.group, '微调', 'text')).toEqual(['微调']);
    const value = { not: Number.NaN };
    expect(fromFirst(ranks, 'value', () => value)).toBe(value);
    expect(await agree(ranks, 'work', async () => value)).toBe(value);
    expect(await firstOfMachine(ranks, 'work', () => value)).toBe(value);
    const error = new UserError('Expected one but received two.');
    expect(() => settle(ranks, 'failure', { error })).toThrow(error);
    await expect(agree(ranks, 'failure', () => Promise.reject(error))).rejects.toBe(error);
  });
});
