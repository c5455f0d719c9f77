/** Starts the processes of a group for tests. Each runs a program with RANK, WORLD_SIZE and MASTER_PORT. */
import { spawn } from 'node:child_process';
import { createServer } from 'node:net';
import { join } from 'node:path';

export interface RankResult {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
  /** What it printed, one JSON value per line. */
  readonly lines: readonly unknown[];
  readonly stderr: string;
  /** From the start of all to the end of this one. */
  readonly seconds: number;
}

/** Runs `mode` of group-ranks.mjs in `size` processes, `present` of which are started, and returns when all have ended. */
export async function runRanks(size: number, mode: string, present = size): Promise<RankResult[]> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as { port: number };
  const { fd } = (server as unknown as { _handle: { fd: number } })._handle;
  const started = performance.now();
  const ranks = Array.from({ length: present }, (_, rank) => runRank({ rank, size, port, fd, mode, started }));
  server.close(); // rank 0 holds the socket now: this process must not take its connections
  return await Promise.all(ranks);
}

interface RankStart {
  readonly rank: number;
  readonly size: number;
  readonly port: number;
  /** The listening socket, for rank 0. */
  readonly fd: number;
  readonly mode: string;
  readonly started: number;
}

async function runRank({ rank, size, port, fd, mode, started }: RankStart): Promise<RankResult> {
  const child = spawn(process.execPath, [join(import.meta.dirname, 'group-ranks.mjs'), mode], {
    stdio: ['ignore', 'pipe', 'pipe', ...(rank === 0 ? [fd] : [])],
    env: { ...process.env, RANK: `${rank}`, WORLD_SIZE: `${size}`, MASTER_PORT: `${port}`, OMP_NUM_THREADS: '1' },
  });
  let [stdout, stderr] = ['', ''];
  child.stdout!.on('data', (chunk) => {
    stdout += String(chunk);
  });
  child.stderr!.on('data', (chunk) => {
    stderr += String(chunk);
  });
  const [code, signal] = await new Promise<[number | null, NodeJS.Signals | null]>((resolve) =>
    child.on('close', (...ending) => resolve(ending)),
  );
  const lines = stdout
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => JSON.parse(line) as unknown);
  return { code, signal, lines, stderr, seconds: (performance.now() - started) / 1000 };
}
