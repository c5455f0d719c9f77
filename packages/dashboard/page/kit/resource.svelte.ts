/** A value that is loaded from the server. The newest request counts, older answers are dropped. */

export class Resource<T> {
  #value: T | undefined = $state.raw();
  #error: unknown = $state.raw();
  readonly #read: (signal: AbortSignal) => Promise<T>;
  #running: AbortController | undefined;

  /** @param read makes the request; it is called by `load`. */
  constructor(read: (signal: AbortSignal) => Promise<T>) {
    this.#read = read;
  }

  /** The last value that came; it stays while a newer one is loaded. */
  get value(): T | undefined {
    return this.#value;
  }

  /** What the last request threw. */
  get error(): unknown {
    return this.#error;
  }

  async load(): Promise<void> {
    this.#running?.abort();
    const running = new AbortController();
    this.#running = running;
    try {
      const value = await this.#read(running.signal);
      if (this.#running !== running) return;
      this.#value = value;
      this.#error = undefined;
    } catch (error) {
      if (this.#running === running && !running.signal.aborted) this.#error = error;
    }
  }

  /** Ends a request that runs. */
  stop(): void {
    this.#running?.abort();
    this.#running = undefined;
  }
}
