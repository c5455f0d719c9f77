/**
 * The machine's figures while a run trains. Every ten seconds an event with processor time, memory, disk and cards, for
 * those who watch the run folder.
 */
import { execFile } from 'node:child_process';
import { statfsSync } from 'node:fs';
import { promisify } from 'node:util';
import type { SystemEvent } from '@minicpm-finetune/run';
import { threads } from '@minicpm-finetune/torch';

const INTERVAL = 10_000;
/** What `nvidia-smi` is asked for, in the order of the event's fields. */
const CARD = ['utilization.gpu', 'memory.used', 'memory.total', 'power.draw', 'temperature.gpu'];
const MIB = 2 ** 20;

const run = promisify(execFile);

/** Writes figures from now on, until it is disposed. `folder` is on the disk whose room counts. */
export function watchSystem(
  write: (event: SystemEvent) => void,
  { folder, device, interval = INTERVAL }: { folder: string; device: string; interval?: number },
): Disposable {
  let before = { usage: process.cpuUsage(), time: performance.now() };
  let busy = false;
  let over = false;
  const look = async (): Promise<void> => {
    if (busy) return; // the driver takes its time
    busy = true;
    const usage = process.cpuUsage(before.usage);
    const now = performance.now();
    const percent = (usage.user + usage.system) / 10 / (now - before.time);
    before = { usage: process.cpuUsage(), time: now };
    const gpu = device === 'cuda' ? await cards() : null;
    busy = false;
    if (over) return;
    write({
      event: 'system',
      cpu_percent: Math.round(10 * percent) / 10,
      rss: process.memoryUsage.rss(),
      available: process.availableMemory(),
      threads: threads(),
      disk_free: freeOn(folder),
      ...(gpu === null ? {} : { gpu }),
    });
  };
  const timer = setInterval(() => void look(), interval);
  timer.unref();
  return {
    [Symbol.dispose]: () => {
      over = true;
      clearInterval(timer);
    },
  };
}

function freeOn(folder: string): number {
  try {
    const { bavail, bsize } = statfsSync(folder);
    return bavail * bsize;
  } catch {
    return 0; // someone removed the folder, which the log says
  }
}

/** The cards of the machine; null: the driver's tool is not there. */
async function cards(): Promise<NonNullable<SystemEvent['gpu']> | null> {
  try {
    const words = [`--query-gpu=${CARD.join(',')}`, '--format=csv,noheader,nounits'];
    return parseCards((await run('nvidia-smi', words)).stdout);
  } catch {
    return null;
  }
}

/** Lines of numbers, with words where the driver does not know. */
export function parseCards(text: string): NonNullable<SystemEvent['gpu']> {
  return text
    .trim()
    .split('\n')
    .map((line) => {
      const [util, used, total, power, temp] = line.split(',').map((word) => {
        const number = Number.parseFloat(word);
        return Number.isFinite(number) ? number : null;
      });
      const bytes = (mib: number | null | undefined): number | null => (mib == null ? null : mib * MIB);
      return {
        util: util ?? null,
        mem_used: bytes(used),
        mem_total: bytes(total),
        power: power ?? null,
        temp: temp ?? null,
      };
    });
}
