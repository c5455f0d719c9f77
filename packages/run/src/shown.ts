/**
 * Values as messages show them. Text is quoted, white space and characters that cannot be seen are escaped, and no more
 * than 80 characters of a value are shown. The cost does not grow with the value, however long or deep.
 */

/** Most characters of a value in a message. */
export const MOST_SHOWN = 80;

/** Characters that cannot be seen, or look like an ordinary space; lone halves of a surrogate pair as well. */
const UNSEEN = /[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}\p{Default_Ignorable_Code_Point}]|(?! )\p{Zs}/gu;

/** `text` with what cannot be seen as `\n`, `\u200b` or `\u{e0001}`. */
export function escapeUnseen(text: string): string {
  return text.replace(UNSEEN, (character) => {
    const short = SHORT[character];
    if (short !== undefined) return short;
    const code = character.codePointAt(0)!.toString(16);
    return code.length > 4 ? `\\u{${code}}` : `\\u${code.padStart(4, '0')}`;
  });
}

const SHORT: Readonly<Record<string, string>> = { '\n': '\\n', '\r': '\\r', '\t': '\\t', '\b': '\\b', '\f': '\\f' };

/** A received value as an error message shows it: text quoted, bytes counted, long values cut. */
export function shown(value: unknown): string {
  if (value === undefined) return 'nothing';
  if (typeof value === 'string') return quoted(value);
  const out = new Bounded();
  write(value, out);
  return out.cut ? `${out.text}…` : out.text;
}

/** Quoted text; of a long one the beginning and its length. */
function quoted(text: string): string {
  const start = text.length > MOST_SHOWN ? whole(text.slice(0, MOST_SHOWN)) : text;
  const body = escapeUnseen(start.replace(/["\\]/g, '\\$&'));
  if (start.length === text.length && body.length <= MOST_SHOWN + 8) return `"${body}"`;
  return `"${cutEscaped(body)}…" (${text.length} characters)`;
}

/** Without half of a surrogate pair at the end. */
function whole(text: string): string {
  return /[\ud800-\udbff]$/.test(text) ? text.slice(0, -1) : text;
}

/** At most 80 characters of escaped text, not ending inside an escape. */
function cutEscaped(text: string): string {
  if (text.length <= MOST_SHOWN) return text;
  return whole(text.slice(0, MOST_SHOWN)).replace(/\\(?:u\{?[0-9a-f]*)?$/, '');
}

/** Names (keys, columns) in a row: as many as fit in 80 characters, and how many more there are. */
export function shownNames(names: readonly string[]): string {
  let text = '';
  for (const [i, name] of names.entries()) {
    const next = `${i === 0 ? '' : ', '}${escapeUnseen(name.length > 40 ? `${whole(name.slice(0, 39))}…` : name)}`;
    if (text.length + next.length > MOST_SHOWN) return `${text}, … and ${names.length - i} more`;
    text += next;
  }
  return text;
}

/** A path as it is shown beside other words: as it is where it is plain, else quoted; of a long one the beginning and the end. */
export function shownPath(path: string): string {
  const plain = path === path.trim() && path !== '' && escapeUnseen(path) === path && !path.includes('"');
  const text = plain ? path : `"${escapeUnseen(path)}"`;
  return text.length <= LONGEST_PATH
    ? text
    : `${whole(text.slice(0, 100))}…${text.slice(-100).replace(/^[\udc00-\udfff]/, '')}`;
}

const LONGEST_PATH = 255;

class Bounded {
  text = '';
  cut = false;

  add(piece: string): void {
    const room = MOST_SHOWN - this.text.length;
    if (piece.length > room) this.cut = true;
    this.text += whole(piece.slice(0, Math.max(0, room)));
  }
}

/** JSON of a value until the room is used up. Every level takes a character at least, so the depth is limited, too. */
function write(value: unknown, out: Bounded): void {
  if (out.cut) return;
  if (typeof value === 'string') out.add(`"${escapeUnseen(value.slice(0, MOST_SHOWN).replace(/["\\]/g, '\\$&'))}"`);
  else if (value instanceof Uint8Array) out.add(`${value.length} bytes`);
  else if (Array.isArray(value)) writeList('[', ']', value.length, (i) => write(value[i], out), out);
  else if (typeof value === 'object' && value !== null) writeObject(value as Record<string, unknown>, out);
  else if (typeof value === 'function' || typeof value === 'symbol' || value === undefined) out.add(typeof value);
  else out.add(String(value));
}

function writeObject(value: Record<string, unknown>, out: Bounded): void {
  const keys = Object.keys(value);
  const item = (i: number): void => {
    write(keys[i], out);
    out.add(':');
    write(value[keys[i]!], out);
  };
  writeList('{', '}', keys.length, item, out);
}

function writeList(open: string, close: string, length: number, item: (i: number) => void, out: Bounded): void {
  out.add(open);
  for (let i = 0; i < length && !out.cut; i++) {
    if (i > 0) out.add(',');
    item(i);
  }
  out.add(close);
}
