/** Values of flags as a person reads them. */

/** As on the command line: texts as they are, lists with spaces, null as `null`, objects as JSON. */
export function shownFlag(value: unknown): string {
  if (typeof value === 'string') return value === '' ? '""' : value;
  if (Array.isArray(value)) return value.length === 0 ? '[]' : value.map(shownFlag).join(' ');
  return JSON.stringify(value) ?? '';
}
