/** Columns of a terminal that a text takes. A Chinese character takes two. */

/** A character of two columns. */
export const WIDE = /[\u2e80-\u9fff\uac00-\ud7a3\uf900-\ufaff\ufe30-\ufe4f\uff00-\uff60\uffe0-\uffe6]/;

/** Columns of a text without control characters. */
export function displayWidth(text: string): number {
  let width = 0;
  for (const character of text) width += WIDE.test(character) ? 2 : 1;
  return width;
}

/** A text with spaces after it, at least `width` columns wide. */
export function padEnd(text: string, width: number): string {
  return text + ' '.repeat(Math.max(0, width - displayWidth(text)));
}

/** A text with spaces before it, at least `width` columns wide. */
export function padStart(text: string, width: number): string {
  return ' '.repeat(Math.max(0, width - displayWidth(text))) + text;
}

/** As much of the beginning of a text as fits into `width` columns. */
export function cutToWidth(text: string, width: number): string {
  let [left, end] = [width, 0];
  for (const character of text) {
    left -= displayWidth(character);
    if (left < 0) break;
    end += character.length;
  }
  return text.slice(0, end);
}
