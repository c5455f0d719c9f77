/** Work on checkpoints, each in a child process. It ends with this process; what it wrote stays. */
import { randomBytes } from 'node:crypto';
import { resolve } from 'node:path';
import { DEFAULT_OUTTYPE, type Say } from '@minicpm-finetune/run';
import type { FieldError, Job, JobRequest } from '../../shared/api.js';
import { ApiError, notFound } from '../errors.js';
import { shellText } from '../process/command-words.js';
import { pathBelow } from '../process/path-below.js';
import { errorOfText } from '../say.js';
import type { Weights } from './chat-source.js';
import {
  type CommandOptions,
  type Ended,
  environment,
  missingBase,
  type RunningCommand,
  startCommand,
} from './child.js';

/** Each loads a model: more at once would take the machine's memory from trainings. */
const MOST_RUNNING = 2;
/** Jobs that have ended and are still shown. */
const MOST_ENDED = 50;

interface Started {
  readonly id: string;
  readonly run: string;
  readonly request: JobRequest;
  readonly words: readonly string[];
  readonly base: string;
  readonly output: string;
  readonly command: RunningCommand;
  readonly begin: number;
  state: Job['state'];
  end: number | null;
  ended: Ended | null;
}

export class Jobs {
  readonly #options: CommandOptions;
  readonly #roots: () => readonly string[];
  readonly #jobs: Started[] = [];

  /** @param roots folders below which commands may write */
  constructor(options: CommandOptions, roots: () => readonly string[]) {
    this.#options = options;
    this.#roots = roots;
  }

  /** Those of a run, newest first. */
  ofRun(run: string, say: Say): Job[] {
    return this.#jobs.filter((job) => job.run === run).map((job) => describe(job, say));
  }

  /** @throws ApiError 400 naming the field; 409: too many, or another one writes there */
  start(run: string, request: JobRequest, weights: Weights, say: Say): Job {
    const field = request.kind === 'merge' ? 'output_dir' : 'output';
    const output = pathBelow(this.#roots(), resolve(this.#options.cwd, plain(request.output, field)), field);
    const running = this.#jobs.filter(({ ended }) => ended === null);
    if (running.some((job) => job.output === output))
      throw new ApiError(409, `Expected another place for --${field} but ${output} is being written.`, { field });
    if (running.length >= MOST_RUNNING)
      throw new ApiError(409, `Expected at most ${MOST_RUNNING} commands at once.`, {
        cure: 'Wait for one of them, or stop it.',
      });
    const words = wordsOf(request, weights, output);
    const job: Started = {
      id: randomBytes(9).toString('base64url'),
      run,
      request,
      words,
      base: weights.base,
      output,
      command: startCommand(words, { ...this.#options, quiet: true, env: environment(weights.mayFetch) }),
      begin: Date.now(),
      state: 'running',
      end: null,
      ended: null,
    };
    this.#jobs.unshift(job);
    this.#forget();
    void this.#follow(job);
    return describe(job, say);
  }

  /** Asks its process to end. @throws ApiError 404 */
  stop(id: string, say: Say): Job {
    const job = this.#jobs.find((one) => one.id === id);
    if (job === undefined) throw notFound('a command');
    if (job.state === 'running') {
      job.state = 'stopped';
      job.command.kill();
    }
    return describe(job, say);
  }

  close(): void {
    for (const { command, ended } of this.#jobs) if (ended === null) command.kill();
  }

  async #follow(job: Started): Promise<void> {
    try {
      job.ended = await job.command.ended;
    } catch (error) {
      job.ended = { code: null, signal: null, stdout: '', stderr: (error as Error).message };
    }
    job.end = Date.now();
    if (job.state === 'running') job.state = job.ended.code === 0 ? 'done' : 'failed';
  }

  /** The oldest ones that have ended are not shown for ever. */
  #forget(): void {
    const ended = this.#jobs.filter((job) => job.ended !== null);
    for (const job of ended.slice(MOST_ENDED)) this.#jobs.splice(this.#jobs.indexOf(job), 1);
  }
}

function wordsOf({ kind, data_path: data = [], outtype }: JobRequest, { base, adapter }: Weights, output: string) {
  const model = [`--model=${base}`, ...(adapter === null ? [] : [`--adapter=${adapter}`])];
  if (kind === 'evaluate') {
    if (data.length === 0)
      throw new ApiError(400, 'Expected a file of records for --data_path but received none.', { field: 'data_path' });
    const files = data.map((file) => `--data_path=${plain(file, 'data_path')}`);
    return ['generate', ...model, ...files, `--output=${output}`];
  }
  if (kind === 'merge') {
    if (adapter === null)
      throw new ApiError(400, 'Expected an adapter to merge but the checkpoint is a whole model.', {
        field: 'kind',
        cure: 'Use its folder as it is.',
      });
    return ['merge', ...model, `--output_dir=${output}`];
  }
  return [
    'export',
    '--format=gguf',
    ...model,
    `--outtype=${plain(outtype ?? DEFAULT_OUTTYPE, 'outtype')}`,
    `--output=${output}`,
  ];
}

function plain(text: string, field: string): string {
  if (text.trim() === '') throw new ApiError(400, `Expected a text for --${field} but received none.`, { field });
  if (!text.includes('\0')) return text;
  throw new ApiError(400, `Expected a text without the character NUL for --${field}.`, { field });
}

function describe(job: Started, say: Say): Job {
  const { id, run, request, words, base, output, state, command, begin, end, ended } = job;
  const printed = ended?.stdout.trimEnd().split('\n').at(-1) ?? '';
  return {
    id,
    kind: request.kind,
    run,
    step: request.step,
    command: shellText(['minicpm-finetune', ...words]),
    output,
    state,
    said: say(printed === '' ? command.said : printed),
    seconds: ((end ?? Date.now()) - begin) / 1000,
    error: state === 'failed' && ended !== null ? errorOf(ended, base, say) : null,
  };
}

function errorOf({ stderr, signal }: Ended, base: string, say: Say): FieldError {
  const missing = missingBase(base, stderr);
  if (missing !== undefined) return { ...missing, message: say(missing.message), cure: say(missing.cure ?? '') };
  if (signal !== 'SIGKILL') return errorOfText(stderr, say);
  const message = say(
    'The process was killed (SIGKILL): as a rule, the machine ran out of memory. Free a model, or take a smaller one.',
  );
  return { message, field: null, cure: null };
}
