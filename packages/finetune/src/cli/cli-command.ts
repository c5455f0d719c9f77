/** What a command is: its text and flags as data, and what it does with the values given. */

import type { TextStream } from '../progress.js';
import type { CommandText } from './command.js';
import type { Flag, Given, GivenValues } from './flags.js';

export interface CliCommand {
  text: CommandText;
  flags: readonly Flag[];
  /** @returns the exit code. What it needs beyond flags is imported inside, so that `--help` stays quick. */
  run(given: Map<string, Given>, io: CommandIO): Promise<number>;
}

export interface CommandIO {
  stdout: TextStream;
  stderr: TextStream;
  env: Readonly<Record<string, string | undefined>>;
}

/** The value of a flag: given, or its default. */
export function flagValue<T>(given: GivenValues, flag: Flag): T {
  return (given.has(flag.name) ? given.get(flag.name)?.value : flag.default) as T;
}
