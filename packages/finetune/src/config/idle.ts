/** Notices about values that were given but that another value makes meaningless. */

import { CONFIG_FLAGS, type Flag, flagsOf, idleReason, type Language, shown } from '@minicpm-finetune/run';
import { type GivenValues, nameAt } from './flags.js';

/**
 * One line for each flag that was given without effect. Passed over are the values of a DeepSpeed file, and those of a recipe that gives every
 * flag (`run.json` or the output of `--dry_run`): both list what they do not use, too.
 *
 * @param values the values of all flags by name.
 */
export function idleNotices(
  flags: readonly Flag[],
  values: ReadonlyMap<string, unknown>,
  given: GivenValues,
  language: Language,
): string[] {
  const whole = flagsOf(CONFIG_FLAGS).every(({ name }) => given.has(name));
  return flags.flatMap((flag) => {
    const kind = given.get(flag.name)?.source.kind;
    if (kind === undefined || kind === 'deepspeed' || (kind === 'recipe' && whole)) return [];
    const reason = idleReason(flag, values, language);
    if (reason === undefined) return [];
    const value = values.get(flag.name);
    const written = `${nameAt(flag.name, given.get(flag.name)!.source)} ${typeof value === 'string' ? value : shown(value)}`;
    return [language === 'zh' ? `${written}：没有作用：${reason}。` : `${written}: without effect: ${reason}.`];
  });
}
