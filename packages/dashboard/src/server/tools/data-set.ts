/**
 * Data that a person opened. Their files, the child that shows records, and the report of check-data. The files are read by children of
 * the command line alone.
 */
import { randomBytes } from 'node:crypto';
import type { UserErrorData } from '@minicpm-finetune/run';
import type { OpenedData } from '../../shared/api.js';
import { ApiError, notFound } from '../errors.js';
import { CheckedRecords, type CheckJson } from './checked-data.js';
import { type CommandOptions, RequestChild, type RunningCommand, startCommand } from './child.js';

/** Data sets that are open at once; the one that was used least lately is closed. */
const MOST_OPEN = 6;
/** A child without requests ends after that; the next request starts it again. */
const IDLE_MS = 10 * 60_000;

export interface OpenRequest {
  readonly files: readonly string[];
  readonly model: string;
  /** Flags of `train` by name; those that are undefined have their defaults. */
  readonly settings?: Readonly<Record<string, unknown>> | undefined;
}

export type Check =
  | { readonly state: 'running'; readonly command: RunningCommand }
  | { readonly state: 'done'; readonly records: CheckedRecords }
  | { readonly state: 'failed'; readonly stderr: string };

/** The words that are the same for check-data and render. */
function encoderWords({ files, model, settings = {} }: OpenRequest): string[] {
  const values = Object.entries(settings).filter(([, value]) => value !== undefined);
  return [
    ...files.map((file) => `--data_path=${file}`),
    `--model_name_or_path=${model}`,
    ...values.map(([name, value]) => `--${name}=${value}`),
  ];
}

export class DataSet {
  readonly handle = randomBytes(9).toString('base64url');
  readonly request: OpenRequest;
  usedAt = Date.now();
  check: Check;
  readonly #options: CommandOptions;
  #child: RequestChild | null = null;
  #idle: NodeJS.Timeout | undefined;

  constructor(request: OpenRequest, options: CommandOptions) {
    this.request = request;
    this.#options = options;
    const words = ['check-data', '--json=true', '--per_record=true', ...encoderWords(request)];
    const command = startCommand(words, { ...options, quiet: true });
    this.check = { state: 'running', command };
    void this.#finish(command);
  }

  async #finish(command: RunningCommand): Promise<void> {
    try {
      const { stdout, stderr } = await command.ended;
      this.check = stdout.startsWith('{')
        ? { state: 'done', records: new CheckedRecords(JSON.parse(stdout) as CheckJson) }
        : { state: 'failed', stderr };
    } catch (error) {
      this.check = { state: 'failed', stderr: (error as Error).message };
    }
  }

  /** What was opened. @throws ApiError 422: why it cannot be */
  async describe(): Promise<OpenedData> {
    const ready = (await this.#opened().ready) as {
      readonly records: number;
      readonly files: OpenedData['files'];
      readonly model_max_length: number;
      readonly max_slice_nums: number | null;
    };
    return {
      data: this.handle,
      files: ready.files,
      model: this.request.model,
      records: ready.records,
      modelMaxLength: ready.model_max_length,
      maxSliceNums: ready.max_slice_nums,
    };
  }

  /** An answer of `render --requests`. @throws ChildRefusal, ApiError */
  async ask<T>(request: object): Promise<T> {
    this.usedAt = Date.now();
    return (await this.#opened().request(request)) as T;
  }

  #opened(): RequestChild {
    clearTimeout(this.#idle);
    this.#idle = setTimeout(() => this.#closeChild(), IDLE_MS).unref();
    if (this.#child === null || this.#child.isEnded)
      this.#child = new RequestChild(['render', '--requests=true', ...encoderWords(this.request)], this.#options);
    return this.#child;
  }

  #closeChild(): void {
    this.#child?.close();
    this.#child = null;
  }

  close(): void {
    clearTimeout(this.#idle);
    this.#closeChild();
    if (this.check.state === 'running') this.check.command.kill();
  }
}

export class DataSets {
  readonly #options: CommandOptions;
  readonly #sets = new Map<string, DataSet>();

  constructor(options: CommandOptions) {
    this.#options = options;
  }

  /** @throws ApiError 422 in words of the command line: no such file, no model, … */
  async open(request: OpenRequest): Promise<OpenedData> {
    const set = new DataSet(request, this.#options);
    try {
      const opened = await set.describe();
      this.#makeRoom();
      this.#sets.set(set.handle, set);
      return opened;
    } catch (error) {
      set.close();
      throw error;
    }
  }

  #makeRoom(): void {
    while (this.#sets.size >= MOST_OPEN) {
      const oldest = [...this.#sets.values()].reduce((a, b) => (a.usedAt <= b.usedAt ? a : b));
      this.close(oldest.handle);
    }
  }

  /** @throws ApiError 404 */
  get(handle: string): DataSet {
    const set = this.#sets.get(handle);
    if (set === undefined) throw notFound('opened data');
    return set;
  }

  /** The report of data. @throws ApiError 409: it is not there yet */
  checked(set: DataSet): CheckedRecords {
    if (set.check.state === 'done') return set.check.records;
    throw new ApiError(409, 'Expected the report of check-data for this filter but it is not there yet.', {
      cure: 'Wait until the data are checked.',
    });
  }

  async list(): Promise<OpenedData[]> {
    const all = await Promise.allSettled([...this.#sets.values()].map((set) => set.describe()));
    return all.flatMap((one) => (one.status === 'fulfilled' ? [one.value] : []));
  }

  close(handle: string): void {
    this.#sets.get(handle)?.close();
    this.#sets.delete(handle);
  }

  closeAll(): void {
    for (const handle of [...this.#sets.keys()]) this.close(handle);
  }
}

/** What `render --requests` answers to `list`. */
export interface PreviewJson {
  readonly record: number;
  readonly question: string;
  readonly answer: string;
  readonly images: number;
  readonly videos: number;
  readonly error?: UserErrorData;
}
