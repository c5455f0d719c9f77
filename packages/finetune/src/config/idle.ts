/** Notices about given values that have no effect. Because another value switches them off. */
import { CONFIG_FLAGS, type Flag, flagsOf, idleReason, nameAt, shown } from '@minicpm-finetune/run';
import type { GivenValues } from './flags.js';

/**
 * One line for each flag that was given without effect. Passed over are the values of a DeepSpeed file and of an adapter, and those of a recipe that is a resolved
 * configuration (`run.json` or the output of `--dry_run`): they list what they do not use, too.
 *
 * @param values the values of all flags by name.
 */
export function idleNotices(
  flags: readonly Flag[],
  values: ReadonlyMap<string, unknown>,
  given: GivenValues,
): string[] {
  const whole = isResolved(given);
  return flags.flatMap((flag) => {
    const kind = given.get(flag.name)?.source.kind;
    if (kind === undefined || kind === 'deepspeed' || kind === 'adapter' || (kind === 'recipe' && whole)) return [];
    const reason = idleReason(flag, values);
    if (reason === undefined) return [];
    const value = values.get(flag.name);
    const written = `${nameAt(flag.name, given.get(flag.name)!.source)} ${typeof value === 'string' ? value : shown(value)}`;
    return [`${written}: without effect: ${reason}.`];
  });
}

/** Whether the values are those of a resolved configuration, perhaps one that an older version with fewer flags wrote. */
function isResolved(given: GivenValues): boolean {
  const all = flagsOf(CONFIG_FLAGS);
  return all.filter(({ name }) => given.has(name)).length > 0.8 * all.length;
}
