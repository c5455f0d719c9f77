/** Launchers and ranks as real processes: joining, what is refused, and what is left when one of them ends. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { networkInterfaces, tmpdir } from 'node:os';
import { join } from 'node:path';
import { OwnFiles } from '@minicpm-finetune/run';
import { describe, expect, it } from 'vitest';
import { LONG } from '../../../torch/test/support/long.js';
import { freePort, lastLines, linesOf, startLaunched, until } from '../support/launched.js';

/** Of this machine and not of its loopback: what several machines need. */
const address = Object.values(networkInterfaces())
  .flatMap((all) => all ?? [])
  .find(({ family, internal }) => family === 'IPv4' && !internal)?.address;

/** Milliseconds: ranks that wait and those that are blocked do so for a minute after they have met. */
const LONG_BEFORE = 55_000;

const torchrun = (rank: number, size: number, port: number, more = {}): Record<string, unknown> => ({
  RANK: rank,
  WORLD_SIZE: size,
  LOCAL_RANK: rank,
  LOCAL_WORLD_SIZE: size,
  MASTER_ADDR: '127.0.0.1',
  MASTER_PORT: port,
  ...more,
});

describe('ranks meet', () => {
  it('under a launcher, which shows what rank 0 prints', async () => {
    const running = startLaunched('meet', { nproc_per_node: 3 });
    const { code, output } = await running.ended;
    expect([code, linesOf(output)]).toEqual([0, [{ rank: 0, size: 3, localRank: 0, localSize: 3, sum: [6] }]]);
    expect(running.left()).toEqual([]);
  });

  it("by torchrun's variables", async () => {
    const port = await freePort();
    const ended = await Promise.all([0, 1].map((rank) => startLaunched('meet', {}, torchrun(rank, 2, port)).ended));
    expect(ended.map(({ code }) => code)).toEqual([0, 0]);
    expect(ended.flatMap(({ output }) => linesOf(output))).toMatchObject([
      { rank: 0, sum: [3] },
      { rank: 1, sum: [3] },
    ]);
    expect(ended[0]!.output).toContain(`connect to 127.0.0.1:${port}, without a password`);
  });

  it.skipIf(address === undefined).each(LONG ? [1, 2] : [1])(
    'by hand, as two machines with ranks each: %i',
    async (each) => {
      const port = await freePort();
      const flags = { nproc_per_node: each, nnodes: 2, master_addr: address, master_port: port };
      const [second, first] = [1, 0].map((node_rank) => startLaunched('meet', { ...flags, node_rank }));
      const ended = await Promise.all([first!.ended, second!.ended]);
      expect(ended.map(({ code }) => code)).toEqual([0, 0]);
      const [size, sum] = [2 * each, each === 1 ? 3 : 10];
      expect(linesOf(ended[0]!.output)).toEqual([{ rank: 0, size, localRank: 0, localSize: each, sum: [sum] }]);
      expect(ended[0]!.output).toContain(`connect to ${address}:${port}, without a password`);
    },
  );
});

describe('what keeps ranks apart is an error', () => {
  it('a port in use', async () => {
    const server = createServer();
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    const { port } = server.address() as { port: number };
    const launched = await startLaunched('meet', { nproc_per_node: 2, master_port: port }).ended;
    const alone = await startLaunched('meet', {}, torchrun(0, 2, port)).ended;
    server.close();
    for (const { code, output } of [launched, alone]) {
      expect(code).toBe(2);
      expect(output).toContain(`Expected a free port for --master_port but ${port} of 127.0.0.1 is in use.`);
    }
  });

  it('an address that is not of this machine', async () => {
    const { code, output } = await startLaunched('meet', { nproc_per_node: 2, master_addr: '192.0.2.7' }).ended;
    expect([code, output]).toEqual([
      2,
      expect.stringContaining('Expected an address of this machine for --master_addr'),
    ]);
  });

  it('a master that is never there', async () => {
    const port = await freePort();
    const { code, output } = await startLaunched('meet', { joinTimeout: 6500 }, torchrun(1, 2, port)).ended;
    expect(code).toBe(2);
    const address = `127\\.0\\.0\\.1:${port}`;
    expect(output).toMatch(
      new RegExp(`Rank 1 waits for rank 0 at ${address} \\(ECONNREFUSED\\) since [5-7] s, at most 7 s\\.`),
    );
    expect(output).toContain(`Expected rank 0 at 127.0.0.1:${port} within 7 s but received: ECONNREFUSED.`);
  });

  it('a rank that never comes', async () => {
    const { code, output } = await startLaunched('meet', { joinTimeout: 1500 }, torchrun(0, 3, await freePort())).ended;
    expect([code, output]).toEqual([2, expect.stringContaining('within 2 s but ranks 1, 2 did not come')]);
  });

  it('a rank that is given twice', async () => {
    const port = await freePort();
    const ended = await Promise.all([0, 1, 1].map((rank) => startLaunched('meet', {}, torchrun(rank, 3, port)).ended));
    for (const { code, output } of ended) {
      expect(code).toBe(2);
      expect(output).toMatch(/Expected each rank once but rank 1 was given to process \d+ on .* and to process \d+ on/);
    }
  });

  it('another world size', async () => {
    const port = await freePort();
    const ended = await Promise.all(
      [2, 3].map((size, rank) => startLaunched('meet', {}, torchrun(rank, size, port)).ended),
    );
    for (const { code, output } of ended) {
      expect(code).toBe(2);
      expect(output).toMatch(/one number of processes on all ranks but it is 2 on rank 0 \(.*\) and 3 on rank 1/);
    }
  });

  it('another configuration, named once as the last words', async () => {
    const running = startLaunched('meet', { nproc_per_node: 2, fact: 1 });
    const ended = await running.ended;
    expect(ended.code).toBe(2);
    expect(lastLines(ended, 2)).toMatch(
      /Expected the same on rank 0 \(.*\) and rank 1 \(.*\) but --learning_rate is 1 and 2\.\n cure:/,
    );
    expect(running.left()).toEqual([]);
  });
});

describe('when a rank ends before its time', () => {
  for (const [mode, code, words] of [
    [
      'fails',
      2,
      /Rank 1 ended first, with exit code 2\.\nIts output is in .*\nerror: Expected data for rank 1 but received none\.\n cure: Give them\.$/,
    ],
    [
      'blocked',
      2,
      /Rank 1 ended first, with exit code 2\.\nIts output is in .*\nerror: Expected a record but received none\.$/,
    ],
    [
      'memory',
      1,
      /Rank 1 ended first, with exit code 1\.\nIts output is in .*\n.*can't allocate memory(?:.*\n)*? hint: Memory ran out\. .*$/,
    ],
    ['dies', 137, /Rank 1 ended first, by SIGKILL\.$/],
    ...(LONG ? [['aborts', 134, /Rank 1 ended first, by SIGABRT\.\nIts output is in .*/] as const] : []),
  ] as const) {
    it(`all end long before any time-out, with its exit code and its words last: ${mode}`, async () => {
      const running = startLaunched(mode, { nproc_per_node: mode === 'fails' || LONG ? 3 : 2 });
      const started = performance.now();
      const ended = await running.ended;
      expect(ended.code, ended.output).toBe(code);
      expect(ended.output.trimEnd()).toMatch(words);
      expect(performance.now() - started).toBeLessThan(LONG_BEFORE);
      expect(running.left()).toEqual([]);
    });
  }

  it('the launcher killed: its ranks end, also in the middle of a native wait', async () => {
    const running = startLaunched('hangs', { nproc_per_node: 2 });
    await until(() => running.lines().length > 0, 'the ranks have met');
    const launcher = running.left().find((line) => Number.parseInt(line, 10) === running.child.pid);
    expect(launcher).toBeDefined();
    expect(running.left().length).toBe(3);
    running.child.kill('SIGKILL');
    await until(() => running.left().length === 0, 'no process is left');
  });
});

describe('signals', () => {
  it('reach every rank once, and the end by them is no failure', async () => {
    const running = startLaunched('signals', { nproc_per_node: 2 });
    await until(() => running.lines().length > 0, 'all ranks listen');
    running.child.kill('SIGTERM');
    const { code, output } = await running.ended;
    expect([code, linesOf(output).at(-1)]).toEqual([0, { rank: 0, came: 1 }]);
    expect(running.left()).toEqual([]);
  });

  it('that are not obeyed end in a kill', async () => {
    const running = startLaunched('deaf', { nproc_per_node: 2, stop: 1000 });
    await until(() => running.lines().length > 0, 'all ranks listen');
    running.child.kill('SIGTERM');
    const { code, output } = await running.ended;
    expect(code).toBe(137);
    expect(output).toContain('The processes did not end within 1 s: they are killed.');
    expect(running.left()).toEqual([]);
  });
});

describe('the output of the other ranks', () => {
  const folder = (): string => mkdtempSync(join(tmpdir(), 'ranks-'));

  it('is in the run folder, as files of the run', async () => {
    const run = folder();
    const { code, output } = await startLaunched('prints', { nproc_per_node: 2, folder: run }).ended;
    const log = join(run, 'logs', 'rank-1.log');
    expect([code, output]).toEqual([0, expect.not.stringContaining('rank 1')]);
    const lines = readFileSync(log, 'utf8').trimEnd().split('\n');
    expect(lines.map((line) => line.slice(25))).toEqual(['before, of rank 1', 'after, 进程 1']);
    expect(new OwnFiles(run).ownership('logs/rank-1.log')).toBe('own');
    writeFileSync(log, 'mine\n', { flag: 'a' });
    expect(new OwnFiles(run).ownership('logs/rank-1.log')).toBe('changed');
    rmSync(run, { recursive: true });
  });
});
