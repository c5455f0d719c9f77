/**
 * The refusal of an unknown flag, key or command. With the nearest known name, or the flag that stands for another
 * tool's name.
 */
import { type Flag, nearestName, shownNames, UserError } from '@minicpm-finetune/run';
import { foreignFlag } from './foreign-flags.js';

/** The error for `name`; `otherwise` says where all known names are listed. */
export function unknownName(name: string, what: string, known: readonly string[], otherwise: string): UserError {
  const near = nearestName(name, known);
  return refusal(name, what, near === undefined ? undefined : `Did you mean ${near}?`, otherwise);
}

/** The error for a flag of the command line (with its dashes) that is not among `flags`. */
export function unknownFlag(name: string, flags: readonly Flag[], otherwise: string): UserError {
  const names = flags.map((flag) => flag.name);
  const meant = foreignFlag(name, new Set(names), 'command line');
  if (meant !== undefined) return refusal(name, 'a known flag', meant, otherwise);
  return unknownName(
    name,
    'a known flag',
    names.map((known) => `--${known}`),
    otherwise,
  );
}

/** The error for a key of a recipe, or of `resolveConfig`, that is neither among `flags` nor one of the `groups`. */
export function unknownKey(
  name: string,
  where: string,
  flags: readonly Flag[],
  groups: readonly string[] = [],
): UserError {
  const otherwise = 'Keys are the flags of `minicpm-finetune train --help` without dashes.';
  const names = flags.map((flag) => flag.name);
  const what = `a known key for ${where}`;
  const meant = foreignFlag(name, new Set(names), 'recipe');
  return meant === undefined
    ? unknownName(name, what, [...names, ...groups], otherwise)
    : refusal(name, what, meant, otherwise);
}

function refusal(name: string, what: string, meant: string | undefined, otherwise: string): UserError {
  return new UserError(`Expected ${what} but received ${shownNames([name])}.`, {
    ...(name.startsWith('--') ? { flag: shownNames([name]) } : {}),
    cure: meant === undefined ? otherwise : `${meant} ${otherwise}`,
  });
}
