/**
 * Recipes: YAML or JSON files with the flags as keys.
 *
 *     learning_rate: 1e-5        # flat, as flags are, or
 *     lora:                      # by the groups of the resolved configuration (so that run.json is a recipe)
 *       use_lora: true
 *
 * Reading only: every key is checked against the flag table, every value by the flag's own rules, and every complaint
 * names the line.
 */
import { CONFIG_GROUPS, coerce, type Flag, pathCure, readText, shown, UserError } from '@minicpm-finetune/run';
import { isMap, isScalar, LineCounter, type Node, type Pair, parseDocument } from 'yaml';
import type { Given } from './flags.js';
import { unknownKey } from './unknown-name.js';

/** A file's text; a `UserError` naming `flag` if it cannot be read. */
export function readTextFile(file: string, flag: string): string {
  try {
    return readText(file, `a file for ${flag}`, { flag });
  } catch (cause) {
    if (cause instanceof UserError) throw cause;
    const code = (cause as NodeJS.ErrnoException).code ?? 'an error';
    throw new UserError(`Expected a readable file for ${flag} but received ${shown(file)} (${code}).`, {
      flag,
      file,
      cure: pathCure(file, 'Check the path; it is relative to the folder the command runs in.'),
      cause,
    });
  }
}

/** The values of a recipe file by flag name. */
export function readRecipe(file: string, flags: readonly Flag[]): Map<string, Given> {
  return parseRecipe(readTextFile(file, '--recipe'), file, flags);
}

/** The same from text; `file` is for messages. */
export function parseRecipe(text: string, file: string, flags: readonly Flag[]): Map<string, Given> {
  const lines = new LineCounter();
  const document = parseDocument(text, { lineCounter: lines, version: '1.2' });
  const problem = document.errors[0] ?? document.warnings[0];
  if (problem !== undefined) {
    throw notYaml(problem.message, { file, line: lines.linePos(problem.pos[0]).line }, problem);
  }
  if (!isMap(document.contents)) {
    throw new UserError('Expected keys with values for a recipe but received something else.', {
      file,
      line: 1,
      cure: 'Write one `key: value` per line, such as `learning_rate: 1e-5`.',
    });
  }
  const reader = new RecipeReader(file, flags, (node) => lines.linePos(node?.range?.[0] ?? 0).line, document);
  for (const pair of document.contents.items) reader.readTop(pair as Pair<Node, Node | null>);
  return reader.given;
}

function notYaml(reason: string, place: { file: string; line: number }, cause: unknown): UserError {
  return new UserError(`Expected YAML or JSON but received something else: ${reason.split('\n')[0]}`, {
    ...place,
    cure: 'Write one `key: value` per line, without tabs.',
    cause,
  });
}

class RecipeReader {
  readonly given = new Map<string, Given>();
  readonly #file: string;
  readonly #flags: ReadonlyMap<string, Flag>;
  readonly #lineOf: (node: Node | null) => number;
  readonly #document: ReturnType<typeof parseDocument>;

  constructor(
    file: string,
    flags: readonly Flag[],
    lineOf: (node: Node | null) => number,
    document: ReturnType<typeof parseDocument>,
  ) {
    this.#file = file;
    this.#flags = new Map(flags.map((flag) => [flag.name, flag]));
    this.#lineOf = lineOf;
    this.#document = document;
  }

  /** A key of the outermost level: a flag, or a group of flags. */
  readTop(pair: Pair<Node, Node | null>): void {
    const key = this.#keyOf(pair);
    if (!(CONFIG_GROUPS as readonly string[]).includes(key)) {
      this.#readFlag(key, pair, undefined);
    } else if (isMap(pair.value)) {
      for (const inner of pair.value.items) {
        this.#readFlag(this.#keyOf(inner as Pair<Node, Node | null>), inner as Pair<Node, Node | null>, key);
      }
    } else {
      throw new UserError(`Expected keys of the group ${key} but received something else.`, {
        ...this.#place(pair),
        cure: `Write the group's keys indented below \`${key}:\`, or leave the group out.`,
      });
    }
  }

  #readFlag(key: string, pair: Pair<Node, Node | null>, group: string | undefined): void {
    const place = this.#place(pair);
    const flag = this.#flags.get(key);
    if (flag === undefined) {
      const groups = group === undefined ? CONFIG_GROUPS : [];
      throw unknownKey(key, 'the recipe', [...this.#flags.values()], groups).at(place);
    }
    if (group !== undefined && flag.group !== group) {
      throw new UserError(`Expected a key of the group ${group} but received ${key}.`, {
        ...place,
        cure: `Move it to ${(CONFIG_GROUPS as readonly string[]).includes(flag.group) ? `the group ${flag.group}` : 'the outermost level'}.`,
      });
    }
    if (this.given.has(key)) {
      throw new UserError(`Expected ${key} once but received it twice.`, { ...place, cure: 'Remove one of them.' });
    }
    const source = { kind: 'recipe', file: this.#file, line: place.line } as const;
    const value: unknown = pair.value === null ? null : this.#valueOf(pair.value, place);
    this.given.set(key, { value: coerce(key, flag, value, source), source });
  }

  #valueOf(node: Node, place: { file: string; line: number }): unknown {
    try {
      return node.toJS(this.#document);
    } catch (cause) {
      // The library refuses aliases that would grow without bound.
      throw notYaml((cause as Error).message, place, cause);
    }
  }

  #keyOf(pair: Pair<Node, Node | null>): string {
    if (isScalar(pair.key) && typeof pair.key.value === 'string') return pair.key.value;
    throw new UserError('Expected a name as the key but received something else.', {
      ...this.#place(pair),
      cure: 'Keys are the names of flags.',
    });
  }

  #place(pair: Pair<Node, Node | null>): { file: string; line: number } {
    return { file: this.#file, line: this.#lineOf(pair.key ?? pair.value) };
  }
}
