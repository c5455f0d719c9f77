/**
 * Starts the ranks of this machine. It stands between them and the terminal, and loads no libtorch.
 *
 * It hands on signals, once each. When one rank fails all end: by themselves, because the others know of it; by SIGTERM; by the end of the
 * socket that each of them watches; by SIGKILL. When the launcher itself is killed, that socket ends, too.
 */
import { type ChildProcess, type StdioOptions, spawn } from 'node:child_process';
import { createServer, type Server, type Socket } from 'node:net';
import { ENGLISH, type Say } from '@minicpm-finetune/run';
import { cannotListen, openTo } from '../parallel/listening.js';
import type { TextStream } from '../report/progress.js';
import { type Ending, exitCodeOf, firstFailure, isFailure } from './ending.js';
import { gpuEnvironment } from './gpus.js';
import { LAUNCHED, LAUNCHER_SOCKET, type LaunchPlan } from './place.js';
import { RankLogs } from './rank-logs.js';

export interface LaunchOptions {
  /** The program of every rank, and its words. */
  readonly command: readonly string[];
  readonly env: NodeJS.ProcessEnv;
  readonly stderr: TextStream;
  readonly say?: Say;
  /** How long the ranks may take to end after a signal, in milliseconds. */
  readonly stopTimeout: number;
}

/** After the first failure, in milliseconds: SIGTERM, the end of the sockets, SIGKILL. */
const TERMINATE = 1500;
const CUT = 3500;
const KILL = 10_000;
const SIGNALS = ['SIGINT', 'SIGTERM', 'SIGUSR1'] as const;
const TAIL_LINES = 10;
const TAIL_CHARACTERS = 4000;

interface Rank {
  readonly rank: number;
  readonly child: ChildProcess;
  told: Ending['told'];
  /** The end of what it printed on standard error, of those whose output is not on the terminal. */
  tail: string;
  ended: boolean;
}

/** Starts the ranks of a plan. Returns their exit code when all have ended: that of the first that failed. @throws UserError */
export async function launch(plan: LaunchPlan, options: LaunchOptions): Promise<number> {
  const server = plan.firstRank === 0 ? await listen(plan.masterAddr, plan.masterPort) : null;
  const port = server === null ? plan.masterPort : (server.address() as { port: number }).port;
  const launcher = new Launcher(options);
  try {
    for (let local = 0; local < plan.localSize; local++) launcher.start(plan, local, port, server);
  } catch (error) {
    launcher.kill();
    throw error;
  } finally {
    server?.close(); // rank 0 holds the socket now: this process must not take its connections
  }
  if (plan.firstRank > 0) launcher.print(ranksHere(plan));
  else if (plan.localSize < plan.size) launcher.print(openTo(plan.masterAddr, port));
  return await launcher.ended();
}

/** What a machine says on which nothing else is shown. */
function ranksHere({ firstRank, localSize, size, masterAddr }: LaunchPlan): string {
  const last = firstRank + localSize - 1;
  const shown = `the progress is shown where rank 0 runs, on ${masterAddr}.`;
  return localSize === 1
    ? `Rank ${firstRank} of ${size} runs here; ${shown}`
    : `Ranks ${firstRank} to ${last} of ${size} run here; ${shown}`;
}

async function listen(host: string, port: number): Promise<Server> {
  const server = createServer();
  return await new Promise((resolve, reject) => {
    server.on('error', ({ code = '' }: NodeJS.ErrnoException) => reject(cannotListen(code, host, port)));
    server.listen({ host, port }, () => resolve(server));
  });
}

/** The file descriptor of a server, which Node keeps to itself. */
function socketOf(server: Server): number {
  return (server as unknown as { readonly _handle: { readonly fd: number } })._handle.fd;
}

class Launcher {
  readonly #options: LaunchOptions;
  readonly #ranks: Rank[] = [];
  readonly #endings: Ending[] = [];
  readonly #logs = new RankLogs();
  readonly #timers: NodeJS.Timeout[] = [];
  readonly #lines = new Set<string>();
  readonly #handlers = SIGNALS.map((signal) => [signal, () => this.#handOn(signal)] as const);
  readonly #all: Promise<void>;
  readonly #allEnded: () => void;
  /** Whether a signal asked for the end. */
  #asked = false;

  constructor(options: LaunchOptions) {
    this.#options = options;
    let allEnded = (): void => {};
    this.#all = new Promise((resolve) => {
      allEnded = resolve;
    });
    this.#allEnded = allEnded;
    for (const [signal, handler] of this.#handlers) process.on(signal, handler);
  }

  start(plan: LaunchPlan, local: number, port: number, server: Server | null): void {
    const rank = plan.firstRank + local;
    const env = {
      ...this.#options.env,
      RANK: String(rank),
      LOCAL_RANK: String(local),
      WORLD_SIZE: String(plan.size),
      LOCAL_WORLD_SIZE: String(plan.localSize),
      MASTER_ADDR: plan.masterAddr,
      MASTER_PORT: String(port),
      [LAUNCHED]: '1',
      ...gpuEnvironment(plan.gpus, local, this.#options.env),
    };
    const shown = rank === 0 ? 'inherit' : 'pipe';
    const listening = rank === 0 ? socketOf(server!) : 'ignore';
    const stdio: StdioOptions = [rank === 0 ? 'inherit' : 'ignore', shown, shown, listening, 'pipe'];
    const [program, ...words] = this.#options.command;
    const child = spawn(program!, words, { env, stdio });
    const one: Rank = { rank, child, told: null, tail: '', ended: false };
    this.#ranks.push(one);
    child.stdout?.setEncoding('utf8').on('data', (text: string) => this.#logs.take(rank, 'stdout', text));
    child.stderr?.setEncoding('utf8').on('data', (text: string) => {
      this.#logs.take(rank, 'stderr', text);
      one.tail = (one.tail + text).slice(-TAIL_CHARACTERS);
    });
    this.#listenTo(one);
    child.on('error', ({ message }) => {
      one.told = { text: message, consequence: false };
      this.#end(one, 1, null);
    });
    child.on('close', (code, signal) => this.#end(one, code, signal));
  }

  kill(): void {
    for (const { child } of this.#ranks) child.kill('SIGKILL');
  }

  /** Prints a line, once. */
  print(line: string): void {
    if (this.#lines.has(line)) return;
    this.#lines.add(line);
    const { stderr, say = ENGLISH } = this.#options;
    stderr.write(`${say(line)}\n`);
  }

  /** When all ranks have ended: the exit code, after the first failure was printed. */
  async ended(): Promise<number> {
    await this.#all;
    for (const timer of this.#timers) clearTimeout(timer);
    for (const [signal, handler] of this.#handlers) process.off(signal, handler);
    const failure = firstFailure(this.#endings, this.#asked);
    this.#logs.close(failure !== undefined);
    if (failure === undefined) return Math.max(...this.#endings.map(exitCodeOf));
    this.#printFailure(failure);
    return exitCodeOf(failure);
  }

  /** What a rank says: lines of JSON. */
  #listenTo(one: Rank): void {
    const socket = one.child.stdio[LAUNCHER_SOCKET] as Socket;
    let unfinished = '';
    socket.on('error', () => {}); // the rank is gone, which `close` tells
    socket.setEncoding('utf8').on('data', (text: string) => {
      const lines = (unfinished + text).split('\n');
      unfinished = lines.pop()!;
      for (const line of lines) this.#hear(one, JSON.parse(line) as Told);
    });
  }

  #hear(one: Rank, { kind, text, consequence }: Told): void {
    if (kind === 'failed') one.told ??= { text, consequence };
    else if (kind === 'waiting') this.print(text);
    else if (!this.#logs.moveTo(text)) this.print(`notice: the output of the other ranks stays out of ${text}.`);
  }

  #end(one: Rank, code: number | null, signal: NodeJS.Signals | null): void {
    const ending: Ending = { rank: one.rank, code, signal, told: one.told, ended: one.ended };
    this.#endings.push(ending);
    if (this.#endings.length === this.#ranks.length) this.#allEnded();
    else if (isFailure(ending, this.#asked) && this.#timers.length === 0) {
      this.#later(TERMINATE, (rank) => rank.child.kill('SIGTERM'));
      this.#later(CUT, (rank) => (rank.child.stdio[LAUNCHER_SOCKET] as Socket).destroy());
      this.#later(KILL, (rank) => rank.child.kill('SIGKILL'));
    }
  }

  /** Does something to those that still run. */
  #later(milliseconds: number, action: (rank: Rank) => void): void {
    const act = (): void => {
      for (const one of this.#ranks) {
        if (this.#endings.some(({ rank }) => rank === one.rank)) continue;
        one.ended = true;
        action(one);
      }
    };
    this.#timers.push(setTimeout(act, milliseconds));
  }

  #handOn(signal: (typeof SIGNALS)[number]): void {
    for (const { child } of this.#ranks) child.kill(signal);
    if (signal === 'SIGUSR1' || this.#asked) return;
    this.#asked = true;
    const { stopTimeout } = this.#options;
    const timer = setTimeout(() => {
      this.print(`The processes did not end within ${stopTimeout / 1000} s: they are killed.`);
      this.kill();
    }, stopTimeout);
    void this.#all.then(() => clearTimeout(timer));
  }

  /** The last lines of all. What rank 0 itself said last is on the terminal already. */
  #printFailure({ rank, code, signal, told }: Ending): void {
    if (rank === 0 && signal === null) return;
    if (signal === null) this.print(`Rank ${rank} ended first, with exit code ${code ?? 0}.`);
    else this.print(`Rank ${rank} ended first, by ${String(signal)}.`);
    if (this.#logs.has(rank)) this.print(`Its output is in ${this.#logs.pathOf(rank)}.`);
    const tail = this.#ranks.find((one) => one.rank === rank)!.tail.trimEnd();
    const text = told?.text ?? tail.split('\n').slice(-TAIL_LINES).join('\n');
    if (text !== '') this.#options.stderr.write(`${text}\n`);
  }
}

interface Told {
  readonly kind: 'failed' | 'waiting' | 'folder';
  readonly text: string;
  readonly consequence: boolean;
}
