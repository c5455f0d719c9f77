/**
 * Python's text rules where JavaScript differs. The reference's result depends on them: white space, digits of a tag,
 * and how a template prints values.
 */

const SPACE = '\\t-\\r\\x1c-\\x20\\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000';
const LEADING = new RegExp(`^[${SPACE}]+`);
const TRAILING = new RegExp(`[${SPACE}]+$`);

/** Python's `str.lstrip`: also \x1c to \x1f and \x85, but not U+FEFF. */
export function stripStart(text: string): string {
  return text.replace(LEADING, '');
}

/** Python's `str.rstrip`. */
export function stripEnd(text: string): string {
  return text.replace(TRAILING, '');
}

/** Python's `str.strip`. */
export function strip(text: string): string {
  return stripEnd(stripStart(text));
}

/** A numbered image tag. Python's `\d` takes the decimal digits of all scripts. */
export const NUMBERED_TAG = /<image_\p{Nd}+>/u;

/** The same for videos. */
export const NUMBERED_VIDEO_TAG = /<video_\p{Nd}+>/u;

/** Python's `str(value)` for values of JSON. */
export function pythonString(value: unknown): string {
  return typeof value === 'string' ? value : pythonRepr(value);
}

function pythonRepr(value: unknown): string {
  if (value === null) return 'None';
  if (typeof value === 'boolean') return value ? 'True' : 'False';
  if (typeof value === 'string') return quote(value);
  if (Array.isArray(value)) return `[${value.map(pythonRepr).join(', ')}]`;
  if (typeof value === 'object') {
    return `{${Object.entries(value)
      .map(([key, item]) => `${quote(key)}: ${pythonRepr(item)}`)
      .join(', ')}}`;
  }
  return String(value);
}

const ESCAPES: Readonly<Record<string, string>> = { '\\': '\\\\', '\n': '\\n', '\r': '\\r', '\t': '\\t' };

function quote(text: string): string {
  const mark = text.includes("'") && !text.includes('"') ? '"' : "'";
  const body = text.replace(/[\\\n\r\t]/g, (c) => ESCAPES[c]!).replaceAll(mark, `\\${mark}`);
  // Characters that Python does not print: separators other than the space, controls, unassigned ones.
  return mark + body.replace(/[\p{C}\p{Z}]/gu, (c) => (c === ' ' ? c : escapeCode(c.codePointAt(0)!))) + mark;
}

function escapeCode(code: number): string {
  const hex = code.toString(16);
  if (code < 0x100) return `\\x${hex.padStart(2, '0')}`;
  return code < 0x10000 ? `\\u${hex.padStart(4, '0')}` : `\\U${hex.padStart(8, '0')}`;
}
