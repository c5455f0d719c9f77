/** What a command is: its text and flags as data, and what it does with the values given. */

import { expected } from '@minicpm-finetune/run';
import type { Flag, Given, GivenValues } from '../config/flags.js';
import type { TextStream } from '../report/progress.js';
import type { CommandText } from './command.js';

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

/** The value of a flag that has to be given. Throws UserError if it is not. */
export function requiredValue<T>(given: GivenValues, flags: readonly Flag[], name: string): T {
  const flag = flags.find((candidate) => candidate.name === name)!;
  if (given.has(name)) return flagValue<T>(given, flag);
  throw expected('a value', `--${name}`, undefined, {
    flag: `--${name}`,
    cure: `${flag.help} Give it as --${name} <${flag.placeholder}>.`,
  });
}
