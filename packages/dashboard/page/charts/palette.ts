/** Colours and dashes of lines. Okabe and Ito's palette, which most kinds of colour vision tell apart; dashes tell the rest. */

export interface LineStyle {
  readonly color: string;
  /** Lengths of strokes and gaps in pixels; empty: a solid line. */
  readonly dash: readonly number[];
}

const LIGHT = ['#0072b2', '#d55e00', '#00805d', '#b3528a', '#a06f00', '#2b7fb5', '#333333'];
const DARK = ['#56b4e9', '#ff8c42', '#2fc795', '#e79cc5', '#f0b92e', '#8fd0f5', '#e6e6e6'];
const DASHES = [[], [9, 4], [2, 3], [12, 3, 2, 3], [5, 5], [16, 5], [3, 6]];

/** The style of the line of this place; after seven, colours come again with another dash. */
export function lineStyle(place: number, dark: boolean): LineStyle {
  const colors = dark ? DARK : LIGHT;
  const turn = Math.floor(place / colors.length);
  return { color: colors[place % colors.length]!, dash: DASHES[(place + turn) % DASHES.length]! };
}
