/** Where the value of a flag was given. For messages, and for precedence. */

/** Where a value was given, for error messages and precedence. Programs and command lines both give flags. */
export type Source =
  | { kind: 'flag' }
  | { kind: 'recipe'; file: string; line: number }
  | { kind: 'deepspeed'; file: string; key: string }
  | { kind: 'adapter'; file: string };

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
