/**
 * Builds commander commands from flag tables. commander splits the words and prints the help; names, types and messages
 * come from the table. The words of a command line come back as checked values.
 */
import { coerce, expected, type Flag, type Language, shown, type Text, UserError } from '@minicpm-finetune/run';
import { Command, CommanderError, Option } from 'commander';
import type { Given } from '../config/flags.js';
import { unknownFlag } from '../config/unknown-name.js';
import { describeFlag, HELP_FLAG, inLanguage, LANG_FLAG, valueWord } from './help.js';

/** The text of a command's `--help` around its flags. */
export interface CommandText {
  name: string;
  /** One sentence, shown in the list of commands. */
  summary: Text;
  /** Shown under the usage line of the command's own help. */
  description: Text;
  /** The flag that a word without one is the value of. */
  argument?: string;
  /** Heading for each group of flags, without a colon; groups without one are hidden. */
  headings: Readonly<Record<string, Text>>;
  /** Shown after the flags: worked examples. */
  examples: Text;
}

/** One worked example under its heading; the lines of one command line. */
export function example(...lines: readonly string[]): Text {
  const text = lines.map((line) => `    ${line}`).join('\n');
  return { en: `Example:\n\n${text}`, zh: `示例：\n\n${text}` };
}

/** A commander command with the table's flags. It never exits the process and never prints errors. */
export function makeCommand(text: CommandText, flags: readonly Flag[], language: Language = 'en'): Command {
  const [words, colon] = language === 'zh' ? ['[参数]', '：'] : ['[flags]', ':'];
  const command = inLanguage(new Command(text.name), language)
    .summary(text.summary[language])
    .description(text.description[language])
    .usage(words)
    .allowUnknownOption()
    .allowExcessArguments()
    .exitOverride()
    .configureOutput({ writeErr: () => {} })
    .helpOption('-h, --help', HELP_FLAG[language])
    .addOption(new Option(`--lang ${valueWord(LANG_FLAG)}`, describeFlag(LANG_FLAG, language)))
    .addHelpText('after', `\n${text.examples[language]}`);
  if (text.argument !== undefined) command.argument(`[${text.argument}]`).usage(`[${text.argument}] ${words}`);
  for (const flag of flags) {
    const heading = text.headings[flag.group];
    const option = new Option(`--${flag.name} ${valueWord(flag)}`, describeFlag(flag, language));
    if (heading === undefined || flag.notice !== undefined) option.hideHelp();
    else option.helpGroup(`${heading[language]}${colon}`);
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
    return expected('a value', flag, undefined, { flag, cure: `Write one after ${flag}.` });
  }
  return new UserError(`${error.message.replace(/^error: /, '')}.`, { cure: 'See --help.' });
}

/** Words that commander could not place: unknown flags and stray words. */
function refuseStrays(words: readonly string[], command: Command, flags: readonly Flag[]): void {
  const stray = words.find((word) => word.startsWith('-')) ?? words[0];
  if (stray === undefined) return;
  const help = `\`minicpm-finetune ${command.name()} --help\` lists all flags.`;
  if (!stray.startsWith('-')) {
    throw new UserError(`Expected a flag but received ${shown(stray)}.`, {
      cure: `Write its flag before it, and quote values with spaces. ${help}`,
    });
  }
  throw unknownFlag(stray.split('=')[0]!, flags, help);
}
