/** JSON that a user gives. Parsed, or refused with the place and the character where it stops being JSON. */
import { UserError, type UserErrorDetails } from '../user-error.js';
import { curlyEnd } from './characters.js';
import { excerpt, findJsonMistake, type JsonMistake, withoutNaN } from './json-mistake.js';
import { readText } from './text.js';

export interface JsonSource extends UserErrorDetails {
  /** For the message: "a record", "config.json". */
  readonly what: string;
  /** 1-based column of the text's first character in its line; 1 when absent. Only asked for when there is a mistake. */
  readonly column?: () => number;
  /** Given, NaN and Infinity, which Python's json writes, are read as null, and this is called. */
  readonly onNaN?: () => void;
}

/** The value of a JSON text. Throws a UserError that names line, column, what was expected there and what was received. */
export function parseJson(text: string, { what, column, onNaN, ...place }: JsonSource): unknown {
  try {
    return JSON.parse(text);
  } catch (cause) {
    const repaired = onNaN === undefined ? undefined : withoutNaN(text);
    if (repaired !== undefined) {
      onNaN?.();
      return JSON.parse(repaired);
    }
    const mistake = findJsonMistake(text);
    if (mistake === undefined) {
      const message = `Expected JSON for ${what} but parsing failed: ${(cause as Error).message.slice(0, 80)}.`;
      throw new UserError(message, { ...place, cause });
    }
    const { offset, wanted } = mistake;
    const before = text.slice(0, offset).split('\n');
    const line = (place.line ?? 1) + before.length - 1;
    const inLine = before.at(-1)!.length + (before.length === 1 ? (column?.() ?? 1) : 1);
    throw new UserError(
      `Expected ${wanted} in the JSON of ${what} but received ${excerpt(text, offset)} (line ${line}, column ${inLine}).`,
      { cure: curlyCure(text, mistake) ?? jsonCure(text, offset), ...place, line, cause },
    );
  }
}

/** The value of a JSON file. Throws what `readFileSync` throws, and UserErrors as `readText` and `parseJson` do. */
export function readJson(file: string, what: string, place: UserErrorDetails = {}): unknown {
  return parseJson(readText(file, what, place), { file, ...place, what });
}

/** Where a string before the mistake should have ended: its closing quote is of another kind. */
function curlyCure(text: string, { offset, string }: JsonMistake): string | undefined {
  const end = string === -1 ? undefined : curlyEnd(text.slice(string, offset));
  if (end === undefined) return undefined;
  const line = text.slice(0, string + end.offset).split('\n');
  const place =
    line.length === 1
      ? `character ${string + end.offset + 1} of the text`
      : `character ${line.at(-1)!.length + 1} of its line`;
  return `The string before it does not end at ${end.described} (${place}): write the ASCII character.`;
}

/** The cure for what stands at `offset` of a text that should be JSON there. */
export function jsonCure(text: string, offset: number): string {
  const rest = text.slice(offset, offset + 40);
  if (rest === '') return 'The text is cut off there. Write the file again.';
  if (rest.codePointAt(0)! > 0x7e)
    return 'Replace the character. An input method writes such characters, and copying from a web page or a chat does.';
  if (rest.startsWith("'")) return 'JSON strings have double quotes. Write the file with json.dump, not with str().';
  if (/^(NaN|-?Infinity)/.test(rest)) return 'JSON has no NaN or Infinity. Write null or leave the key out.';
  if (/^(None|True|False)/.test(rest)) return 'Write null, true and false. json.dump does so.';
  if (/^(\/\/|\/\*|#)/.test(rest)) return 'JSON has no comments. Remove them.';
  if (rest.startsWith('}') || rest.startsWith(']')) return 'Remove the comma before the closing bracket.';
  return 'Repair the text there, or write the file again with a JSON library.';
}
