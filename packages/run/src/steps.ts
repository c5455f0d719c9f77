/** Long work in steps. Done at once, or so that a server answers between two of them. */
import { setImmediate as turn } from 'node:timers/promises';

/** Work that stops briefly at each `yield`. Its steps take some milliseconds each. */
export type Steps<T> = Generator<void, T>;

/** Milliseconds after which others get their turn. */
const PAUSE = 20;

/** Does the work at once. */
export function atOnce<T>(steps: Steps<T>): T {
  for (let step = steps.next(); ; step = steps.next()) if (step.done) return step.value;
}

/** Does the work, and lets the event loop run every now and then. */
export async function inTurns<T>(steps: Steps<T>): Promise<T> {
  let since = performance.now();
  for (let step = steps.next(); ; step = steps.next()) {
    if (step.done) return step.value;
    if (performance.now() - since < PAUSE) continue;
    await turn();
    since = performance.now();
  }
}
