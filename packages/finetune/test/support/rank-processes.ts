/** Starts the processes of a run of several ranks for tests. Each runs a program with RANK, WORLD_SIZE and MASTER_PORT; rank 0 inherits the socket. */
import { type ChildProcess, spawn } from 'node:child_process';
import { createServer } from 'node:net';
import { join } from 'node:path';

export interface RankEnd {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
  /** What it printed, one JSON value per line. */
  readonly lines: readonly unknown[];
  readonly stderr: string;
}

export interface RankProcess {
  readonly child: ChildProcess;
  readonly ended: Promise<RankEnd>;
  /** Resolves when it has printed a text. */
  printed(text: string): Promise<void>;
}

/** Starts `program`, a file beside this one, `size` times; `args` may depend on the rank, and so may a command that starts it. */
export async function startRanks(
  size: number,
  program: string,
  args: (rank: number) => readonly string[],
  through: (rank: number) => readonly string[] = () => [],
): Promise<RankProcess[]> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as { port: number };
  const { fd } = (server as unknown as { _handle: { fd: number } })._handle;
  const started = Array.from({ length: size }, (_, rank) => {
    const env = {
      ...process.env,
      RANK: `${rank}`,
      WORLD_SIZE: `${size}`,
      MASTER_PORT: `${port}`,
      OMP_NUM_THREADS: '1',
    };
    const command = [...through(rank), process.execPath, join(import.meta.dirname, program), ...args(rank)];
    const child = spawn(command[0]!, command.slice(1), {
      stdio: ['ignore', 'pipe', 'pipe', ...(rank === 0 ? [fd] : [])],
      env,
    });
    return followed(child);
  });
  server.close(); // rank 0 holds the socket now: this process must not take its connections
  return started;
}

/** Starts the ranks and waits until all have ended. */
export async function runRanks(
  size: number,
  program: string,
  args: (rank: number) => readonly string[],
  through?: (rank: number) => readonly string[],
): Promise<RankEnd[]> {
  return await Promise.all((await startRanks(size, program, args, through)).map(({ ended }) => ended));
}

function followed(child: ChildProcess): RankProcess {
  let [stdout, stderr] = ['', ''];
  const look: (() => void)[] = [];
  child.stdout!.setEncoding('utf8').on('data', (chunk: string) => {
    stdout += chunk;
    for (const one of look) one();
  });
  child.stderr!.setEncoding('utf8').on('data', (chunk: string) => {
    stderr += chunk;
  });
  const ended = new Promise<RankEnd>((resolve) =>
    child.on('close', (code, signal) => resolve({ code, signal, lines: parsed(stdout), stderr })),
  );
  const printed = (text: string): Promise<void> =>
    new Promise((resolve, reject) => {
      const check = (): void => (stdout.includes(text) ? resolve() : undefined);
      look.push(check);
      check();
      void ended.then(({ stderr: said }) => reject(new Error(`Expected "${text}" but the rank ended: ${said}`)));
    });
  return { child, ended, printed };
}

function parsed(text: string): unknown[] {
  return text
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => JSON.parse(line) as unknown);
}
