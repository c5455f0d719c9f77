/** Who holds the others up is named, whatever it does; times are short here. */
import { describe, expect, it } from 'vitest';
import { byRank, startLaunched, until } from '../support/launched.js';

/** It is named after the patience, and again after twice that: between the two is time for a busy machine. */
const SLOW = { patience: 5000, stop: 8000, interval: 1000 };

describe('a rank that holds the others up', () => {
  it('is named with where it is, once, by one line', async () => {
    const running = startLaunched('slow', { nproc_per_node: 3, ...SLOW });
    const { code, output } = await running.ended;
    expect(code, output).toBe(0);
    const lines = output.split('\n').filter((line) => line.startsWith('rank '));
    expect(lines).toEqual([
      expect.stringMatching(
        /^rank 1 \(.+\) is at step 12, record train\.json:881 since \d+ s; ranks 0, 2 wait at gather llm\.model\.layers\.4\.$/,
      ),
    ]);
  });

  it('is named in Chinese, too', async () => {
    const running = startLaunched('hangs', { nproc_per_node: 2, patience: 2000, lang: 'zh' });
    const line = /^进程 1（.+） ?在 step 12, record train\.json:881 已有 \d+ 秒; 进程 0 在 .* 等待。$/m;
    await until(() => line.test(running.output()), 'rank 1 is named');
    running.child.kill('SIGKILL');
    await until(() => running.left().length === 0, 'no process is left');
  });

  it('and is stopped is named as one that does not answer', async () => {
    const running = startLaunched('hangs', { nproc_per_node: 3, patience: 2000 });
    await until(() => running.lines().length > 0, 'the ranks have met');
    const pids = running.left().map((line) => Number.parseInt(line, 10));
    const second = byRank(pids.filter((pid) => pid !== running.child.pid))[1]!;
    const there = /rank 1 \(.+\) is at step 12, record train\.json:881 since \d+ s; ranks 0, 2 wait at/;
    await until(() => there.test(running.output()), 'rank 1 has said where it is');
    process.kill(second, 'SIGSTOP');
    const line =
      /rank 1 \(.+\) has not answered for \d+ s, last at step 12, record train\.json:881; ranks 0, 2 wait at/;
    await until(() => line.test(running.output()), 'rank 1 is named');
    running.child.kill('SIGKILL');
    process.kill(second, 'SIGCONT');
    await until(() => running.left().length === 0, 'no process is left');
  });

  it('and stops as soon as all have met is named with its machine, too', async () => {
    const running = startLaunched('stops', { nproc_per_node: 3, patience: 2000 });
    const line = /rank 1 \(.+\) has not answered for \d+ s, last at the start; ranks 0, 2 wait at gather step 1\./;
    await until(() => line.test(running.output()), 'rank 1 is named');
    running.child.kill('SIGKILL');
    for (const left of running.left()) process.kill(Number.parseInt(left, 10), 'SIGKILL');
    await until(() => running.left().length === 0, 'no process is left');
  });

  it('and serves the store is named, too', async () => {
    const running = startLaunched('hangs', { nproc_per_node: 3, patience: 2000 });
    await until(() => running.lines().length > 0, 'the ranks have met');
    const first = Number(running.lines()[0]!.pid);
    process.kill(first, 'SIGSTOP');
    await until(
      () => /rank 0 \(.+\), which serves the store, has not answered for \d+ s; rank 2 waits at/.test(running.output()),
      'rank 0 is named',
    );
    running.child.kill('SIGKILL');
    process.kill(first, 'SIGCONT');
    await until(() => running.left().length === 0, 'no process is left');
  });
});
