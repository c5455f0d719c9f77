/**
 * The JSON text of one record, parsed. Or a message that names line, character and cure. Finding the mistake is
 * json-error.ts.
 */
import { UserError } from '@minicpm-finetune/run';
import { excerpt, findJsonMistake } from './json-error.js';
import type { RecordPlace } from './record.js';

const UTF8 = new TextDecoder('utf-8', { fatal: true });

/** The value of a record's bytes. Throws a UserError that says where the mistake is, and what it is. */
export function parseRecord(bytes: Buffer, place: RecordPlace): unknown {
  let text: string;
  try {
    text = UTF8.decode(bytes);
  } catch (cause) {
    throw new UserError('Expected UTF-8 text for a record but received bytes that are not.', {
      ...place,
      cure: 'Save the file as UTF-8.',
      cause,
    });
  }
  try {
    return JSON.parse(text);
  } catch (cause) {
    const mistake = findJsonMistake(text);
    if (!mistake)
      throw new UserError(`Expected JSON for a record but parsing failed: ${(cause as Error).message}.`, {
        ...place,
        cause,
      });
    const line = (place.line ?? 1) + text.slice(0, mistake.offset).split('\n').length - 1;
    throw new UserError(
      `Expected ${mistake.wanted} in the JSON of a record but received ${excerpt(text, mistake.offset)} (line ${line}, character ${mistake.offset + 1} of the record).`,
      { ...place, line, cure: jsonCure(text, mistake.offset), cause },
    );
  }
}

function jsonCure(text: string, offset: number): string {
  const rest = text.slice(offset);
  if (rest.startsWith("'")) return 'JSON strings have double quotes. Write the file with json.dump, not with str().';
  if (/^(NaN|-?Infinity)/.test(rest)) return 'JSON has no NaN or Infinity. Write null or leave the key out.';
  if (/^(None|True|False)/.test(rest)) return 'Write null, true and false. json.dump does so.';
  if (rest.startsWith('}') || rest.startsWith(']')) return 'Remove the comma before the closing bracket.';
  if (rest === '') return 'The record is cut off. Write the line or the file again.';
  return 'Repair the record there, or write the file again with a JSON library.';
}
