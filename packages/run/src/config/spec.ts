/**
 * What a flag is: kind, default, limits and help, as data. A table of such entries is all there is to say about the flags of a command;
 * parsing, recipes, checks, `--help` and a form follow from it, and so do the TypeScript types of the values.
 */
import type { Text } from '../language.js';

/**
 * How a value is written and read.
 *
 * - `strings`, `integers`, `numbers`: lists, several words on the command line;
 * - `bytes`: a number with an optional unit such as `8GB` or `512MiB`;
 * - `options`: a flat JSON object of numbers and strings;
 * - `modules`: one regular expression or a list of names (PEFT's target_modules).
 */
export type FlagKind = keyof KindValues<never>;

/** The type of a value of each kind; `C` are the choices of the flag. */
interface KindValues<C> {
  string: string;
  boolean: boolean | C;
  integer: number;
  number: number;
  choice: C;
  strings: readonly string[];
  integers: readonly number[];
  numbers: readonly number[];
  bytes: number;
  options: Readonly<Record<string, number | string>>;
  modules: string | readonly string[];
}

/** What has to hold of one flag: its value is one of `is`, or none of `not`. Lists are compared by content. */
export interface Condition {
  readonly flag: string;
  readonly is?: readonly unknown[];
  readonly not?: readonly unknown[];
}

/** When a flag has no effect. */
export interface IdleRule {
  /** All of them hold. */
  readonly when: readonly Condition[];
  /** The reason, without a full stop; `{name}` stands for the value of that flag. Absent: the first condition's flag and value. */
  readonly why?: Text;
}

export interface FlagSpec {
  readonly kind: FlagKind;
  /** One sentence for `--help`, without default and choices. */
  readonly help: Text;
  /** Absent: the flag is required, or its default is derived from others. `null` makes the flag nullable. */
  readonly default?: unknown;
  readonly required?: true;
  /** How an absent default is found, for `--help`. */
  readonly derived?: Text;
  /** Of a choice; a boolean may be these words, too. */
  readonly choices?: readonly string[];
  /** Smallest value. */
  readonly min?: number;
  /** Values have to be larger than this. */
  readonly above?: number;
  /** Largest value. */
  readonly max?: number;
  /** What stands for the value in `--help`. */
  readonly placeholder?: string;
  /** The value of the flag written without one. */
  readonly bare?: string;
  /** May be null although the default is not. */
  readonly nullable?: true;
  /** When the value has no effect; a run says so if it was given. */
  readonly idle?: readonly IdleRule[];
  /** A resumed run may have another value than its checkpoint: the flag does not touch the numbers. */
  readonly freeOnResume?: true;
  /**
   * The flag is known from the official scripts but means nothing here: it is accepted, and this is said.
   * Never a sentence of its own: it follows `--name value: `.
   */
  readonly notice?: Text;
  /** With a notice: only these values (as text) are accepted, because the others would change the training. */
  readonly neutral?: readonly string[];
}

export type FlagTable = Readonly<Record<string, FlagSpec>>;

type ChoiceOf<F> = F extends { readonly choices: readonly (infer C)[] } ? C : never;

/** The type of a flag's value in a resolved configuration. */
export type ValueOf<F extends FlagSpec> =
  | KindValues<ChoiceOf<F>>[F['kind']]
  | (F extends { readonly default: null } | { readonly nullable: true } ? null : never);

/** The values of a table of flags. */
export type ValuesOf<T extends FlagTable> = { readonly [K in keyof T]: ValueOf<T[K]> };

export interface Flag extends FlagSpec {
  /** Without dashes. */
  readonly name: string;
  /** Key of the heading under which `--help` shows it. */
  readonly group: string;
}

/** The flags of tables, one table for each heading, in their order. */
export function flagsOf(groups: Readonly<Record<string, FlagTable>>): Flag[] {
  return Object.entries(groups).flatMap(([group, specs]) =>
    Object.entries(specs).map(([name, spec]) => ({ ...spec, name, group })),
  );
}

/** Why a flag has no effect under `values` (all values by name); undefined: it has one. */
export function idleReason(spec: FlagSpec, values: ReadonlyMap<string, unknown>): string | undefined {
  const rule = spec.idle?.find(({ when }) => when.every((condition) => holds(condition, values)));
  if (rule === undefined) return undefined;
  const text = (name: string): string => {
    const value = values.get(name);
    return typeof value === 'string' ? value : JSON.stringify(value);
  };
  if (rule.why !== undefined) return rule.why.en.replaceAll(/\{(\w+)\}/g, (_, name: string) => text(name));
  const { flag } = rule.when[0]!;
  return `${flag} is ${text(flag)}`;
}

function holds({ flag, is, not }: Condition, values: ReadonlyMap<string, unknown>): boolean {
  const value = JSON.stringify(values.get(flag));
  const among = (list: readonly unknown[]): boolean => list.some((item) => JSON.stringify(item) === value);
  return (is === undefined || among(is)) && (not === undefined || !among(not));
}
