/** Exit codes, and what a failure prints. */
import { ENGLISH, labelled, type Say, UserError } from '@minicpm-finetune/run';
import { LostRankError } from '../parallel/lost.js';
import type { TextStream } from '../report/progress.js';

export const EXIT = {
  ok: 0,
  /** Something failed that the user did not cause. */
  failure: 1,
  /** A mistake in flags, recipe, data or checkpoint. */
  usage: 2,
  /** Ended by Ctrl-C, as shells have it: 128 + SIGINT. */
  interrupted: 130,
} as const;

/** Cures, by system error code or by words of the message. */
const HINTS: readonly [RegExp, string][] = [
  [/ENOSPC/, 'The disk is full. Free some space, or write to another one.'],
  [/EACCES|EPERM|EROFS/, 'The file or folder may not be written or read. Check its permissions.'],
  [/EMFILE|ENFILE/, 'Too many files are open. Raise the limit (`ulimit -n 4096`).'],
  [/native addon of|torch\.node to load/, 'Run what the message above names.'],
  [
    /ERR_MODULE_NOT_FOUND|Cannot find (?:module|package)/,
    'Something is not built or installed. Run `npm run setup` in a clone, `npm install` in a project that uses the package.',
  ],
  [
    /out of memory|ENOMEM|can't allocate|cannot allocate|not enough memory|bad_alloc/i,
    'Memory ran out. Try --gradient_checkpointing, a smaller --per_device_train_batch_size with more --gradient_accumulation_steps, a smaller --model_max_length or --max_slice_nums, or --use_lora.',
  ],
];

const OTHER_ENDED =
  'Look at what it printed last on its machine, and at the network between the machines; resume with --resume_from_checkpoint latest.';

const UNKNOWN =
  'This is an unexpected error. If it happens again, please report it with the command line and the lines above.';

/** Prints an error and gives the exit code: a user's mistake without stack, anything else with stack and a hint. */
export function reportError(error: unknown, stream: TextStream, say: Say = ENGLISH): number {
  const { text, code } = printedError(error, say);
  stream.write(`${text}\n`);
  return code;
}

/** What is printed of an error, and the exit code that it means. */
export function printedError(error: unknown, say: Say = ENGLISH): { text: string; code: number } {
  if (error instanceof UserError) return { text: error.format(say), code: EXIT.usage };
  if (error instanceof LostRankError) {
    const { message, silent } = error; // that is in the language of `say` already
    const lines = [
      labelled('error', message, say),
      ...(silent === '' ? [] : [silent]),
      labelled('cure', OTHER_ENDED, say),
    ];
    return { text: lines.join('\n '), code: EXIT.failure };
  }
  const text = error instanceof Error ? (error.stack ?? error.message) : String(error);
  const code = error instanceof Error && 'code' in error ? String(error.code) : '';
  const hint = HINTS.find(([pattern]) => pattern.test(code) || pattern.test(text))?.[1] ?? UNKNOWN;
  return { text: `${text}\n ${labelled('hint', hint, say)}`, code: EXIT.failure };
}
