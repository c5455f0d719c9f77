/** The words of a command line from the values of a form. And its text for a shell. */
import { CONFIG_FLAGS, type FlagSpec, nearestName } from '@minicpm-finetune/run';
import { ApiError } from '../errors.js';

/** How the page starts the command line: the program, and its words before the name of a command. */
export interface CommandLine {
  /** Such as `process.execPath`. */
  readonly program: string;
  /** Such as the path of `minicpm-finetune.js`. */
  readonly words: readonly string[];
}

const SPECS: ReadonlyMap<string, FlagSpec> = new Map(
  Object.values(CONFIG_FLAGS).flatMap((table) => Object.entries(table as Readonly<Record<string, FlagSpec>>)),
);

/**
 * `--flag=value` for each value, so that a value never becomes a flag; lists are several such words.
 *
 * @throws ApiError 400 naming a flag that there is not, or a value that is no value of a flag
 */
export function flagWords(values: Readonly<Record<string, unknown>>): string[] {
  return Object.entries(values).flatMap(([name, value]) => wordsOf(name, value));
}

function wordsOf(name: string, value: unknown): string[] {
  const spec = SPECS.get(name);
  if (spec === undefined) {
    const nearest = nearestName(name, [...SPECS.keys()]);
    throw new ApiError(400, `Expected a flag of train but received --${name}.`, {
      field: name,
      cure: nearest === undefined ? null : `Did you mean --${nearest}?`,
    });
  }
  const word = (text: string): string => {
    if (!text.includes('\0')) return `--${name}=${text}`;
    throw new ApiError(400, `Expected a text without the character NUL for --${name}.`, { field: name });
  };
  if (value === null) return [word('none')];
  if (typeof value === 'string') return [word(value)];
  if (typeof value === 'number' || typeof value === 'boolean') return [word(String(value))];
  if (Array.isArray(value) && value.every((one) => typeof one === 'string' || typeof one === 'number'))
    return value.length === 0 ? [word('')] : value.map((one) => word(String(one)));
  if (typeof value === 'object' && spec.kind === 'options') return [word(JSON.stringify(value))];
  throw new ApiError(400, `Expected a value of kind ${spec.kind} for --${name} but received another one.`, {
    field: name,
  });
}

/** A command line as a person writes it in a shell of POSIX. */
export function shellText(words: readonly string[]): string {
  return words.map((word) => (/^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`)).join(' ');
}
