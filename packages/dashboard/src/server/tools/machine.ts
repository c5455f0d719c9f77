/** This machine as it is now. Memory, disks, GPUs, load, and the processes of runs, of the chat and of the page. */
import { execFile } from 'node:child_process';
import { readFileSync, statfsSync } from 'node:fs';
import { availableParallelism, cpus, hostname, loadavg, totalmem } from 'node:os';
import type { GpuView, Machine, ProcessView } from '../../shared/api.js';
import { rssOf } from './serve-process.js';

/** A process to show. */
export interface Shown {
  readonly pid: number;
  readonly kind: ProcessView['kind'];
  readonly id: string | null;
  readonly name: string;
}

interface Times {
  readonly busy: number;
  readonly all: number;
}

/** Ticks of all processors since the start of the machine, of Linux; null: not known. */
function machineTimes(): Times | null {
  const line = textOf('/proc/stat')?.split('\n')[0];
  if (line === undefined) return null;
  const ticks = line.trim().split(/\s+/).slice(1, 9).map(Number);
  const all = ticks.reduce((sum, one) => sum + one, 0);
  return { all, busy: all - (ticks[3] ?? 0) - (ticks[4] ?? 0) };
}

/** Ticks of a process. The name in parentheses may hold spaces. */
function processTicks(pid: number): number | null {
  const text = textOf(`/proc/${pid}/stat`);
  if (text === null) return null;
  const fields = text.slice(text.lastIndexOf(')') + 2).split(' ');
  return Number(fields[11]) + Number(fields[12]);
}

function textOf(file: string): string | null {
  try {
    return readFileSync(file, 'utf8');
  } catch {
    return null;
  }
}

/** Shares of processor time between two looks. */
export class MachineWatch {
  #times: Times | null = machineTimes();
  #ticks = new Map<number, number>();

  /** @param roots folders whose disks are shown */
  async look(roots: readonly string[], shown: readonly Shown[]): Promise<Omit<Machine, 'doctor'>> {
    const before = this.#times;
    const now = machineTimes();
    const all = before === null || now === null ? 0 : now.all - before.all;
    this.#times = now;
    const ticks = new Map<number, number>();
    const processes = shown.map((one): ProcessView => {
      const spent = processTicks(one.pid);
      const earlier = this.#ticks.get(one.pid);
      if (spent !== null) ticks.set(one.pid, spent);
      const share = spent === null || earlier === undefined || all <= 0 ? null : (spent - earlier) / all;
      // 100 %: one processor, as `top` has it.
      const cpuPercent = share === null ? null : 100 * share * availableParallelism();
      return { ...one, rss: rssOf(one.pid), cpuPercent };
    });
    this.#ticks = ticks;
    const limit = process.constrainedMemory();
    const total = limit > 0 && limit < totalmem() ? limit : totalmem();
    return {
      hostname: hostname(),
      cpus: availableParallelism(),
      processor: cpus()[0]?.model.trim() ?? '',
      cpuPercent: before === null || now === null || all <= 0 ? null : (100 * (now.busy - before.busy)) / all,
      load: loadavg(),
      memory: { total, available: Math.min(total, process.availableMemory()) },
      disks: disksOf(roots),
      gpus: await gpus(),
      processes,
    };
  }
}

/** Folders on one disk are shown once. */
function disksOf(folders: readonly string[]): Machine['disks'] {
  const seen = new Set<string>();
  return folders.flatMap((folder) => {
    try {
      const { bavail, bsize, blocks, type } = statfsSync(folder);
      const disk = { folder, total: blocks * bsize, free: bavail * bsize };
      const key = `${type} ${disk.total} ${disk.free}`;
      if (seen.has(key)) return [];
      seen.add(key);
      return [disk];
    } catch {
      return [];
    }
  });
}

const GPU_FIELDS = ['name', 'utilization.gpu', 'memory.used', 'memory.total', 'power.draw', 'temperature.gpu'];

/** Of NVIDIA's tool; none where it is not installed. */
async function gpus(): Promise<GpuView[]> {
  const words = [`--query-gpu=${GPU_FIELDS.join(',')}`, '--format=csv,noheader,nounits'];
  const text = await new Promise<string>((resolve) => {
    execFile('nvidia-smi', words, { timeout: 3000 }, (error, stdout) => resolve(error === null ? stdout : ''));
  });
  return gpusOf(text);
}

/** The lines of `nvidia-smi`; what a card does not tell is null. */
export function gpusOf(text: string): GpuView[] {
  return text
    .split('\n')
    .filter((line) => line.trim() !== '')
    .map((line) => {
      const [name = '', ...rest] = line.split(',').map((field) => field.trim());
      const [util, used, total, power, temp] = rest.map((field) => (/^[\d.]+$/.test(field) ? Number(field) : null));
      const bytes = (mebibytes: number | null | undefined): number | null =>
        mebibytes == null ? null : mebibytes * 2 ** 20;
      return {
        name,
        util: util ?? null,
        memUsed: bytes(used),
        memTotal: bytes(total),
        power: power ?? null,
        temp: temp ?? null,
      };
    });
}
