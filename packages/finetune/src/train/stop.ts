/**
 * How a run is asked to stop or save between steps. By an AbortSignal, a file named STOP in the run folder, or
 * `saveRequested`; nothing interrupts a step.
 */
import { existsSync, lstatSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { RUN_FILES, type StopEvent } from '@minicpm-finetune/run';
import type { Ranks } from '../parallel/ranks.js';

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

const REASONS = [
  'sigint',
  'sigterm',
  'abort',
  'stop_file',
  'nonfinite',
] as const satisfies readonly StopEvent['reason'][];

/** What a run is asked for between two steps. */
export interface Requests {
  /** Why it has to end, or null. */
  readonly reason: StopEvent['reason'] | null;
  /** Whether a checkpoint is asked for. */
  readonly save: boolean;
}

/** What all ranks do: whatever any of them is asked for. The lowest rank's reason counts. */
export function agreeOnRequests({ group }: Ranks, { reason, save }: Requests): Requests {
  const own = reason === null ? 0 : REASONS.indexOf(reason) + 1;
  const all = group.exchange([own, save ? 1 : 0], 'requests to stop or save');
  const first = all.find(([code]) => code! > 0)?.[0];
  return { reason: first === undefined ? null : REASONS[first - 1]!, save: all.some(([, asked]) => asked === 1) };
}

export class StopRequests {
  readonly #stopFile: string | null;
  readonly #options: StopOptions;
  #fileSeen = false;

  /** @param runFolder where the STOP file is looked for; null: another rank looks for it */
  constructor(runFolder: string | null, options: StopOptions = {}) {
    this.#stopFile = runFolder === null ? null : join(runFolder, RUN_FILES.stop);
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
    if (this.#stopFile !== null && !this.#fileSeen && existsSync(this.#stopFile)) {
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
