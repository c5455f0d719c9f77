/**
 * Flags on commander: a command made from a flag table, and the words of a command line back as checked values.
 *
 * commander splits the words and prints the help; names, types and messages are the table's.
 */

import { expected, UserError } from '@minicpm-finetune/run';
import { Command, CommanderError, Option } from 'commander';
import { coerce } from '../config/coerce.js';
import type { Flag, Given } from '../config/flags.js';
import { unknownName } from '../config/unknown-name.js';

/** What a command shows in `--help` beside its flags. */
export interface CommandText {
  name: string;
  /** One sentence, shown in the list of commands. */
  summary: string;
  /** Shown under the usage line of the command's own help. */
  description: string;
  /** The flag that a word without one is the value of. */
  argument?: string;
  /** Heading for each group of flags; groups without one are hidden. */
  headings: Readonly<Record<string, string>>;
  /** Shown after the flags: worked examples. */
  examples: string;
}

/** A commander command with the table's flags. It never exits the process and never prints errors. */
export function makeCommand(text: CommandText, flags: readonly Flag[]): Command {
  const command = new Command(text.name)
    .summary(text.summary)
    .description(text.description)
    .usage('[flags]')
    .allowUnknownOption()
    .allowExcessArguments()
    .exitOverride()
    .configureOutput({ writeErr: () => {} })
    .helpOption('-h, --help', 'Print this.')
    .addHelpText('after', `\n${text.examples}`);
  if (text.argument !== undefined) command.argument(`[${text.argument}]`).usage(`[${text.argument}] [flags]`);
  for (const flag of flags) {
    const heading = text.headings[flag.group];
    const option = new Option(`--${flag.name}${valuePart(flag)}`, helpOf(flag));
    if (heading === undefined || flag.notice !== undefined) option.hideHelp();
    else option.helpGroup(heading);
    command.addOption(option);
  }
  return command;
}

/**
 * The flags a parsed command was given, checked, by name.
 *
 * @throws UserError for a flag it does not know (with the nearest name), a stray word or a bad value.
 */
export function givenFlags(command: Command, flags: readonly Flag[]): Map<string, Given> {
  const raw = { ...command.opts<Record<string, unknown>>() };
  const words = [...command.args];
  const argument = command.registeredArguments[0]?.name();
  if (argument !== undefined && raw[argument] === undefined && words[0]?.startsWith('-') === false)
    raw[argument] = words.shift();
  refuseStrays(words, command, flags);
  const given = new Map<string, Given>();
  for (const flag of flags) {
    if (raw[flag.name] === undefined) continue;
    const value = coerce(flag.name, flag, raw[flag.name], { kind: 'flag' });
    given.set(flag.name, { value, source: { kind: 'flag' } });
  }
  return given;
}

/** Parses words (without `node` and script) by a flag table. Throws as `givenFlags` does; prints and exits nothing. */
export function parseFlags(text: CommandText, flags: readonly Flag[], words: readonly string[]): Map<string, Given> {
  const command = makeCommand(text, flags).action(() => {});
  try {
    command.parse([...words], { from: 'user' });
  } catch (error) {
    throw asUserError(error);
  }
  return givenFlags(command, flags);
}

/** commander's own complaints in the project's wording; anything else as it is. */
export function asUserError(error: unknown): unknown {
  if (!(error instanceof CommanderError) || error.exitCode === 0) return error;
  const flag = /--[\w-]+/.exec(error.message)?.[0];
  if (error.code === 'commander.optionMissingArgument' && flag !== undefined) {
    return expected('a value', flag, undefined, { flag, cure: `Write one behind ${flag}.` });
  }
  return new UserError(`${error.message.replace(/^error: /, '')}.`, { cure: 'See --help.' });
}

/** Words that commander could not place: unknown flags and stray words. */
function refuseStrays(words: readonly string[], command: Command, flags: readonly Flag[]): void {
  const stray = words.find((word) => word.startsWith('-')) ?? words[0];
  if (stray === undefined) return;
  const help = `\`minicpm-finetune ${command.name()} --help\` lists all flags.`;
  if (!stray.startsWith('-')) {
    throw new UserError(`Expected a flag but received ${JSON.stringify(stray)}.`, {
      cure: `Write the flag it belongs to in front of it, and quote values with spaces. ${help}`,
    });
  }
  throw unknownName(
    stray.split('=')[0]!,
    'a known flag',
    flags.map((flag) => `--${flag.name}`),
    help,
  );
}

function valuePart(flag: Flag): string {
  const word = flag.placeholder?.replace('...', '') ?? PLACEHOLDERS[flag.kind];
  if (flag.kind === 'boolean' || flag.bare !== undefined) return ` [${word}]`;
  const many = ['strings', 'integers', 'numbers', 'modules'].includes(flag.kind);
  return ` <${word}${many ? '...' : ''}>`;
}

const PLACEHOLDERS: Readonly<Record<Flag['kind'], string>> = {
  string: 'text',
  boolean: 'true|false',
  integer: 'n',
  number: 'x',
  choice: 'name',
  strings: 'text',
  integers: 'n',
  numbers: 'x',
  bytes: 'bytes',
  options: 'json',
  modules: 'name',
};

function helpOf(flag: Flag): string {
  const parts = [flag.help];
  if (flag.choices !== undefined && flag.kind !== 'boolean') parts.push(`One of ${flag.choices.join(', ')}.`);
  if (flag.required) parts.push('Required.');
  else if (flag.derived !== undefined) parts.push(`(default: ${flag.derived})`);
  else if (flag.default !== null && flag.default !== false && String(flag.default) !== '') {
    parts.push(`(default: ${String(flag.default)})`);
  }
  return parts.join(' ');
}
