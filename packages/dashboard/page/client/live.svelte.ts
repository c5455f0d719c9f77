/** What the page knows of all runs. The server's one stream keeps it up to date. */
import type { EventBatch, RunSummary, StreamMessages } from '../../src/shared/api.js';
import { pageAttention } from './attention.js';
import { followEvents, type StreamEvent } from './event-stream.js';
import { mergePositions } from './position.js';
import { call, RequestError } from './request.js';

type Connection = 'connecting' | 'live' | 'lost';

type BatchListener = (batch: EventBatch | 'reset') => void;

class Live {
  #connection: Connection = $state('connecting');
  #runs: ReadonlyMap<string, RunSummary> = $state.raw(new Map());
  #loaded = $state(false);
  #failure: string | null = $state(null);
  #problems: readonly string[] = $state.raw([]);
  #roots: readonly string[] = $state.raw([]);
  readonly #listeners = new Map<string, Set<BatchListener>>();
  #stop = new AbortController();

  get connection(): Connection {
    return this.#connection;
  }

  /** All runs by id. */
  get runs(): ReadonlyMap<string, RunSummary> {
    return this.#runs;
  }

  /** Whether the list has come. */
  get loaded(): boolean {
    return this.#loaded;
  }

  /** Why the list could not be read; null: it could. */
  get failure(): string | null {
    return this.#failure;
  }

  /** Folders that the server could not read, and why. */
  get problems(): readonly string[] {
    return this.#problems;
  }

  /** The folders that the server looks through. */
  get roots(): readonly string[] {
    return this.#roots;
  }

  /** Loads the list and follows the stream from there. Again after a new token. */
  async start(): Promise<void> {
    this.#stop.abort();
    this.#stop = new AbortController();
    const { signal } = this.#stop;
    let position = '';
    while (!signal.aborted) {
      try {
        position = await this.#load();
        break;
      } catch (error) {
        if (error instanceof RequestError && error.status === 401) return;
        this.#failure = error instanceof Error ? error.message : String(error);
        this.#connection = 'lost';
        await new Promise((resolve) => setTimeout(resolve, 2000));
      }
    }
    await followEvents({
      url: '/api/events',
      after: position,
      merge: mergePositions,
      attention: pageAttention,
      signal,
      onState: (live) => (this.#connection = live ? 'live' : 'lost'),
      onEvent: (event) => this.#take(event),
    });
  }

  /** Puts in a summary that an action answered with. */
  put(run: RunSummary): void {
    this.#runs = new Map(this.#runs).set(run.id, run);
  }

  /** Calls `listener` with new events of a run, until the returned function is called. */
  listen(run: string, listener: BatchListener): () => void {
    const listeners = this.#listeners.get(run) ?? new Set();
    this.#listeners.set(run, listeners.add(listener));
    return () => listeners.delete(listener);
  }

  async #load(): Promise<string> {
    const list = await call('GET /api/runs', {});
    this.#runs = new Map(list.runs.map((run) => [run.id, run]));
    this.#problems = list.problems;
    this.#roots = list.roots;
    this.#loaded = true;
    this.#failure = null;
    return list.position;
  }

  #take({ event, data }: StreamEvent): void {
    const message = JSON.parse(data);
    switch (event as keyof StreamMessages) {
      case 'events':
        this.#tell((message as EventBatch).run, message as EventBatch);
        break;
      case 'run':
        this.put(message as RunSummary);
        break;
      case 'removed': {
        const runs = new Map(this.#runs);
        runs.delete((message as StreamMessages['removed']).run);
        this.#runs = runs;
        break;
      }
      case 'reset':
        this.#tell((message as StreamMessages['reset']).run, 'reset');
        break;
    }
  }

  #tell(run: string, batch: EventBatch | 'reset'): void {
    for (const listener of this.#listeners.get(run) ?? []) listener(batch);
  }
}

export const live = new Live();
