/** Looks for texts and numbers in the bytes of a line. Each call of the system's search takes longer than most lines are long. */

const [OPEN, CLOSE, COMMA] = [123, 125, 44];

/** Whether `bytes` have a text at a place, and before `end`. */
export function isAt(text: Buffer, bytes: Buffer, at: number, end: number): boolean {
  if (at + text.length > end) return false;
  for (let i = 0; i < text.length; i++) if (bytes[at + i] !== text[i]) return false;
  return true;
}

/**
 * Finds the last place of a text, by Horspool (1980) from the end on: a byte that the text does not have is passed with all the places that
 * would cover it.
 */
export class LastPlace {
  readonly text: Buffer;
  /** For each byte, how far before it the text begins at the latest, when it does not begin there. */
  readonly #back: Uint8Array;

  constructor(text: string) {
    this.text = Buffer.from(text);
    this.#back = Uint8Array.from({ length: 256 }, (_, byte) => {
      const place = this.text.indexOf(byte, 1);
      return place < 0 ? this.text.length : place;
    });
  }

  /** -1: it is not between the two places. */
  in(bytes: Buffer, start: number, end: number): number {
    for (let at = end - this.text.length; at >= start; at -= this.#back[bytes[at]!]!)
      if (isAt(this.text, bytes, at, end)) return at;
    return -1;
  }
}

/** The whole number at a place, with a comma or brace after it; NaN: there is another value. */
export function wholeNumber(bytes: Buffer, from: number, end: number): number {
  let value = 0;
  let at = from;
  for (; at < end; at++) {
    const digit = bytes[at]! - 48;
    if (!(digit >= 0 && digit <= 9)) break;
    value = value * 10 + digit;
  }
  const isOne = at > from && value <= Number.MAX_SAFE_INTEGER && (bytes[at] === COMMA || bytes[at] === CLOSE);
  return isOne ? value : Number.NaN;
}

/** The place of the first brace; `end`: there is none before it. */
export function firstBrace(bytes: Buffer, from: number, end: number): number {
  let at = from;
  while (at < end && bytes[at] !== OPEN && bytes[at] !== CLOSE) at++;
  return at;
}
