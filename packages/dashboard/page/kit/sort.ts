/** Order of the rows of a table. */

export type SortValue = string | number | null | undefined;

export interface SortOrder {
  readonly column: string;
  readonly descending: boolean;
}

/** The rows in order of one value each; rows without one come last in both directions. Equal rows keep their order. */
export function sortRows<T>(rows: readonly T[], keyOf: (row: T) => SortValue, descending: boolean): T[] {
  const missing = (value: SortValue): boolean =>
    value === null || value === undefined || (typeof value === 'number' && Number.isNaN(value));
  const sign = descending ? -1 : 1;
  return rows
    .map((row) => ({ row, value: keyOf(row) }))
    .sort((a, b) => {
      if (missing(a.value) || missing(b.value)) return Number(missing(a.value)) - Number(missing(b.value));
      if (typeof a.value === 'number' && typeof b.value === 'number') return sign * (a.value - b.value);
      return sign * String(a.value).localeCompare(String(b.value), undefined, { numeric: true });
    })
    .map(({ row }) => row);
}

/** The order after a click on a column: descending first, then ascending. */
export function nextOrder(order: SortOrder, column: string): SortOrder {
  return { column, descending: order.column === column ? !order.descending : true };
}
