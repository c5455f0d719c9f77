/** Runs launched.mjs: launchers and ranks as real processes, and what is left of them in the process table. */
import { spawnSync } from 'node:child_process';
import { randomInt, randomUUID } from 'node:crypto';
import { mkdtempSync, rmSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll } from 'vitest';
import { type Ended, type Running, start } from './cli-run.js';

const PROGRAM = join(import.meta.dirname, 'launched.mjs');
/** For what launchers keep of ranks that failed. */
const TEMPORARY = mkdtempSync(join(tmpdir(), 'launched-'));
afterAll(() => rmSync(TEMPORARY, { recursive: true }));

export interface Launched extends Running {
  /** Processes of this start that run now. */
  readonly left: () => string[];
  /** The JSON lines printed so far. */
  readonly lines: () => Record<string, unknown>[];
}

/** Starts `launched.mjs MODE …` in an environment. */
export function startLaunched(
  mode: string,
  flags: Readonly<Record<string, unknown>> = {},
  env: Readonly<Record<string, unknown>> = {},
): Launched {
  const mark = randomUUID();
  const variables = Object.entries({ OMP_NUM_THREADS: 1, TMPDIR: TEMPORARY, ...env }).map(
    ([name, value]) => `${name}=${value}`,
  );
  const words = Object.entries(flags).flatMap(([name, value]) => [`--${name}`, String(value)]);
  const running = start('env', [...variables, process.execPath, PROGRAM, mode, mark, ...words]);
  const left = (): string[] =>
    spawnSync('ps', ['-eo', 'pid,stat,args'], { encoding: 'utf8' })
      .stdout.split('\n')
      .filter((line) => line.includes(mark) && !/^\s*\d+ Z/.test(line));
  return { ...running, left, lines: () => linesOf(running.output()) };
}

/** The JSON lines of an output. */
export function linesOf(output: string): Record<string, unknown>[] {
  return output
    .split('\n')
    .filter((line) => line.startsWith('{') && line.endsWith('}'))
    .map((line) => JSON.parse(line) as Record<string, unknown>);
}

/** Waits until something holds; fails after four minutes. */
export async function until(holds: () => boolean, what: string): Promise<void> {
  const end = performance.now() + 240_000;
  while (!holds()) {
    if (performance.now() > end) throw new Error(`not within four minutes: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

/** A port that nobody uses now. Below those that systems give to whoever asks for any: nobody gets it by chance before it is used. */
export async function freePort(): Promise<number> {
  for (;;) {
    const port = randomInt(20_000, 30_000);
    const server = createServer();
    const free = await new Promise<boolean>((resolve) => {
      server.once('error', () => resolve(false));
      server.listen(port, '127.0.0.1', () => resolve(true));
    });
    if (!free) continue;
    await new Promise((resolve) => server.close(resolve));
    return port;
  }
}

/** Processes of ranks, by rank: ids of processes begin again at low numbers, so their order says nothing. */
export function byRank(pids: readonly number[]): number[] {
  return pids
    .map((pid) => [rankOf(pid), pid] as const)
    .sort(([a], [b]) => a - b)
    .map(([, pid]) => pid);
}

function rankOf(pid: number): number {
  const { stdout } = spawnSync('ps', ['eww', '-o', 'command', '-p', String(pid)], { encoding: 'utf8' });
  const found = / RANK=(\d+)( |$)/m.exec(stdout);
  if (found === null) throw new Error(`process ${pid} has no RANK`);
  return Number(found[1]);
}

export const lastLines = ({ output }: Ended, count: number): string =>
  output.trimEnd().split('\n').slice(-count).join('\n');
