/** Text files that a user gives. Read as UTF-8 (with or without byte order mark), refused with the place where they are not. */
import { constants, isUtf8 } from 'node:buffer';
import { readFileSync } from 'node:fs';
import { UserError, type UserErrorDetails } from '../user-error.js';
import { type EncodingMistake, findEncodingMistake } from './encoding.js';
import { fileKind } from './kind.js';

const UTF8 = new TextDecoder('utf-8', { fatal: true });

/** The text of UTF-8 bytes, without byte order mark. `what` is for the message: "a data file". Throws UserError for other bytes. */
export function decodeText(bytes: Uint8Array, what: string, place: UserErrorDetails = {}): string {
  if (bytes.length > constants.MAX_STRING_LENGTH)
    throw new UserError(
      `Expected at most ${constants.MAX_STRING_LENGTH} bytes for ${what} but received ${bytes.length}.`,
      { ...place },
    );
  let text: string | undefined;
  try {
    text = UTF8.decode(bytes);
  } catch {
    // which byte is wrong is found below
  }
  if (text !== undefined && !bytes.subarray(0, 64).includes(0)) return text;
  const mistake = findEncodingMistake(bytes);
  if (mistake !== undefined) throw notUtf8(mistake, what, place);
  return text ?? '';
}

/** The text of a UTF-8 file, without byte order mark. Throws what `readFileSync` throws, and UserError as `decodeText` does. */
export function readText(file: string, what: string, place: UserErrorDetails = {}): string {
  const bytes = readFileSync(file);
  const kind = fileKind(bytes);
  const binary = bytes.subarray(0, 4096).includes(0) || !isUtf8(bytes);
  if (kind !== undefined && (kind.group === 'download' || (binary && kind.group !== 'text')))
    throw new UserError(`Expected ${what} but received ${kind.what}.`, {
      file,
      ...place,
      ...(kind.cure === undefined ? {} : { cure: kind.cure }),
    });
  return decodeText(bytes, what, { file, ...place });
}

/** The error for bytes that are not UTF-8. A line in `place` is that of the first byte. */
export function notUtf8(mistake: EncodingMistake, what: string, place: UserErrorDetails): UserError {
  const { line, column, byte, encoding } = mistake;
  const at = (place.line ?? 1) + line - 1;
  const hex = `0x${byte.toString(16).padStart(2, '0')}`;
  const certain = encoding?.startsWith('UTF-') === true;
  const name = encoding === undefined ? '' : ` The text is ${certain ? '' : 'probably '}${encoding}.`;
  return new UserError(
    `Expected UTF-8 text for ${what} but received bytes that are not UTF-8: the first wrong one is ${hex} (line ${at}, byte ${column} of the line).${name}`,
    {
      ...place,
      line: at,
      cure: 'Save the file as UTF-8.',
    },
  );
}
