/** The error for another rank that is gone or silent. It is the cause, and no stack of this process helps. */

/** What a group says of it (packages/torch/src/group.ts). */
const LOST = /^(?:\w+: )?(Expected rank [\d, ]+ at .* but (?:its connection is closed \(.*\)|it did not come))$/;

/** `message` names the rank that this one waited for; `silent` those that do not answer, which may be others. */
export class LostRankError extends Error {
  override readonly name: string = 'LostRankError';
  readonly silent: string;

  constructor(message: string, silent: string, cause: unknown) {
    super(message, { cause });
    this.silent = silent;
  }
}

/** An error as this one if it is that of a group, otherwise as it is. */
export function asLost(error: unknown, silent: () => string): unknown {
  const found = error instanceof Error ? LOST.exec(error.message)?.[1] : undefined;
  return found === undefined ? error : new LostRankError(`${found}.`, silent(), error);
}
