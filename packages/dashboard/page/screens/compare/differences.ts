/** What differs between runs. Flags, and numbers from a baseline. */
import type { ConfigEntry } from '../../../src/shared/api.js';

export interface Difference {
  /** The flag; of one entry of an object, `flag.entry`. */
  readonly name: string;
  /** The value of each run; undefined: the run does not have it. */
  readonly values: readonly unknown[];
}

/** Flags that say where a run is, not what it does. */
const PLACES = new Set(['output_dir', 'run_name', 'overwrite_output_dir', 'resume_from_checkpoint']);

/** The values of a run by name, objects opened. */
function flat(config: readonly ConfigEntry[]): Map<string, unknown> {
  const values = new Map<string, unknown>();
  for (const { name, value } of config) {
    if (typeof value === 'object' && value !== null && !Array.isArray(value))
      for (const [key, inner] of Object.entries(value)) values.set(`${name}.${key}`, inner);
    else values.set(name, value);
  }
  return values;
}

/** The flags whose values are not the same in all runs, in the order of the table of flags. */
export function differences(configs: readonly (readonly ConfigEntry[])[]): Difference[] {
  const runs = configs.map(flat);
  const names = new Set(runs.flatMap((values) => [...values.keys()]));
  return [...names]
    .filter((name) => !PLACES.has(name))
    .map((name) => ({ name, values: runs.map((values) => values.get(name)) }))
    .filter(({ values }) => new Set(values.map((value) => JSON.stringify(value))).size > 1);
}

/** The difference of a value from the baseline's, as a share of it; undefined: there is nothing to compare. */
export function shareFrom(value: number | null | undefined, baseline: number | null | undefined): number | undefined {
  if (typeof value !== 'number' || typeof baseline !== 'number' || baseline === 0) return undefined;
  return (value - baseline) / Math.abs(baseline);
}
