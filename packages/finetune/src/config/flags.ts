/** Values of flags as they were given, and where. What a flag is stands in the tables (`FlagSpec` of the package `run`). */

/** Where a value was given, for error messages and precedence. Programs and command lines both give flags. */
export type Source =
  | { kind: 'flag' }
  | { kind: 'recipe'; file: string; line: number }
  | { kind: 'deepspeed'; file: string; key: string }
  | { kind: 'adapter'; file: string };

/** A value as given, after validation. */
export interface Given {
  value: unknown;
  source: Source;
}

/** Values by flag name. Only what a user gave; no defaults. */
export type GivenValues = ReadonlyMap<string, Given>;

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
