/** Notices about values that were given but that another value makes meaningless. */

import { type Flag, idleReason, type Language, shown } from '@minicpm-finetune/run';
import { type GivenValues, nameAt } from './flags.js';

/**
 * One line for each flag that a command line or a recipe gives without effect. A DeepSpeed file lists what it does not use, too: its values are
 * passed over.
 *
 * @param values the values of all flags by name.
 */
export function idleNotices(
  flags: readonly Flag[],
  values: ReadonlyMap<string, unknown>,
  given: GivenValues,
  language: Language,
): string[] {
  return flags.flatMap((flag) => {
    const source = given.get(flag.name)?.source;
    if (source === undefined || source.kind === 'deepspeed') return [];
    const reason = idleReason(flag, values, language);
    if (reason === undefined) return [];
    const value = values.get(flag.name);
    const written = `${nameAt(flag.name, source)} ${typeof value === 'string' ? value : shown(value)}`;
    return [language === 'zh' ? `${written}：没有作用：${reason}。` : `${written}: without effect: ${reason}.`];
  });
}
