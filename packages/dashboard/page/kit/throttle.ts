/** Calls something at most once in a span of time. The first call comes at once, the last one is never lost. */
export class Throttle {
  readonly #span: number;
  readonly #run: () => void;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #again = false;

  /** @param span milliseconds. */
  constructor(span: number, run: () => void) {
    this.#span = span;
    this.#run = run;
  }

  call(): void {
    if (this.#timer !== undefined) {
      this.#again = true;
      return;
    }
    this.#timer = setTimeout(() => {
      this.#timer = undefined;
      if (!this.#again) return;
      this.#again = false;
      this.call();
    }, this.#span);
    this.#run();
  }

  /** Forgets what waits. */
  stop(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    this.#again = false;
  }
}
