/**
 * Signals that ask the command line to stop or save. SIGINT and SIGTERM, and SIGUSR1.
 *
 * The first SIGINT or SIGTERM aborts `signal`: the training finishes its step and saves. The second ends the process at once, even in the
 * middle of a step (the last complete checkpoint is whole, since checkpoints are renamed into place). Not here: what a training does then
 * (train/stop.ts).
 */
import { ENGLISH, type Say } from '@minicpm-finetune/run';
import { watchSignals } from '@minicpm-finetune/torch';

const OF_TRAINING = 'Stopping: this step is finished first. Once more ends at once, without saving.';

export class ProcessSignals {
  readonly #abort = new AbortController();
  readonly #handlers: readonly [NodeJS.Signals, () => void][];
  readonly #answer: string;
  #saveAsked = false;
  #unwatch: (() => void) | null = null;

  readonly #say: Say;

  /** @param answer what the first signal is answered with, on standard error */
  constructor(say: Say = ENGLISH, answer = OF_TRAINING) {
    this.#say = say;
    this.#answer = answer;
    this.#handlers = [
      ['SIGINT', () => this.#abort.abort('sigint')],
      ['SIGTERM', () => this.#abort.abort('sigterm')],
      ['SIGUSR1', () => (this.#saveAsked = true)],
    ];
  }

  /** Aborted at the first SIGINT or SIGTERM; the reason is `sigint` or `sigterm`. */
  get signal(): AbortSignal {
    return this.#abort.signal;
  }

  /** Starts to listen. Before, signals end the process. */
  listen(): void {
    if (this.#unwatch !== null) return;
    for (const [signal, handler] of this.#handlers) process.on(signal, handler);
    this.#unwatch = watchSignals(`\n${this.#say(this.#answer)}\n`);
  }

  /** Whether a SIGUSR1 came since the last call. */
  takeSaveRequest(): boolean {
    const asked = this.#saveAsked;
    this.#saveAsked = false;
    return asked;
  }

  /** Stops listening. */
  close(): void {
    if (this.#unwatch === null) return;
    this.#unwatch();
    for (const [signal, handler] of this.#handlers) process.off(signal, handler);
    this.#unwatch = null;
  }
}
