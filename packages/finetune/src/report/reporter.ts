/**
 * How work reports to a person: sentences and tasks. What is told is not recorded; a reporter decides what is shown,
 * and where. `Progress` (progress.ts) is the one for terminals; `SILENT` shows nothing.
 */
import type { RunEvent, StepEvent } from '@minicpm-finetune/run';

export interface Reporter {
  /** A sentence that the user should see once. */
  notice(message: string): void;
  /**
   * A piece of work of some length: loading, checking data. One at a time.
   *
   * @param label what is done, such as "Checking".
   * @param total in units; undefined if not known beforehand.
   * @param unit of the count, such as "records"; "bytes" are shown as sizes.
   */
  task(label: string, total: number | undefined, unit: string): Task;
  /** An event of a training run, as events.jsonl has it. */
  event?(event: RunEvent): void;
  /** The length of a training, before its first step. */
  training?(length: TrainingLength): void;
  /** The numbers after every optimizer step, also of those that are not logged. */
  step?(status: StepStatus): void;
}

export interface Task {
  /** `done` units so far; `note` follows the numbers. */
  update(done: number, note?: string): void;
  /** The work is complete. */
  finish(done: number, note?: string): void;
  /** The work ended before it was complete. */
  stop(): void;
}

/** Optimizer steps of the whole run and its passes over the data, for `step 3/100  epoch 0.1/3`. */
export interface TrainingLength {
  readonly totalSteps: number;
  readonly epochs: number;
}

/** A step event's numbers. */
export type StepStatus = Omit<StepEvent, 'event'>;

const IDLE: Task = { update: () => {}, finish: () => {}, stop: () => {} };

/** Shows nothing. */
export const SILENT: Reporter = { notice: () => {}, task: () => IDLE };

/** Runs work as a task that ends with it: `update` tells of the progress, and the task is stopped if the work fails. */
export async function asTask<T>(
  reporter: Reporter,
  { label, total, unit }: { readonly label: string; readonly total: number | undefined; readonly unit: string },
  work: (update: (done: number, note?: string) => void) => Promise<T>,
): Promise<T> {
  const task = reporter.task(label, total, unit);
  let [last, lastNote]: [number, string | undefined] = [0, undefined];
  try {
    const result = await work((done, note) => {
      [last, lastNote] = [done, note];
      task.update(done, note);
    });
    task.finish(last, lastNote);
    return result;
  } catch (error) {
    task.stop();
    throw error;
  }
}

/** Milliseconds of hashing that are not worth a line. */
const SHORT_HASHING = 300;

/** Shows how weights are hashed if it takes its time: small models and hashes that are remembered show nothing. */
export function hashingTask(reporter: Reporter): Disposable & { update(done: { bytes: number; of: number }): void } {
  let task: Task | undefined;
  let started: number | undefined;
  let last = 0;
  return {
    update: ({ bytes, of }) => {
      last = bytes;
      started ??= performance.now();
      if (performance.now() - started < SHORT_HASHING) return;
      task ??= reporter.task('Hashing weights', of, 'bytes');
      task.update(bytes);
    },
    [Symbol.dispose]: () => task?.finish(last),
  };
}
