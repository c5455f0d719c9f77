/** The command line of this repository, as the page starts it. */
import { execFile } from 'node:child_process';
import { join } from 'node:path';
import type { CommandLine } from '../../src/server/process/command-words.js';

export const COMMAND_LINE: CommandLine = {
  program: process.execPath,
  words: [join(import.meta.dirname, '../../../finetune/bin/minicpm-finetune.js')],
};

/** Runs a command to its end. This process goes on: its servers answer meanwhile. */
export function command(
  words: readonly string[],
  cwd: string,
): Promise<{ code: number; stdout: string; stderr: string }> {
  const options = { cwd, maxBuffer: 64 * 2 ** 20 };
  return new Promise((resolve) => {
    execFile(COMMAND_LINE.program, [...COMMAND_LINE.words, ...words], options, (error, stdout, stderr) => {
      resolve({ code: error === null ? 0 : Number(error.code), stdout, stderr });
    });
  });
}
