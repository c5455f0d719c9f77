/** The flags of a run beside their defaults. A configuration may be of any version: what this one does not know is shown as it stands. */
import {
  CONFIG_FLAGS,
  CONFIG_GROUPS,
  CONFIG_HEADINGS,
  derivedValue,
  type FlagSpec,
  type RunConfig,
} from '@minicpm-finetune/run';
import type { ConfigEntry } from '../../shared/api.js';

/** Where a run lies and what it resumed is of one start, not of its settings. */
const OF_ONE_START: ReadonlySet<string> = new Set([
  'output_dir',
  'overwrite_output_dir',
  'resume_from_checkpoint',
  'resume_anyway',
]);

interface Value {
  readonly name: string;
  readonly group: string;
  readonly value: unknown;
}

function specOf({ group, name }: Value): FlagSpec | undefined {
  const table: Readonly<Record<string, FlagSpec>> | undefined = CONFIG_FLAGS[group as keyof typeof CONFIG_FLAGS];
  return table?.[name];
}

function valuesOf(config: Partial<RunConfig>): Value[] {
  const groups = Object.entries(config).filter(([, table]) => typeof table === 'object' && table !== null);
  const order = (group: string): number => (CONFIG_GROUPS.indexOf(group as never) + 1000) % 1000;
  return groups
    .sort(([a], [b]) => order(a) - order(b))
    .flatMap(([group, table]) => Object.entries(table as object).map(([name, value]) => ({ group, name, value })));
}

interface Compared extends Value {
  /** Undefined: there is none, or it is not known. */
  readonly default: unknown;
  /** Whether the value differs from the default, or there is none. */
  readonly changed: boolean;
}

/** All values of a run beside their defaults, of which some follow from the values of other flags. */
function compared(config: Partial<RunConfig>): Compared[] {
  const all = valuesOf(config);
  const values = new Map(all.map(({ name, value }) => [name, value]));
  return all.map((one) => {
    const derived = derivedValue(one.name, values);
    const usual = derived === undefined ? specOf(one)?.default : derived.value;
    const missing = derived !== undefined && (one.value ?? null) === null; // a run of a version without the flag
    const changed = !missing && JSON.stringify(usual ?? null) !== JSON.stringify(one.value ?? null);
    return { ...one, default: usual, changed };
  });
}

/** Flags that differ from their defaults. */
export function changedFlags(config: Partial<RunConfig>): Record<string, unknown> {
  return Object.fromEntries(compared(config).flatMap(({ name, value, changed }) => (changed ? [[name, value]] : [])));
}

/** The same for a new run of these settings. */
export function settingsOf(config: Partial<RunConfig>): Record<string, unknown> {
  return Object.fromEntries(Object.entries(changedFlags(config)).filter(([name]) => !OF_ONE_START.has(name)));
}

/** All flags of a run, in the order of the table of flags. */
export function configEntries(config: Partial<RunConfig>): ConfigEntry[] {
  return compared(config).map((one) => {
    const spec = specOf(one);
    const { group, name, value, changed } = one;
    const heading = CONFIG_HEADINGS[group as keyof typeof CONFIG_HEADINGS] ?? { en: group, zh: group };
    return {
      name,
      group,
      heading,
      help: spec?.help ?? null,
      kind: spec?.kind ?? null,
      value,
      ...(one.default === undefined ? {} : { default: one.default }),
      changed,
    };
  });
}
