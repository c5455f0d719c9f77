import { UserError } from '@minicpm-finetune/run';
import { parseFlags } from '../../src/cli/command.js';
import { TRAIN_TEXT } from '../../src/cli/train/text.js';
import { type ResolvedConfig, resolveGiven } from '../../src/config/resolve.js';
import { TRAIN_FLAGS } from '../../src/config/train-flags.js';

/** The configuration that the words after `train` mean, for `worldSize` processes. */
export function resolveTrainConfig(words: readonly string[], worldSize = 1): ResolvedConfig {
  return resolveGiven(parseFlags(TRAIN_TEXT, TRAIN_FLAGS, words), { worldSize });
}

/** The three flags that are required. */
export const base = ['--model_name_or_path', 'm', '--data_path', 'd.json', '--output_dir', 'o'];

/** The configuration of a command line with the required flags. */
export function resolve(...words: string[]): ResolvedConfig {
  return resolveTrainConfig([...base, ...words]);
}

/** The error with which a command line (all of it) is refused. */
export function refusal(words: readonly string[]): UserError {
  return userError(() => resolveTrainConfig(words));
}

/** The UserError that `run` throws; anything else fails the test. */
export function userError(run: () => unknown): UserError {
  try {
    run();
  } catch (error) {
    if (error instanceof UserError) return error;
    throw error;
  }
  throw new Error('no error was thrown');
}
