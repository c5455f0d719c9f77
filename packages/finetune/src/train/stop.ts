/**
 * How a run is asked to end, or to save: SIGINT and SIGTERM, SIGUSR1, and a file named STOP in the run folder.
 *
 * The first SIGINT or SIGTERM lets the step finish and saves; the second ends the process at once, even in the middle of a step (the last
 * complete checkpoint is whole, since checkpoints are renamed into place). Nothing else interrupts a step.
 */
import { existsSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { RUN_FILES, type StopEvent } from '@minicpm-finetune/run';
import { watchSignals } from '@minicpm-finetune/torch';

const ANSWER = '\nStopping: this step is finished first. Once more ends at once, without saving.\n';

export class StopRequests {
  #reason: StopEvent['reason'] | null = null;
  #saveNow = false;
  readonly #stopFile: string;
  readonly #handlers: readonly [NodeJS.Signals, () => void][];
  readonly #unwatch: () => void;

  /** Starts to listen. */
  constructor(runFolder: string) {
    this.#stopFile = join(runFolder, RUN_FILES.stop);
    const end = (reason: 'sigint' | 'sigterm') => () => {
      this.#reason ??= reason;
    };
    this.#handlers = [
      ['SIGINT', end('sigint')],
      ['SIGTERM', end('sigterm')],
      [
        'SIGUSR1',
        () => {
          this.#saveNow = true;
        },
      ],
    ];
    for (const [signal, handler] of this.#handlers) process.on(signal, handler);
    this.#unwatch = watchSignals(ANSWER);
  }

  /** Why the run has to end after this step, or null. Asked between steps. */
  get reason(): StopEvent['reason'] | null {
    if (this.#reason === null && existsSync(this.#stopFile)) {
      this.#reason = 'stop_file';
      rmSync(this.#stopFile, { force: true });
    }
    return this.#reason;
  }

  /** Whether a checkpoint was asked for since the last time this was asked. */
  takeSaveRequest(): boolean {
    const asked = this.#saveNow;
    this.#saveNow = false;
    return asked;
  }

  close(): void {
    this.#unwatch();
    for (const [signal, handler] of this.#handlers) process.off(signal, handler);
  }
}
