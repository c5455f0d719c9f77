import type { SystemEvent } from '@minicpm-finetune/run';
import { expect, it } from 'vitest';
import { parseCards, watchSystem } from '../../src/report/system.js';

it('tells the figures of the machine until it is disposed', async () => {
  const events: SystemEvent[] = [];
  const watch = watchSystem((event) => events.push(event), { folder: process.cwd(), device: 'cpu', interval: 20 });
  const end = performance.now() + 200;
  while (performance.now() < end) Math.sqrt(end); // uses a core
  await expect.poll(() => events.length).toBeGreaterThan(1);
  watch[Symbol.dispose]();
  const count = events.length;
  await new Promise((resolve) => setTimeout(resolve, 100));
  expect(events.length).toBe(count);
  const [first] = events;
  expect(first).toMatchObject({ event: 'system', threads: expect.any(Number) });
  expect(first!.cpu_percent).toBeGreaterThan(0);
  expect(first!.rss).toBeGreaterThan(10e6);
  expect(first!.available).toBeGreaterThan(10e6);
  expect(first!.disk_free).toBeGreaterThan(1e6);
  expect(first!.gpu).toBeUndefined();
});

it('reads the figures of cards', () => {
  expect(parseCards('97, 1024, 143771, 412.35, 61\n0, 3, 143771, [N/A], 33\n')).toEqual([
    { util: 97, mem_used: 1024 * 2 ** 20, mem_total: 143771 * 2 ** 20, power: 412.35, temp: 61 },
    { util: 0, mem_used: 3 * 2 ** 20, mem_total: 143771 * 2 ** 20, power: null, temp: 33 },
  ]);
});
