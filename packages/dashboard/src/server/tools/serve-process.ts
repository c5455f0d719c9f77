/**
 * A child process `minicpm-finetune serve`. One base, and the adapters that are loaded into it. What happens to it is told, and touches
 * neither the page nor a run. It ends when its standard input does, so also with this process.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { ENGLISH } from '@minicpm-finetune/run';
import { ApiError } from '../errors.js';
import { errorOfText } from '../say.js';
import { type CommandOptions, environment, missingBase, Tail } from './child.js';

export interface ServeOptions extends CommandOptions {
  /** Folder or name. */
  readonly base: string;
  readonly dtype: string | null;
  /** Whether the base may be fetched from the hub. */
  readonly mayFetch: boolean;
  /** Folders below which adapters may be loaded. */
  readonly adapterRoots: readonly string[];
}

/** Milliseconds that the process has to end by itself. */
const END_MS = 3000;

export class ServeProcess {
  readonly id = randomBytes(9).toString('base64url');
  readonly options: ServeOptions;
  /** Resolves with the name of the base in requests; rejects with ApiError: why it does not start. */
  readonly ready: Promise<string>;
  state: 'loading' | 'ready' | 'ended' = 'loading';
  /** Why it ended; null: as it was told, or not yet. */
  error: string | null = null;
  /** Of loading the base. */
  seconds: number | null = null;
  /** Whether the base reads videos; null: not known yet. */
  videos: boolean | null = null;
  /** What a user should know of the base. */
  notices: readonly string[] = [];
  readonly #child: ChildProcess;
  readonly #key = randomBytes(32).toString('base64url');
  readonly #errors: Tail;
  readonly #onEnd: () => void;
  #url = '';
  #asked = false;

  constructor(options: ServeOptions, onEnd: () => void) {
    this.options = options;
    this.#onEnd = onEnd;
    const { commandLine, cwd, base, dtype, adapterRoots, mayFetch } = options;
    const words = [
      'serve',
      `--model=${base}`,
      ...(dtype === null ? [] : [`--dtype=${dtype}`]),
      ...adapterRoots.map((folder) => `--adapter_root=${folder}`),
      '--port=0',
      '--json=true',
      '--exit_with_parent=true',
    ];
    this.#child = spawn(commandLine.program, [...commandLine.words, ...words], {
      cwd,
      stdio: ['pipe', 'pipe', 'pipe'],
      env: { ...environment(mayFetch), MINICPM_API_KEY: this.#key },
    });
    this.#child.stdin!.on('error', () => {}); // it ended; `close` tells
    this.#errors = new Tail(this.#child);
    this.ready = new Promise((resolve, reject) => {
      createInterface({ input: this.#child.stdout! }).on('line', (line) => this.#take(line, resolve));
      const end = (code: number | null, signal: NodeJS.Signals | null): void => {
        this.#end(code, signal);
        reject(new ApiError(503, this.error ?? 'The process of this model was ended.'));
      };
      this.#child.on('close', end);
      this.#child.on('error', (error) => {
        this.error = error.message;
        end(null, null);
      });
    });
    this.ready.catch(() => {});
  }

  get pid(): number | null {
    return this.state === 'ended' ? null : (this.#child.pid ?? null);
  }

  #take(line: string, resolve: (base: string) => void): void {
    const said = JSON.parse(line) as {
      event: string;
      url?: string;
      models?: readonly string[];
      videos?: boolean;
      notices?: readonly string[];
      seconds?: number;
    };
    if (said.event === 'listening') this.#url = said.url ?? '';
    if (said.event !== 'ready') return;
    this.state = 'ready';
    this.seconds = said.seconds ?? null;
    this.videos = said.videos ?? null;
    this.notices = said.notices ?? [];
    resolve(said.models?.[0] ?? '');
  }

  #end(code: number | null, signal: NodeJS.Signals | null): void {
    if (this.state === 'ended') return;
    this.state = 'ended';
    const { base, mayFetch } = this.options;
    const missing = mayFetch ? undefined : missingBase(base, this.#errors.text);
    if (missing !== undefined) this.error = `${missing.message} ${missing.cure}`;
    else if (!this.#asked) this.error ??= reasonOf(code, signal, this.#errors.text);
    this.#onEnd();
  }

  /** A request to it. @throws ApiError 503: it is not there */
  async request(path: string, body: object, signal?: AbortSignal): Promise<Response> {
    await this.ready;
    try {
      return await fetch(`${this.#url}${path}`, {
        method: 'POST',
        headers: { 'content-type': 'application/json', authorization: `Bearer ${this.#key}` },
        body: JSON.stringify(body),
        ...(signal && { signal }),
      });
    } catch (cause) {
      if (signal?.aborted) throw cause;
      await new Promise((resolve) => setImmediate(resolve)); // `close` may be on its way and knows more
      throw new ApiError(503, this.error ?? `The process of this model does not answer: ${(cause as Error).message}.`);
    }
  }

  /** Ends it; without delay if it does not end by itself. */
  close(): void {
    this.#asked = true;
    this.#child.stdin!.end();
    this.#child.kill('SIGTERM');
    setTimeout(() => this.#child.kill('SIGKILL'), END_MS).unref();
  }

  /** Bytes of memory it has; null: not known. */
  get rss(): number | null {
    return this.pid === null ? null : rssOf(this.pid);
  }
}

function reasonOf(code: number | null, signal: NodeJS.Signals | null, stderr: string): string {
  if (signal === 'SIGKILL')
    return 'The process was killed (SIGKILL): as a rule, the machine ran out of memory. Free a model, or take a smaller one.';
  if (signal !== null) return `The process was ended by ${signal}.`;
  const { message, cure } = errorOfText(stderr, ENGLISH);
  return `${message}${cure === null ? '' : ` ${cure}`} (exit code ${code})`;
}

/** Resident memory of a process in bytes, of Linux; null: not known. */
export function rssOf(pid: number): number | null {
  try {
    const line = /^VmRSS:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'));
    return line === null ? null : Number(line[1]) * 1024;
  } catch {
    return null;
  }
}
