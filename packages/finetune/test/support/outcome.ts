/** What becomes of a case with damaged input. */
import { UserError } from '@minicpm-finetune/run';
import { expect } from 'vitest';

export type Outcome = 'read' | 'refused';

/** Runs a case; anything but a result or a UserError with such a message, in time, fails and shows the case. */
export async function outcomeOf(
  what: string,
  run: () => unknown,
  limits: { readonly message: RegExp; readonly milliseconds: number },
): Promise<Outcome> {
  const started = performance.now();
  let result: Outcome = 'read';
  try {
    await run();
  } catch (error) {
    if (!(error instanceof UserError)) throw new Error(`${what}: ${(error as Error).stack}`, { cause: error });
    expect(error.message, what).toMatch(limits.message);
    result = 'refused';
  }
  expect(performance.now() - started, `${what} took too long`).toBeLessThan(limits.milliseconds);
  return result;
}
