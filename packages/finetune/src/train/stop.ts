/**
 * How a run is asked to stop or save between steps. By an AbortSignal, a file named STOP in the run folder, or
 * `saveRequested`; nothing interrupts a step.
 */
import { existsSync, lstatSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { RUN_FILES, type StopEvent } from '@minicpm-finetune/run';

export interface StopOptions {
  /** Aborting it ends the run after the step under way. */
  readonly signal?: AbortSignal | undefined;
  /** Asked after every step: true saves a checkpoint. */
  readonly saveRequested?: (() => boolean) | undefined;
}

/** Whether a STOP file holds nothing: it may be removed. */
export function isRequest(path: string): boolean {
  return lstatSync(path).isFile() && readFileSync(path, 'utf8').trim() === '';
}

export class StopRequests {
  readonly #stopFile: string;
  readonly #options: StopOptions;
  #fileSeen = false;

  constructor(runFolder: string, options: StopOptions = {}) {
    this.#stopFile = join(runFolder, RUN_FILES.stop);
    this.#options = options;
  }

  /** Why the signal was aborted, or null. */
  get aborted(): StopEvent['reason'] | null {
    const { signal } = this.#options;
    if (!signal?.aborted) return null;
    return signal.reason === 'sigint' || signal.reason === 'sigterm' ? signal.reason : 'abort';
  }

  /** Why the run has to end after this step, or null. An empty STOP file is removed when it is seen. */
  get reason(): StopEvent['reason'] | null {
    const { aborted } = this;
    if (aborted !== null) return aborted;
    if (!this.#fileSeen && existsSync(this.#stopFile)) {
      this.#fileSeen = true;
      if (isRequest(this.#stopFile)) rmSync(this.#stopFile, { force: true });
    }
    return this.#fileSeen ? 'stop_file' : null;
  }

  /** Whether a checkpoint is asked for now. */
  takeSaveRequest(): boolean {
    return this.#options.saveRequested?.() ?? false;
  }
}
