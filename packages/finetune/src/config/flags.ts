/**
 * What a command-line flag is: name, type, default, help and limits, as data. One table per command is all there is to
 * say about its flags; parsing (`command.ts`), recipes (`../recipe.ts`), validation (`coerce.ts`) and `--help` follow from it.
 */

/**
 * How a value is written and read.
 *
 * - `strings`, `integers`, `numbers`: lists, several words on the command line;
 * - `bytes`: a number with an optional unit such as `8GB` or `512MiB`;
 * - `options`: a flat JSON object of numbers and strings;
 * - `modules`: one regular expression or a list of names (PEFT's target_modules).
 */
export type FlagKind =
  | 'string'
  | 'boolean'
  | 'integer'
  | 'number'
  | 'choice'
  | 'strings'
  | 'integers'
  | 'numbers'
  | 'bytes'
  | 'options'
  | 'modules';

/** A flag whose value has type T. */
export interface FlagSpec<T = unknown> {
  kind: FlagKind;
  /** One sentence for `--help`, without default and choices. */
  help: string;
  /** Absent: the flag is required, or its default is derived from others. `null` makes the flag nullable. */
  default?: T;
  required?: true;
  /** How an absent default is found, for `--help`. */
  derived?: string;
  /** Of a choice; a boolean may be these words, too. */
  choices?: readonly string[];
  /** Smallest value. */
  min?: number;
  /** Values have to be larger than this. */
  above?: number;
  /** Largest value. */
  max?: number;
  /** What stands for the value in `--help`. */
  placeholder?: string;
  /** The value of the flag written without one. */
  bare?: string;
  /** A value is not needed in a resolved configuration; may be null although the default is not. */
  nullable?: true;
  /**
   * The flag is known from the official scripts but means nothing here: it is accepted, and this is said.
   * Never a sentence of its own: it follows `--name value: `.
   */
  notice?: string;
  /** With a notice: only these values (as text) are accepted, because the others would change the training. */
  neutral?: readonly string[];
}

/** One flag for every key of a configuration group: the compiler insists on all of them. */
export type GroupFlags<T> = { [K in keyof T]: FlagSpec<T[K]> };

export interface Flag extends FlagSpec {
  /** Without dashes. */
  name: string;
  /** Key of the heading under which `--help` shows it. */
  group: string;
}

/** Where a value was given, for error messages and precedence. */
export type Source =
  | { kind: 'flag' }
  | { kind: 'recipe'; file: string; line: number }
  | { kind: 'deepspeed'; file: string; key: string };

/** A value as given, after validation. */
export interface Given {
  value: unknown;
  source: Source;
}

/** Values by flag name. Only what a user gave; no defaults. */
export type GivenValues = ReadonlyMap<string, Given>;

/** The flags of a table grouped by heading, in its order. */
export function flagsOf(groups: Readonly<Record<string, Readonly<Record<string, FlagSpec>>>>): Flag[] {
  return Object.entries(groups).flatMap(([group, specs]) =>
    Object.entries(specs).map(([name, spec]) => ({ ...spec, name, group })),
  );
}

/** How a message names the place of a value: `--lora_r` or `lora_r`. */
export function nameAt(name: string, source: Source): string {
  if (source.kind === 'flag') return `--${name}`;
  return source.kind === 'deepspeed' ? source.key : name;
}

/** The place of a value as error details. */
export function placeOf(name: string, source: Source): { flag?: string; file?: string; line?: number } {
  if (source.kind === 'flag') return { flag: `--${name}` };
  return source.kind === 'recipe' ? { file: source.file, line: source.line } : { file: source.file };
}
