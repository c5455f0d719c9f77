/** The lines of a chart as numbers. Its table, CSV and sentence are made from them. */

/** One line. Arrays have one length; a null is a value that was not finite. */
export interface Line {
  readonly key: string;
  /** The name that readers see. */
  readonly label: string;
  readonly x: readonly number[];
  readonly y: readonly (number | null)[];
  /** A moving average, drawn over the values; empty: none. */
  readonly smooth?: readonly (number | null)[];
  /** Colour and dash: the place in the palette. */
  readonly style: number;
  /** Few values, each drawn as a dot. */
  readonly dots?: boolean;
  /** An abandoned branch: thin and dashed. */
  readonly faint?: boolean;
}

export interface Mark {
  readonly kind: 'resume' | 'checkpoint' | 'nonfinite';
  readonly x: number;
}

export interface Summary {
  readonly first: number;
  readonly last: number;
  readonly lastX: number;
  readonly lowest: number;
  readonly highest: number;
  readonly finite: number;
  readonly gaps: number;
}

/** What a sentence about a line says; undefined: it has no finite value. */
export function summarize({ x, y }: Pick<Line, 'x' | 'y'>): Summary | undefined {
  let summary: { -readonly [K in keyof Summary]: Summary[K] } | undefined;
  let gaps = 0;
  for (let index = 0; index < y.length; index++) {
    const value = y[index]!;
    if (value === null) {
      gaps++;
      continue;
    }
    summary ??= { first: value, last: value, lastX: 0, lowest: value, highest: value, finite: 0, gaps: 0 };
    summary.last = value;
    summary.lastX = x[index]!;
    summary.lowest = Math.min(summary.lowest, value);
    summary.highest = Math.max(summary.highest, value);
    summary.finite++;
  }
  return summary && { ...summary, gaps };
}

/** A row of the table: x and the value of each line there; undefined where a line has no point. */
export type Row = readonly [x: number, ...values: (number | null | undefined)[]];

/** All points of the lines by x, smallest first. */
export function rowsOf(lines: readonly Line[]): Row[] {
  const rows = new Map<number, (number | null | undefined)[]>();
  for (const [column, line] of lines.entries())
    for (const [index, x] of line.x.entries()) {
      const row = rows.get(x) ?? new Array<undefined>(lines.length).fill(undefined);
      row[column] = line.y[index]!;
      rows.set(x, row);
    }
  return [...rows].sort(([a], [b]) => a - b).map(([x, values]) => [x, ...values]);
}

/** At most `count` rows, evenly chosen, the first and last one included. */
export function thin<T>(rows: readonly T[], count: number): readonly T[] {
  if (rows.length <= count) return rows;
  return Array.from({ length: count }, (_, index) => rows[Math.round((index * (rows.length - 1)) / (count - 1))]!);
}

/** The lines as CSV. A value that was not finite is `NaN`, one that there is not is empty. */
export function toCsv(x: string, lines: readonly Line[]): string {
  const quote = (word: string): string => (/[",\n]/.test(word) ? `"${word.replaceAll('"', '""')}"` : word);
  const write = (value: number | null | undefined): string =>
    value === undefined ? '' : value === null ? 'NaN' : String(value);
  const head = [x, ...lines.map(({ label }) => label)].map(quote).join(',');
  return `${[head, ...rowsOf(lines).map((row) => row.map(write).join(','))].join('\n')}\n`;
}

/** The index of the value nearest to `x` in an ascending list; -1: the list is empty. */
export function nearestIndex(list: readonly number[], x: number): number {
  let [low, high] = [0, list.length - 1];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (list[middle]! < x) low = middle + 1;
    else high = middle;
  }
  if (low > 0 && Math.abs(list[low - 1]! - x) <= Math.abs(list[low]! - x)) return low - 1;
  return list.length === 0 ? -1 : low;
}

/**
 * The columns as uPlot draws them: one ascending x for all lines, and a value for each; `undefined` where a line has no point (it is drawn
 * over that place), `null` where the value was not finite (a gap).
 */
export function alignLines(columns: readonly (readonly [x: readonly number[], y: readonly (number | null)[]])[]): {
  x: number[];
  y: (number | null | undefined)[][];
} {
  const first = columns[0]?.[0] ?? [];
  if (columns.every(([own]) => own === first)) return { x: [...first], y: columns.map(([, values]) => [...values]) };
  const x = [...new Set(columns.flatMap(([own]) => own))].sort((a, b) => a - b);
  const place = new Map(x.map((value, index) => [value, index]));
  const y = columns.map(([own, values]) => {
    const column = new Array<number | null | undefined>(x.length).fill(undefined);
    for (let index = 0; index < own.length; index++) column[place.get(own[index]!)!] = values[index]!;
    return column;
  });
  return { x, y };
}
