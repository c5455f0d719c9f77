/** What the endpoints use. The model, its adapters, the queue and the counts. */
import { AdapterSet, type LoadedModel, stopTokens } from '@minicpm-finetune/minicpm-v';
import { ApiError } from '../api/error.js';
import type { ChatRequest } from '../api/request.js';
import type { Answering } from './answering.js';
import type { SamplingDefaults } from './defaults.js';
import { Metrics } from './metrics.js';
import { type BaseOptions, type ServedModel, ServedModels } from './models.js';
import { type PrepareOptions, prepareJob } from './prepare.js';
import { type Limits, Scheduler } from './scheduler.js';
import { TokenTexts } from './token-text.js';
import { VideoReader } from './videos.js';

export interface EngineOptions extends Limits, BaseOptions, Omit<PrepareOptions, 'defaults' | 'endTokens' | 'videos'> {
  readonly defaults: SamplingDefaults;
  /** Most seconds that the videos of a request take to be read. */
  readonly videoTimeout: number;
  /** Adapters that are there from the start, by name. */
  readonly adapters: readonly { readonly name: string; readonly folder: string }[];
  /** Is told what an operator should know, a sentence each. */
  readonly notice: (message: string) => void;
  /** Is told what went wrong inside. */
  readonly onError: (error: unknown) => void;
}

export class ChatEngine {
  readonly models: ServedModels;
  readonly #loaded: LoadedModel;
  readonly #adapters: AdapterSet;
  readonly #scheduler: Scheduler;
  readonly #metrics = new Metrics();
  readonly #prepare: PrepareOptions;
  readonly #notice: (message: string) => void;
  /** Fields whose want of an effect was said. */
  readonly #said = new Set<string>();

  /**
   * @param loaded without adapters; it is freed with the engine
   * @throws UserError for an adapter that cannot be used
   */
  constructor(loaded: LoadedModel, options: EngineOptions) {
    this.#loaded = loaded;
    this.#notice = options.notice;
    this.#adapters = new AdapterSet(loaded.model);
    this.models = new ServedModels(loaded, this.#adapters, options);
    try {
      for (const { name, folder } of options.adapters) this.#sayAll(this.models.add(name, folder).served);
    } catch (error) {
      this.#adapters.dispose();
      throw error;
    }
    this.#prepare = {
      ...options,
      videos: new VideoReader(options.videoTimeout),
      endTokens: stopTokens(loaded.template),
    };
    this.#scheduler = new Scheduler({
      model: loaded.model,
      adapters: this.#adapters,
      texts: new TokenTexts(loaded.tokenizer),
      metrics: this.#metrics,
      limits: options,
      onError: options.onError,
    });
  }

  #sayAll({ adapter }: ServedModel): void {
    for (const notice of adapter?.notices ?? []) this.#notice(notice);
  }

  /**
   * Lets a request wait for its answer.
   *
   * @param how.signal aborted when the client goes away
   * @throws ApiError for a request that cannot be answered
   */
  async ask(request: ChatRequest, how: { readonly arrived: number; readonly signal: AbortSignal }): Promise<Answering> {
    const served = this.models.get(request.model);
    this.#sayIdle(request);
    const place = this.#scheduler.reserve();
    try {
      const job = await prepareJob(request, served, this.#prepare, how);
      if (served.retired) {
        place.release();
        return await this.ask(request, how); // unloaded meanwhile: the name is free, or another adapter's
      }
      const answering = this.#scheduler.submit(job, place);
      const leave = (): void => this.cancel(answering);
      if (how.signal.aborted) leave();
      else how.signal.addEventListener('abort', leave, { once: true });
      return answering;
    } catch (error) {
      place.release();
      throw error;
    }
  }

  #sayIdle({ idle }: ChatRequest): void {
    for (const name of idle.filter((one) => !this.#said.has(one))) {
      this.#said.add(name);
      this.#notice(`A request has ${name}, which changes nothing here. It is not said again.`);
    }
  }

  /** A request's place in the queue; 0: it is being answered. */
  position(answering: Answering): number {
    return this.#scheduler.position(answering);
  }

  /** Ends a request that nobody waits for any more. */
  cancel(answering: Answering): void {
    this.#scheduler.cancel(answering);
  }

  /** What a user should know of the base. */
  get notices(): readonly string[] {
    return this.#loaded.notices;
  }

  /** Loads an adapter while requests are answered. Returns its model card, and what a user should know of it. @throws ApiError */
  loadAdapter(name: string, path: string, replace: boolean): object {
    const { served, before } = this.models.load(name, path, replace);
    this.#sayAll(served);
    if (before !== null) this.#scheduler.retire(before);
    return { ...this.models.card(served), notices: served.adapter?.notices ?? [] };
  }

  /** Takes an adapter's name away; requests under way are answered. @throws ApiError */
  unloadAdapter(name: string): object {
    const served = this.models.unload(name);
    this.#scheduler.retire(served);
    return { id: served.id, object: 'model', deleted: true };
  }

  /** The counts as text for Prometheus. */
  metricsText(): string {
    const { running, waiting } = this.#scheduler;
    return this.#metrics.text({ running, waiting, adapters: this.models.adapterCount });
  }

  /** Ends all requests with an error and frees everything. */
  async close(): Promise<void> {
    await this.#scheduler.close(
      new ApiError(503, 'The server is shutting down.', { code: 'shutting_down', retryAfter: 5 }),
    );
    this.#adapters.dispose();
    this.#loaded.dispose();
  }
}
