/**
 * Starts runs as processes of their own. They outlive the page, and all that is remembered of them is in their folder
 * (`ui_launch.json`, `console.log`). A run that waits is started when no other run of these folders runs, by whichever page is open then.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, existsSync, lstatSync, mkdirSync, openSync, rmSync, writeSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { type FileLock, RUN_FILES, runningProcess, takeLock, thisProcess, UserError } from '@minicpm-finetune/run';
import { ApiError } from '../errors.js';
import { handleOf, type KnownRun } from '../runs/known-run.js';
import type { RunIndex } from '../runs/run-index.js';
import { type CommandLine, flagWords, shellText } from './command-words.js';
import { CONSOLE_LOG } from './console-log.js';
import { LAUNCH_FILE, type Launch, readLaunch, writeLaunch } from './launch-record.js';
import { pathBelow } from './path-below.js';

/** The page follows `events.jsonl`; what is printed goes to a file. */
const PLAIN = '--progress=plain';

export interface LauncherOptions {
  readonly runs: RunIndex;
  readonly commandLine: CommandLine;
  /** Where relative paths of flags start. */
  readonly cwd: string;
}

export class Launcher {
  readonly #options: LauncherOptions;
  readonly #unsubscribe: () => void;
  #isStarting = false;

  constructor(options: LauncherOptions) {
    this.#options = options;
    this.#unsubscribe = options.runs.subscribe(() => void this.startNext().catch(report));
  }

  close(): void {
    this.#unsubscribe();
  }

  /**
   * Starts a training, or lets it wait.
   *
   * @param values flags by name, as a form has them
   * @returns the handle of the run
   * @throws ApiError naming the flag that stands in the way
   */
  async start(values: Readonly<Record<string, unknown>>, queue: boolean): Promise<{ run: string; command: string }> {
    const words = ['train', ...flagWords({ ...values, progress: 'plain' })];
    const folder = this.#newFolder(values);
    await this.#launch(folder, { words, cwd: this.#options.cwd }, queue);
    return { run: handleOf(folder), command: this.commandText(words) };
  }

  /** Starts a run again from a checkpoint, with the settings that its folder holds. @throws ApiError */
  async resume(run: KnownRun, checkpoint: string, cwd: string): Promise<void> {
    const recipe = join(run.folder, RUN_FILES.config);
    const words = [
      'train',
      `--recipe=${recipe}`,
      `--output_dir=${run.folder}`,
      `--resume_from_checkpoint=${checkpoint}`,
      '--overwrite_output_dir=false',
      PLAIN,
    ];
    await this.#launch(run.folder, { words, cwd }, false);
  }

  /** As a person writes it in a shell. */
  commandText(words: readonly string[]): string {
    return shellText(['minicpm-finetune', ...words]);
  }

  /** Starts the oldest run that waits, unless another one runs. */
  async startNext(): Promise<void> {
    const { all } = this.#options.runs;
    if (this.#isStarting || all.some(isBusy)) return;
    const waiting = all.filter((run) => run.state === 'queued' && run.launch !== null);
    const [next] = waiting.sort((a, b) => a.launch!.time.localeCompare(b.launch!.time));
    if (next === undefined) return;
    this.#isStarting = true;
    try {
      await this.#startWaiting(next);
    } finally {
      this.#isStarting = false;
    }
  }

  /** Forgets a run that waits. */
  cancel(run: KnownRun): void {
    using _ = this.#own(run.folder);
    if (readLaunch(run.folder)?.pid === null) rmSync(join(run.folder, LAUNCH_FILE));
  }

  /** The folder of a new run, made if need be: its real path, below a folder of runs. */
  #newFolder(values: Readonly<Record<string, unknown>>): string {
    const { output_dir: given, overwrite_output_dir: overwrite, resume_from_checkpoint: resumed } = values;
    const field = 'output_dir';
    if (typeof given !== 'string' || given === '')
      throw new ApiError(400, 'Expected a folder for --output_dir but received none.', { field });
    const { runs, cwd } = this.#options;
    const folder = pathBelow(runs.roots, resolve(cwd, given), field);
    const known = runs.find(handleOf(folder));
    if (known?.isLive || known?.state === 'queued')
      throw new ApiError(
        409,
        `Expected a free folder for --output_dir but received ${folder}, whose run is ${known.state}.`,
        {
          field,
          cure: 'Name another folder.',
        },
      );
    const isKept = overwrite !== true && (resumed === undefined || resumed === null);
    if (existsSync(join(folder, RUN_FILES.events)) && isKept)
      throw new ApiError(409, `Expected a new folder for --output_dir but received ${folder}, which holds a run.`, {
        field,
        cure: 'Name another folder, resume the run, or set --overwrite_output_dir true.',
      });
    try {
      mkdirSync(folder, { recursive: true });
    } catch (error) {
      throw new ApiError(
        400,
        `Expected a folder for --output_dir that can be made but received ${folder} (${codeOf(error)}).`,
        {
          field,
        },
      );
    }
    return folder;
  }

  async #launch(folder: string, how: Pick<Launch, 'words' | 'cwd'>, queue: boolean): Promise<void> {
    const { runs } = this.#options;
    using _ = this.#own(folder);
    const record = { ...how, time: new Date().toISOString(), hostname: thisProcess().host };
    const waits = queue && runs.all.some((run) => isBusy(run) || run.state === 'queued');
    if (waits) writeLaunch(folder, { ...record, pid: null, processStart: null });
    else await this.#spawn(folder, record);
    await runs.refresh();
    const run = runs.find(handleOf(folder));
    if (run !== undefined) runs.touch(run);
  }

  async #startWaiting(run: KnownRun): Promise<void> {
    using _ = this.#own(run.folder);
    const record = readLaunch(run.folder); // another page may have started or cancelled it
    if (record?.pid !== null) return;
    try {
      await this.#spawn(run.folder, { ...record, time: new Date().toISOString() });
    } catch (error) {
      const file = openLog(run.folder);
      writeSync(file, `error: ${(error as Error).message}\n`);
      closeSync(file);
      // As of a process that is gone: the run has failed, and its log says why.
      writeLaunch(run.folder, { ...record, pid: process.pid, processStart: 'never' });
    }
    this.#options.runs.touch(run);
  }

  /** Starts the process and notes it. */
  async #spawn(folder: string, { words, cwd, ...rest }: Omit<Launch, 'pid' | 'processStart'>): Promise<void> {
    const { program, words: first } = this.#options.commandLine;
    const log = openLog(folder);
    try {
      writeSync(log, `$ ${this.commandText(words)}\n`);
      const stdio: ['ignore', number, number] = ['ignore', log, log];
      const child = spawn(program, [...first, ...words], { cwd, detached: true, shell: false, stdio });
      await once(child, 'spawn');
      child.on('error', () => {}); // of signals: nobody sends any through it
      child.unref();
      const pid = child.pid!;
      const processStart = runningProcess(pid)?.start ?? null;
      writeLaunch(folder, { ...rest, words, cwd, pid, processStart });
    } catch (error) {
      throw new ApiError(500, `The process could not be started in ${cwd}: ${(error as Error).message}`);
    } finally {
      closeSync(log);
    }
  }

  /** One page at a time starts or cancels a run. */
  #own(folder: string): FileLock {
    return takeLock(join(folder, `${LAUNCH_FILE}.lock`), { what: folder });
  }
}

/** Another page is about to start the run: that is as good. */
function report(error: unknown): void {
  if (!(error instanceof UserError)) console.error(error);
}

/** Whether the run computes on this machine. */
const isBusy = ({ state }: KnownRun): boolean => state === 'running' || state === 'starting';

/** Appends; a link of that name is not followed. */
function openLog(folder: string): number {
  const path = join(folder, CONSOLE_LOG);
  const status = lstatSync(path, { throwIfNoEntry: false });
  if (status !== undefined && !status.isFile())
    throw new ApiError(409, `Expected a file or nothing at ${path} but there is something else.`, {
      cure: 'Move it away.',
    });
  return openSync(path, 'a', 0o666);
}

const codeOf = (error: unknown): string => (error as NodeJS.ErrnoException).code ?? 'an error';
