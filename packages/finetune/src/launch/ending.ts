/** How the processes of a launcher ended. And which failure was the first. */

export interface Ending {
  readonly rank: number;
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
  /** What it said to its launcher before it ended; null: nothing. */
  readonly told: { readonly text: string; readonly consequence: boolean } | null;
  /** Whether the launcher had ended it. */
  readonly ended: boolean;
}

const SIGNALS: Readonly<Record<string, number>> = {
  SIGHUP: 1,
  SIGINT: 2,
  SIGABRT: 6,
  SIGKILL: 9,
  SIGSEGV: 11,
  SIGTERM: 15,
};
const INTERRUPTED = 130;

/** As shells have it: 128 + the number of the signal. */
export function exitCodeOf({ code, signal }: Ending): number {
  return code ?? 128 + (SIGNALS[signal ?? ''] ?? 0);
}

/** @param asked whether the processes were asked to end: an end by that is none of failure */
export function isFailure(ending: Ending, asked: boolean): boolean {
  const code = exitCodeOf(ending);
  return code !== 0 && !(asked && code === INTERRUPTED);
}

/** The one that the others followed: of those that the launcher did not end, the first that did not say that another one had failed. */
export function firstFailure(endings: readonly Ending[], asked: boolean): Ending | undefined {
  const failed = endings.filter((ending) => isFailure(ending, asked));
  const own = failed.filter(({ ended }) => !ended);
  return own.find(({ told }) => told?.consequence !== true) ?? own[0] ?? failed[0];
}
