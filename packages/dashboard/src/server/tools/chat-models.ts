/** The models of the chat. One process for each base, with adapters loaded into it. */
import { randomBytes } from 'node:crypto';
import type { ChatModel, ChatSource } from '../../shared/api.js';
import { ApiError, notFound } from '../errors.js';
import { shellText } from '../process/command-words.js';
import type { Weights } from './chat-source.js';
import type { CommandOptions } from './child.js';
import { ServeProcess } from './serve-process.js';

/** Bases in memory at once. */
const MOST_PROCESSES = 3;

interface Loaded {
  readonly id: string;
  readonly source: ChatSource;
  readonly weights: Weights;
  readonly process: ServeProcess;
  /** Its `model` in requests. */
  name: string;
  state: 'loading' | 'ready' | 'failed';
  error: string | null;
  /** What a user should know of its adapter. */
  notices: readonly string[];
}

export class ChatModels {
  readonly #options: CommandOptions;
  readonly #roots: () => readonly string[];
  readonly #models = new Map<string, Loaded>();
  readonly #processes = new Set<ServeProcess>();

  /** @param roots folders below which adapters lie */
  constructor(options: CommandOptions, roots: () => readonly string[]) {
    this.#options = options;
    this.#roots = roots;
  }

  /** Begins to load a model; one that is there is returned. @throws ApiError 409: too many bases */
  open(source: ChatSource, weights: Weights, dtype: string | null): ChatModel {
    const same = [...this.#models.values()].find(
      (one) =>
        one.weights.base === weights.base &&
        one.weights.adapter === weights.adapter &&
        one.process.options.dtype === dtype &&
        one.process.state !== 'ended' &&
        one.state !== 'failed',
    );
    if (same !== undefined) return this.#describe(same);
    const process = this.#processFor(weights, dtype);
    const id = randomBytes(9).toString('base64url');
    const loaded: Loaded = { id, source, weights, process, name: '', state: 'loading', error: null, notices: [] };
    this.#models.set(id, loaded);
    void this.#load(loaded);
    return this.#describe(loaded);
  }

  #processFor({ base, mayFetch }: Weights, dtype: string | null): ServeProcess {
    const there = [...this.#processes].find(
      ({ options, state }) => options.base === base && options.dtype === dtype && state !== 'ended',
    );
    if (there !== undefined) return there;
    if (this.#processes.size >= MOST_PROCESSES) {
      throw new ApiError(409, `Expected at most ${MOST_PROCESSES} base models in memory at once.`, {
        cure: 'Free one of those that are loaded.',
      });
    }
    const process: ServeProcess = new ServeProcess(
      { ...this.#options, base, dtype, mayFetch, adapterRoots: this.#roots() },
      () => this.#processes.delete(process),
    );
    this.#processes.add(process);
    return process;
  }

  async #load(loaded: Loaded): Promise<void> {
    try {
      const base = await loaded.process.ready;
      const { adapter, label } = loaded.weights;
      loaded.name = adapter === null ? base : `${slug(label)}-${loaded.id.slice(0, 4)}`;
      if (adapter !== null) loaded.notices = await loadAdapter(loaded.process, loaded.name, adapter);
      loaded.state = 'ready';
    } catch (error) {
      loaded.state = 'failed';
      loaded.error = (error as Error).message;
      this.#endIdle(loaded.process);
    }
  }

  list(): ChatModel[] {
    return [...this.#models.values()].map((one) => this.#describe(one));
  }

  /** Passes a request on. `signal`: the client is gone. @throws ApiError */
  async ask(id: string, body: object, signal: AbortSignal): Promise<Response> {
    const loaded = this.#get(id);
    if (loaded.state === 'loading') {
      throw new ApiError(503, 'Expected a loaded model but it is being loaded.', { cure: 'Try again in a moment.' });
    }
    if (loaded.state === 'failed' || loaded.process.state === 'ended') {
      throw new ApiError(503, loaded.error ?? loaded.process.error ?? 'The process of this model ended.', {
        cure: 'Load the model again.',
      });
    }
    return await loaded.process.request('/v1/chat/completions', { ...body, model: loaded.name }, signal);
  }

  close(id: string): void {
    const loaded = this.#get(id);
    this.#models.delete(id);
    this.#endIdle(loaded.process);
    const { adapter } = loaded.weights;
    if (adapter === null || loaded.process.state !== 'ready' || loaded.state !== 'ready') return;
    // The process may have ended for the last model; a failure to unload leaves memory that goes with the process.
    loaded.process.request('/v1/unload_lora_adapter', { lora_name: loaded.name }).catch(() => {});
  }

  /** A process without models ends. */
  #endIdle(process: ServeProcess): void {
    const isUsed = [...this.#models.values()].some((one) => one.process === process && one.state !== 'failed');
    if (!isUsed) process.close();
  }

  closeAll(): void {
    for (const process of this.#processes) process.close();
    this.#models.clear();
  }

  #get(id: string): Loaded {
    const loaded = this.#models.get(id);
    if (loaded === undefined) throw notFound('a model of the chat');
    return loaded;
  }

  #describe({ id, source, weights, process, state, error, notices, name }: Loaded): ChatModel {
    const ended = process.state === 'ended' || state === 'failed';
    const { base, adapter, label } = weights;
    const model = adapter === null ? 'base' : slug(label);
    return {
      id,
      source,
      label,
      base,
      adapter,
      state: ended ? 'ended' : state === 'ready' ? 'ready' : 'loading',
      dtype: process.options.dtype,
      server: { id: process.id, pid: process.pid, rss: process.rss, seconds: process.seconds },
      error: error ?? process.error,
      videos: process.videos,
      notices: [...process.notices, ...notices],
      command: shellText([
        'minicpm-finetune',
        'serve',
        '--model',
        base,
        ...(adapter === null ? [] : ['--adapter', `${model}=${adapter}`]),
        ...(process.options.dtype === null ? [] : ['--dtype', process.options.dtype]),
      ]),
      name: adapter === null ? name : model,
    };
  }
}

/** Returns what a user should know of it. */
async function loadAdapter(process: ServeProcess, name: string, path: string): Promise<readonly string[]> {
  const answer = await process.request('/v1/load_lora_adapter', { lora_name: name, lora_path: path });
  const { error, notices = [] } = (await answer.json()) as { error?: { message?: string }; notices?: string[] };
  if (answer.ok) return notices;
  throw new ApiError(422, error?.message ?? `The adapter was refused (status ${answer.status}).`);
}

/** Letters and digits with hyphens between. */
function slug(label: string): string {
  return label.replaceAll(/[^A-Za-z0-9]+/g, '-').replaceAll(/^-|-$/g, '') || 'adapter';
}
