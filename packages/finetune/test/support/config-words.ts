import { UserError } from '@minicpm-finetune/run';
import { resolveTrainConfig } from '../../src/cli/train/command.js';
import type { ResolvedTrainConfig } from '../../src/config/resolve.js';

/** The three flags that are required. */
export const base = ['--model_name_or_path', 'm', '--data_path', 'd.json', '--output_dir', 'o'];

/** The configuration of a command line with the required flags. */
export function resolve(...words: string[]): ResolvedTrainConfig {
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
