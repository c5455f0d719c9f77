/** Fills in defaults and values derived from others. */
import {
  CONFIG_FLAGS,
  CONFIG_GROUPS,
  DERIVED_FLAGS,
  derivedValue,
  expected,
  type Flag,
  flagsOf,
  type UserError,
} from '@minicpm-finetune/run';
import type { GivenValues } from './flags.js';

/**
 * All values of RunConfig by name: given, default or derived. Adds one line to `derived` for each value that follows from others.
 *
 * @throws UserError if a required one is missing.
 */
export function withDefaults(given: GivenValues, derived: string[]): Map<string, unknown> {
  const values = new Map<string, unknown>();
  for (const group of CONFIG_GROUPS) {
    for (const flag of flagsOf({ [group]: CONFIG_FLAGS[group] })) {
      const entry = given.get(flag.name);
      if (entry === undefined && flag.required) throw missing(flag);
      values.set(flag.name, entry === undefined ? flag.default : entry.value);
    }
  }
  const metric = values.get('metric_for_best_model') as string | null | undefined;
  if (metric != null) values.set('metric_for_best_model', metric.replace(/^eval_/, ''));
  for (const name of DERIVED_FLAGS) {
    if (given.get(name)?.value !== undefined) continue;
    const found = derivedValue(name, values);
    if (found === undefined) continue;
    const { value, reason } = found;
    values.set(name, value);
    if (reason !== '') derived.push(`${name} = ${Array.isArray(value) ? value.join(' ') : String(value)} (${reason})`);
  }
  return values;
}

function missing(flag: Flag): UserError {
  return expected('a value', `--${flag.name}`, undefined, {
    flag: `--${flag.name}`,
    cure: `${flag.help.en} Give it as --${flag.name} <${(flag.placeholder ?? 'value').replace('...', '')}>, or in a recipe.`,
  });
}
