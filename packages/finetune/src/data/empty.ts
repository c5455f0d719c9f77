/** What merged tables write for an absent value. */

/** null and undefined both mean absent: parquet, pandas and the datasets library write null for missing keys. */
export function present(value: unknown): boolean {
  return value !== undefined && value !== null;
}

/** Deeper values are not looked through: whatever is there is something. */
const DEEPEST = 8;

/** Absent, or a text, list or object in which there is nothing; also as JSON text. */
export function isEmpty(value: unknown): boolean {
  return isEmptyTo(value, DEEPEST);
}

function isEmptyTo(value: unknown, depth: number): boolean {
  if (!present(value)) return true;
  if (depth === 0) return false;
  if (typeof value === 'string') return /^\s*(?:\[\s*\]|\{\s*\}|null)?\s*$/u.test(value);
  if (value instanceof Uint8Array) return value.length === 0;
  if (Array.isArray(value)) return value.every((entry) => isEmptyTo(entry, depth - 1));
  return typeof value === 'object' && Object.values(value as object).every((entry) => isEmptyTo(entry, depth - 1));
}
