/** Starts the processes of a group for tests. Each runs a program with RANK, WORLD_SIZE and MASTER_PORT. */
import { spawn, spawnSync } from 'node:child_process';
import { mkdtempSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
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

export interface RanksOptions {
  /** How many are started; all unless given. */
  readonly present?: number;
  /** Environment of all. */
  readonly env?: Readonly<Record<string, string>>;
}

/** Runs `mode` of group-ranks.mjs in `size` processes, and returns when all have ended. */
export async function runRanks(
  size: number,
  mode: string,
  { present = size, env = {} }: RanksOptions = {},
): Promise<RankResult[]> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as { port: number };
  const { fd } = (server as unknown as { _handle: { fd: number } })._handle;
  const started = performance.now();
  const ranks = Array.from({ length: present }, (_, rank) => runRank({ rank, size, port, fd, mode, started, env }));
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
  readonly env: Readonly<Record<string, string>>;
}

async function runRank({ rank, size, port, fd, mode, started, env }: RankStart): Promise<RankResult> {
  const child = spawn(process.execPath, [join(import.meta.dirname, 'group-ranks.mjs'), mode], {
    stdio: ['ignore', 'pipe', 'pipe', ...(rank === 0 ? [fd] : [])],
    env: {
      ...process.env,
      ...env,
      RANK: `${rank}`,
      WORLD_SIZE: `${size}`,
      MASTER_PORT: `${port}`,
      OMP_NUM_THREADS: '1',
    },
  });
  let [stdout, stderr] = ['', ''];
  child.stdout!.setEncoding('utf8').on('data', (chunk: string) => {
    stdout += chunk;
  });
  child.stderr!.setEncoding('utf8').on('data', (chunk: string) => {
    stderr += chunk;
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

/** Compiles nccl.cc: NCCL's interface over host memory. Returns the library's path. */
export function buildNccl(): string {
  const library = join(mkdtempSync(join(tmpdir(), 'minicpm-nccl-')), 'libnccl.so.2');
  const words = [
    '-std=c++20',
    '-O1',
    '-shared',
    '-fPIC',
    '-pthread',
    join(import.meta.dirname, 'nccl.cc'),
    '-o',
    library,
  ];
  const done = spawnSync(process.env.CXX ?? 'c++', words, { encoding: 'utf8' });
  if (done.status !== 0) throw new Error(`${process.env.CXX ?? 'c++'} ended with ${done.status}: ${done.stderr}`);
  return library;
}
