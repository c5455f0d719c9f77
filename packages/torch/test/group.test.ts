/** Groups of real processes: every operation, equal bits, and what each rank is told when one does not do its part. */
import { rmSync } from 'node:fs';
import { dirname } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { addressTowards, dryGroup, fromTypedArray, liveTensors, ops, scope, soloGroup } from '../src/index.js';
import { LONG } from './support/long.js';
import { buildNccl, type RankResult, type RanksOptions, runRanks } from './support/ranks.js';

interface Failure {
  readonly error: string | null;
  readonly seconds: number;
}

const failures = ({ lines }: RankResult): Failure[] => lines as Failure[];

let library = '';
beforeAll(() => {
  if (process.platform === 'linux') library = buildNccl();
});
afterAll(() => {
  if (library !== '') rmSync(dirname(library), { recursive: true });
});

/** Over Gloo, and over NCCL's interface. */
const WAYS: readonly { readonly way: string; readonly options: () => RanksOptions }[] = [
  { way: 'Gloo', options: () => ({}) },
  { way: 'NCCL', options: () => ({ env: { GROUP_NCCL: library } }) },
];

describe.each(WAYS)('a group of processes over $way', ({ way, options }) => {
  if (way === 'NCCL' && process.platform !== 'linux') return;

  /** What three ranks do, one after the other: each prints a line for each. */
  const MODES = ['operations', 'unequal', 'bits', 'background', 'store'] as const;
  let together: RankResult[] = [];
  beforeAll(async () => {
    together = await runRanks(3, MODES.join(), options());
  });
  const said = (mode: (typeof MODES)[number]): unknown[] =>
    together.map(({ lines }) => {
      expect(lines).toHaveLength(MODES.length);
      return lines[MODES.indexOf(mode)];
    });
  const lineOf = (size: number): object => {
    const ranks = Array.from({ length: size }, (_, r) => r);
    const total = ranks.reduce((a, b) => a + b, 0);
    return { sum: [total, size / 2], max: [size - 1, 0], all: ranks.map((r) => [r]) };
  };

  it('gathers, sums and exchanges in all types on 3 ranks', () => {
    for (const { code, stderr } of together) expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
    expect(said('operations')).toEqual(Array(3).fill(lineOf(3)));
  });

  it.runIf(LONG || way === 'Gloo').each(LONG ? [1, 2, 4] : [1])('does so on %i ranks', async (size) => {
    for (const { code, lines, stderr } of await runRanks(size, 'operations', options()))
      expect({ code, lines, stderr }).toEqual({ code: 0, lines: [lineOf(size)], stderr: '' });
  });

  it('moves unequal numbers of rows, none among them', () => {
    const wanted = (rank: number): number[][] =>
      [0, 1, 2].map((from) => Array.from({ length: from + 2 * rank }, () => 10 * from + rank));
    expect(said('unequal')).toEqual([wanted(0), wanted(1), wanted(2)]);
  });

  it('sums with the bits of one process, through several messages', () => {
    expect(said('bits')).toEqual(Array(3).fill({ equal: true }));
  });

  it('works in the background, in order', () => {
    const sums = Array.from({ length: 8 }, (_, i) => (3 * i + 3) * 2 ** 20);
    for (const line of said('background')) expect(line).toMatchObject({ sums, done: Array(8).fill(true) });
  });

  it('has a store of texts and counters', () => {
    const words = [0, 1, 2].map((rank) => `of rank ${rank}: 微调`);
    expect(said('store')).toEqual(Array(3).fill({ words: [...words, null], least: true, sum: 6 }));
  });
});

describe.each(WAYS)('a rank that does not do its part, over $way', ({ way, options }) => {
  if (way === 'NCCL' && process.platform !== 'linux') return;

  it('with other sizes is named, with what each rank does, and no process ends by it', async () => {
    const [first, second, third] = await runRanks(3, 'sizes', options());
    expect(failures(first!)[0]!.error).toMatch(
      /same operation on all ranks but rank 0 is at gather block 3 \(40 bytes to rank 1, 40 from it\) and rank 1 at gather block 3 \(80 bytes expected, 80 sent\)/,
    );
    expect(failures(second!)[0]!.error).toMatch(/rank 1 is at gather block 3 \(80 bytes to rank 0/);
    for (const result of [first!, second!, third!]) {
      expect(result).toMatchObject({ code: 0, signal: null });
      expect(failures(result)[1]!.error, 'a group that failed stays so').toBe(failures(result)[0]!.error);
    }
  });

  it.runIf(LONG || way === 'Gloo')('at another operation is named', async () => {
    const [first, second] = await runRanks(2, 'another', options());
    expect(failures(first!)[0]!.error).toMatch(/rank 0 is at gather the checkpoint .* and rank 1 at gather the norm/);
    expect(failures(second!)[0]!.error).toMatch(/rank 1 is at gather the norm .* and rank 0 at gather the checkpoint/);
  });

  it.runIf(LONG || way === 'Gloo')('and is killed is named at once', async () => {
    const [first, second, third] = await runRanks(3, 'killed', options());
    expect(third!.signal).toBe('SIGKILL');
    for (const result of [first!, second!]) {
      const [{ error, seconds }] = failures(result) as [Failure];
      expect(error).toMatch(/Expected rank .*2.* at gather step 5 but its connection is closed/);
      expect(seconds).toBeLessThan(30);
    }
  });

  it.runIf(way === 'Gloo').each(LONG ? ['60', '100'] : ['60'])(
    'and is killed after %s ms, while others send to it, is named at once',
    async (DELAY) => {
      const [first, second] = await runRanks(2, 'sending', { env: { DELAY } });
      expect(second!.signal).toBe('SIGKILL');
      const [{ error, seconds }] = failures(first!) as [Failure];
      expect(error).toMatch(/Expected rank 1 at gather block [34] but its connection is closed/);
      expect(seconds).toBeLessThan(30); // the timeout is 60 s, for each message
    },
  );

  it('and does not come is named after the timeout', async () => {
    const [first] = await runRanks(2, 'late', options());
    const [{ error, seconds }] = failures(first!) as [Failure];
    expect(error).toMatch(/Expected rank 1 at gather step 7 within 1.5 s but it did not come/);
    expect(seconds).toBeGreaterThan(1.4);
    expect(seconds).toBeLessThan(30);
  });

  it.runIf(LONG || way === 'Gloo')('and never starts ends the joining after the timeout', async () => {
    const [first] = await runRanks(2, 'missing', { present: 1, ...options() });
    expect(failures(first!)[0]!.error).not.toBeNull();
    expect(failures(first!)[0]!.seconds).toBeLessThan(30);
  });
});

describe.runIf(process.platform === 'linux')('over NCCL', () => {
  it.each([
    ['which NCCL does not notice', {}],
    ['of which NCCL tells', { NCCL_TEST_NOTICE: '1' }],
  ])('a rank that is killed in the middle of a transfer, %s, is named', async (_, env) => {
    const options = { env: { GROUP_NCCL: library, NCCL_TEST_KILL: '2', ...env } };
    const [first, second, third] = await runRanks(3, 'alone', options);
    expect(third!.signal).toBe('SIGKILL');
    for (const result of [first!, second!]) {
      const [{ error, seconds }] = failures(result) as [Failure];
      expect(error).toMatch(/Expected rank .*2.* at gather block 3 but its connection is closed/);
      expect(seconds).toBeLessThan(30);
      expect(result).toMatchObject({ code: 0, signal: null });
    }
  });

  it('a library that is not there is named', async () => {
    const [first] = await runRanks(1, 'joining', { env: { GROUP_NCCL: '/none/libnccl.so.2' } });
    expect(failures(first!)[0]!.error).toMatch(/Expected NCCL in \/none\/libnccl.so.2 but received: .*No such file/);
  });
});

describe('a group of one', () => {
  it('does the same by copies, and keeps no tensors', () => {
    const before = liveTensors().tensors;
    const group = soloGroup();
    scope(() => {
      const whole = ops.zeros([3]);
      group.gather(whole, fromTypedArray(Float32Array.of(1, 2, 3), [3]), 'a').wait();
      group.scatterAdd(whole, ops.to(whole, 'bfloat16'), 'b').wait();
      expect(whole.toNumbers()).toEqual([2, 4, 6]);
    });
    expect(group.sum([2, 3], 'c')).toEqual([2, 3]);
    expect(group.max([2, 3], 'd')).toEqual([2, 3]);
    group.barrier('e');
    expect(liveTensors().tensors).toBe(before);
  });
});

describe('addressTowards', () => {
  it('is the address of the route', () => {
    expect(addressTowards('127.0.0.1', 29500)).toBe('127.0.0.1');
    expect(() => addressTowards('no-such-host.invalid', 29500)).toThrow(/unknown host no-such-host.invalid/);
  });
});

describe('a rank without its peers', () => {
  it('has peers that hold and say what it does, and add zeros', () => {
    const live = liveTensors().tensors;
    scope(() => {
      const group = dryGroup(1, 3);
      expect([group.rank, group.size]).toEqual([1, 3]);
      const whole = ops.zeros([6]);
      group.gather(whole, fromTypedArray(Float32Array.from([4, 5]), [2]), 'weights').wait();
      expect(whole.toNumbers()).toEqual([4, 5, 4, 5, 4, 5]);
      const sum = ops.full([2], 10, { dtype: 'float32' });
      group.scatterAdd(sum, fromTypedArray(Float32Array.from([1, 2, 3, 4, 5, 6]), [6]), 'gradients').wait();
      expect(sum.toNumbers()).toEqual([13, 14]);
      expect(group.exchange([7, 8], 'counts').map((own) => [...own])).toEqual([
        [7, 8],
        [7, 8],
        [7, 8],
      ]);
      expect([group.sum([2], 'sum'), group.max([2], 'most')]).toEqual([[6], [2]]);
      const outgoing = [1, 2, 3].map((value) => ops.full([2], value, { dtype: 'float32' }));
      const incoming = outgoing.map(() => ops.zeros([2]));
      group.alltoall(outgoing, incoming, 'rows').wait();
      expect(incoming.map((one) => one.toNumbers())).toEqual(Array(3).fill([2, 2]));
      group.barrier('end');
    });
    expect(liveTensors().tensors).toBe(live);
  });

  it('gathers from a part of the whole', () => {
    scope(() => {
      const whole = fromTypedArray(Float32Array.from([1, 2, 3, 4]), [4]);
      dryGroup(1, 2)
        .gather(whole, ops.narrow(whole, 0, 2, 2), 'weights')
        .wait();
      expect(whole.toNumbers()).toEqual([3, 4, 3, 4]);
    });
  });

  it('is refused outside of its group', () => {
    expect(() => dryGroup(2, 2)).toThrow(/Expected a rank below the size of the group but received rank 2 of 2/);
  });
});
