/** Entry of the command line: finds and runs the command. Turns the result into output and an exit code. */
import { type Language, localeLanguage, shownNames, UserError } from '@minicpm-finetune/run';
import { Command, CommanderError, Option } from 'commander';
import { unknownName } from '../config/unknown-name.js';
import { VERSION } from '../version.js';
import type { CommandIO, ProcessIO } from './cli-command.js';
import { asUserError, givenFlags, makeCommand } from './command.js';
import { COMMANDS } from './commands.js';
import { EXIT, reportError } from './exit.js';
import { describeFlag, inLanguage, LANG_FLAG, valueWord } from './help.js';
import { sayIn, takeLanguage } from './language.js';

/**
 * Runs a command line.
 *
 * @param words without `node` and script.
 * @returns the exit code; errors are printed, none is thrown.
 */
export async function main(words: readonly string[], { stdout, stderr, env }: ProcessIO = process): Promise<number> {
  let say = await sayIn(localeLanguage(env)); // for a --lang that cannot be read
  try {
    const { language, words: rest } = takeLanguage(words, env);
    say = await sayIn(language);
    return await run(rest, language, { stdout, stderr, env, say });
  } catch (error) {
    if (error instanceof CommanderError && error.exitCode === 0) return EXIT.ok; // --help, --version
    return reportError(asUserError(error), stderr, say);
  }
}

async function run(words: readonly string[], language: Language, io: CommandIO): Promise<number> {
  const { stdout, stderr } = io;
  let exitCode: number = EXIT.ok;
  const program = makeProgram(io, language);
  for (const command of COMMANDS) {
    const parsed = makeCommand(command.text, command.flags, language);
    parsed.configureOutput({ writeOut: (text) => stdout.write(text) });
    parsed.action(async () => {
      exitCode = await command.run(givenFlags(parsed, command.flags), io);
    });
    program.addCommand(parsed);
  }
  const [first] = words;
  if (first === undefined) {
    stderr.write(program.helpInformation());
    return EXIT.usage;
  }
  refuseUnknownCommand(first);
  await program.parseAsync(words, { from: 'user' });
  return exitCode;
}

const PROGRAM = {
  en: {
    description: 'Fine-tunes the vision-language models MiniCPM-V and MiniCPM-o on your pictures and conversations.',
    usage: '<command> [flags]',
    version: 'Print the version.',
    help: 'Print this; `minicpm-finetune <command> --help` explains a command.',
    helpCommand: 'help [command]',
    helpOfCommand: 'Print the help of a command.',
  },
  zh: {
    description: '用你的图片和对话微调视觉语言模型 MiniCPM-V 和 MiniCPM-o。',
    usage: '<命令> [参数]',
    version: '打印版本号。',
    help: '打印此帮助；`minicpm-finetune <命令> --help` 说明某个命令。',
    helpCommand: 'help [命令]',
    helpOfCommand: '打印某个命令的帮助。',
  },
} as const;

function makeProgram(io: CommandIO, language: Language): Command {
  const text = PROGRAM[language];
  return inLanguage(new Command('minicpm-finetune'), language)
    .description(text.description)
    .usage(text.usage)
    .version(VERSION, '-v, --version', text.version)
    .helpOption('-h, --help', text.help)
    .helpCommand(text.helpCommand, text.helpOfCommand)
    .addOption(new Option(`--lang ${valueWord(LANG_FLAG)}`, describeFlag(LANG_FLAG, language)))
    .exitOverride()
    .configureOutput({ writeOut: (text) => io.stdout.write(text), writeErr: () => {} });
}

function refuseUnknownCommand(word: string): void {
  const names = COMMANDS.map((command) => command.text.name);
  const own = ['help', '-h', '--help', '-v', '--version', ...names];
  if (own.includes(word)) return;
  const owner = COMMANDS.find((command) => command.flags.some((flag) => word.split('=')[0] === `--${flag.name}`));
  if (owner !== undefined) {
    throw new UserError(`Expected a command but received ${shownNames([word])}.`, {
      cure: `Write the command first: minicpm-finetune ${owner.text.name} ${word} …`,
    });
  }
  throw unknownName(word, 'a command', names, `The commands are ${names.join(', ')}.`);
}
