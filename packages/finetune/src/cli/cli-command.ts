/** A command: its text and flags as data, and its action. */
import { expected, type Flag, type Say } from '@minicpm-finetune/run';
import type { Given, GivenValues } from '../config/flags.js';
import { idleNotices } from '../config/idle.js';
import type { TextStream } from '../report/progress.js';
import type { CommandText } from './command.js';

export interface CliCommand {
  text: CommandText;
  flags: readonly Flag[];
  /** @returns the exit code. What it needs beyond flags is imported inside, so that `--help` stays quick. */
  run(given: Map<string, Given>, io: CommandIO): Promise<number>;
}

/** What a command line gets from its process. */
export interface ProcessIO {
  stdout: TextStream;
  stderr: TextStream;
  env: Readonly<Record<string, string | undefined>>;
}

export interface CommandIO extends ProcessIO {
  /** A message in the language of the command line. Applied where it is printed; what programs read stays English. */
  say: Say;
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
    cure: `${flag.help.en} Give it as --${name} <${flag.placeholder}>.`,
  });
}

/** Says on standard error which of the given flags have no effect. */
export function sayIdle(given: GivenValues, flags: readonly Flag[], { stderr, say }: CommandIO): void {
  const values = new Map(flags.map((flag) => [flag.name, flagValue(given, flag)]));
  for (const notice of idleNotices(flags, values, given)) stderr.write(`${say(`notice: ${notice}`)}\n`);
}
