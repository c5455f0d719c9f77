/** `minicpm-finetune`: finds the command, hands it its flags, and turns what happens into output and an exit code. */

import { UserError } from '@minicpm-finetune/run';
import { Command, CommanderError } from 'commander';
import { unknownName } from '../config/unknown-name.js';
import { VERSION } from '../version.js';
import type { CommandIO } from './cli-command.js';
import { asUserError, givenFlags, makeCommand } from './command.js';
import { COMMANDS } from './commands.js';
import { EXIT, reportError } from './exit.js';

/**
 * Runs a command line.
 *
 * @param words without `node` and script.
 * @returns the exit code; errors are printed, none is thrown.
 */
export async function main(words: readonly string[], io: CommandIO = process): Promise<number> {
  try {
    return await run(words, io);
  } catch (error) {
    if (error instanceof CommanderError && error.exitCode === 0) return EXIT.ok; // --help, --version
    return reportError(asUserError(error), io.stderr);
  }
}

async function run(words: readonly string[], io: CommandIO): Promise<number> {
  let exitCode: number = EXIT.ok;
  const program = makeProgram(io);
  for (const command of COMMANDS) {
    const parsed = makeCommand(command.text, command.flags);
    parsed.configureOutput({ writeOut: (text) => io.stdout.write(text) });
    parsed.action(async () => {
      exitCode = await command.run(givenFlags(parsed, command.flags), io);
    });
    program.addCommand(parsed);
  }
  const [first] = words;
  if (first === undefined) {
    io.stderr.write(program.helpInformation());
    return EXIT.usage;
  }
  refuseUnknownCommand(first);
  await program.parseAsync([...words], { from: 'user' });
  return exitCode;
}

function makeProgram(io: CommandIO): Command {
  return new Command('minicpm-finetune')
    .description('Fine-tunes MiniCPM-V and MiniCPM-o, vision-language models, on your pictures and conversations.')
    .usage('<command> [flags]')
    .version(VERSION, '-v, --version', 'Print the version.')
    .helpOption('-h, --help', 'Print this; `minicpm-finetune <command> --help` explains a command.')
    .exitOverride()
    .configureOutput({ writeOut: (text) => io.stdout.write(text), writeErr: () => {} });
}

function refuseUnknownCommand(word: string): void {
  const names = COMMANDS.map((command) => command.text.name);
  const own = ['help', '-h', '--help', '-v', '--version', ...names];
  if (own.includes(word)) return;
  const owner = COMMANDS.find((command) => command.flags.some((flag) => word.split('=')[0] === `--${flag.name}`));
  if (owner !== undefined) {
    throw new UserError(`Expected a command but received ${word}.`, {
      cure: `Write the command first: minicpm-finetune ${owner.text.name} ${word} …`,
    });
  }
  throw unknownName(word, 'a command', names, `The commands are ${names.join(', ')}.`);
}
