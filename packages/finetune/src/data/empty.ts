/** What merged tables write for an absent value. */

/** null and undefined both mean absent: parquet, pandas and the datasets library write null for missing keys. */
export function present(value: unknown): boolean {
  return value !== undefined && value !== null;
}

/** Absent, or a text, list or object in which there is nothing; also as JSON text. */
export function isEmpty(value: unknown): boolean {
  if (!present(value)) return true;
  if (typeof value === 'string') return /^\s*(?:\[\s*\]|\{\s*\}|null)?\s*$/u.test(value);
  if (value instanceof Uint8Array) return value.length === 0;
  if (Array.isArray(value)) return value.every(isEmpty);
  return typeof value === 'object' && Object.values(value as object).every(isEmpty);
}
