/** Child processes of the command line. One that runs to its end, and one that answers requests. */
import { type ChildProcess, spawn } from 'node:child_process';
import { setPriority } from 'node:os';
import { createInterface } from 'node:readline';
import { ENGLISH, type UserErrorData } from '@minicpm-finetune/run';
import type { FieldError } from '../../shared/tools.js';
import { ApiError } from '../errors.js';
import { errorOfText } from '../say.js';
import type { CommandLine } from '../services.js';

export interface CommandOptions {
  readonly commandLine: CommandLine;
  readonly cwd: string;
}

export interface Ended {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** Most characters of an output that are kept; of standard error the last ones. */
const MOST_OUTPUT = 256 * 2 ** 20;
const MOST_ERRORS = 64 * 2 ** 10;
/** Least priority that a process can give itself: trainings come first. */
const LOW_PRIORITY = 10;

interface CommandLook {
  /** With low priority. */
  readonly quiet?: boolean;
  readonly env?: NodeJS.ProcessEnv;
}

export interface RunningCommand {
  readonly ended: Promise<Ended>;
  /** The last line on standard error. */
  readonly said: string;
  kill(): void;
}

/** The environment of a child that may fetch models of the hub, or only use those that are here. */
export const environment = (mayFetch: boolean): NodeJS.ProcessEnv =>
  mayFetch ? process.env : { ...process.env, HF_HUB_OFFLINE: '1' };

/** Why a child that fetches nothing did not find its base; undefined: something else went wrong. */
export function missingBase(base: string, stderr: string): FieldError | undefined {
  if (!/^ *error: .*HF_HUB_OFFLINE/m.test(stderr)) return undefined;
  const message = `Expected the base ${base} as a folder or in the cache of the hub but there is none.`;
  return { message, field: null, cure: 'Perhaps the run or its base was moved: put it back where it was.' };
}

/** Starts a command. It inherits no terminal; its output is collected. */
export function startCommand(
  words: readonly string[],
  { commandLine, cwd, quiet = false, env = process.env }: CommandOptions & CommandLook,
): RunningCommand {
  const child = spawn(commandLine.program, [...commandLine.words, ...words], {
    cwd,
    stdio: ['ignore', 'pipe', 'pipe'],
    env,
  });
  if (quiet && child.pid !== undefined) lower(child.pid);
  const errors = new Tail(child);
  const parts: Buffer[] = [];
  let bytes = 0;
  child.stdout!.on('data', (part: Buffer) => {
    bytes += part.length;
    if (bytes > MOST_OUTPUT) child.kill('SIGKILL');
    else parts.push(part);
  });
  const ended = new Promise<Ended>((resolve, reject) => {
    child.on('error', reject);
    child.on('close', (code, signal) => {
      resolve({ code, signal, stdout: Buffer.concat(parts).toString('utf8'), stderr: errors.text });
    });
  });
  return {
    ended,
    get said() {
      return errors.lastLine;
    },
    kill: () => void child.kill('SIGTERM'),
  };
}

function lower(pid: number): void {
  try {
    setPriority(pid, LOW_PRIORITY);
  } catch {
    // It ended already, or the machine does not let us.
  }
}

/** The end of what a child says on standard error. */
export class Tail {
  #text = '';

  constructor(child: ChildProcess) {
    child.stderr!.setEncoding('utf8');
    child.stderr!.on('data', (part: string) => {
      this.#text = (this.#text + part).slice(-MOST_ERRORS);
    });
  }

  get text(): string {
    return this.#text;
  }

  get lastLine(): string {
    return this.#text.trimEnd().split('\n').at(-1) ?? '';
  }
}

interface Waiting {
  readonly resolve: (value: unknown) => void;
  readonly reject: (error: unknown) => void;
}

/** A refusal of a child, with its place and its cure. */
export class ChildRefusal extends Error {
  readonly data: UserErrorData;

  constructor(data: UserErrorData) {
    super(data.message);
    this.name = 'ChildRefusal';
    this.data = data;
  }
}

/**
 * A child that answers lines of JSON by lines of JSON (`render --requests`). Its first line says that it is ready. It ends when its
 * standard input does, so also with this process.
 */
export class RequestChild {
  /** What its first line says. Rejects with ApiError 422: why it did not start. */
  readonly ready: Promise<Readonly<Record<string, unknown>>>;
  readonly #child: ChildProcess;
  readonly #waiting = new Map<number, Waiting>();
  readonly #errors: Tail;
  #next = 0;
  #ended = false;

  constructor(words: readonly string[], { commandLine, cwd }: CommandOptions) {
    this.#child = spawn(commandLine.program, [...commandLine.words, ...words], {
      cwd,
      stdio: ['pipe', 'pipe', 'pipe'],
    });
    this.#errors = new Tail(this.#child);
    this.#child.stdin!.on('error', () => {}); // it ended; `close` tells
    this.ready = new Promise((resolve, reject) => {
      this.#waiting.set(-1, { resolve: resolve as (value: unknown) => void, reject });
    });
    this.ready.catch(() => {});
    createInterface({ input: this.#child.stdout! }).on('line', (line) => this.#take(line));
    this.#child.on('error', () => this.#end());
    this.#child.on('close', () => this.#end());
  }

  get isEnded(): boolean {
    return this.#ended;
  }

  /** @throws ChildRefusal what it says is wrong; ApiError 503: it ended */
  async request(request: object): Promise<unknown> {
    await this.ready;
    if (this.#ended) throw this.#failure(503);
    const id = this.#next++;
    return await new Promise((resolve, reject) => {
      this.#waiting.set(id, { resolve, reject });
      this.#child.stdin!.write(`${JSON.stringify({ ...request, id })}\n`);
    });
  }

  close(): void {
    this.#child.stdin!.end();
    this.#child.kill('SIGTERM');
  }

  #take(line: string): void {
    const answer = JSON.parse(line) as { event?: string; id?: number; result?: unknown; error?: UserErrorData };
    const id = answer.event === 'ready' ? -1 : (answer.id ?? -2);
    const waiting = this.#waiting.get(id);
    this.#waiting.delete(id);
    if (answer.error !== undefined) waiting?.reject(new ChildRefusal(answer.error));
    else waiting?.resolve(id === -1 ? answer : answer.result);
  }

  #end(): void {
    this.#ended = true;
    for (const [id, { reject }] of this.#waiting) reject(this.#failure(id === -1 ? 422 : 503));
    this.#waiting.clear();
  }

  #failure(status: 422 | 503): ApiError {
    const error = errorOfText(this.#errors.text, ENGLISH);
    return new ApiError(status, error.message, error);
  }
}
