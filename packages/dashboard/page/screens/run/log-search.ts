/** Where a text occurs in the output of a run. Upper and lower case are the same. */

/** Places that are marked; more are not counted. */
export const MOST_FOUND = 1000;

export interface Piece {
  readonly text: string;
  /** Which place it is, counted from 0; null: what is between. */
  readonly place: number | null;
}

/** The text in pieces, each place of `wanted` one of its own. */
export function piecesOf(text: string, wanted: string): { readonly pieces: readonly Piece[]; readonly found: number } {
  if (wanted === '') return { pieces: [{ text, place: null }], found: 0 };
  const pattern = new RegExp(wanted.replace(/[.*+?^${}()|[\]\\]/g, '\\$&'), 'giu');
  const pieces: Piece[] = [];
  let at = 0;
  let found = 0;
  for (const match of text.matchAll(pattern)) {
    if (found === MOST_FOUND) break;
    if (match.index > at) pieces.push({ text: text.slice(at, match.index), place: null });
    pieces.push({ text: match[0], place: found++ });
    at = match.index + match[0].length;
  }
  if (at < text.length) pieces.push({ text: text.slice(at), place: null });
  return { pieces, found };
}

/** The place after or before one, all the way round. */
export const turned = (place: number, by: 1 | -1, found: number): number =>
  found === 0 ? 0 : (place + by + found) % found;
