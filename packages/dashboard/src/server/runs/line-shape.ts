/**
 * Reads the numbers of many JSON lines of one form. Lines of a kind differ in their values alone, so the text between the values is compared
 * as bytes and the numbers are read in place: the same numbers as those of `JSON.parse`, without an object for each line.
 */

/** Stands for null, a number that was not finite: JSON has no infinity, so no number of a file is this one. */
export const GAP = Number.POSITIVE_INFINITY;

const [QUOTE, BACKSLASH, MINUS, POINT, PLUS] = [34, 92, 45, 46, 43];
const [SMALL_E, LARGE_E, NULL] = [101, 69, 110];
/** Whole numbers of so many digits and powers of ten up to 1e22 are exact, and their quotient is rounded once. */
const HEAD_DIGITS = 15;
/** No double is written with more; their head and tail are both exact. */
const MOST_DIGITS = 19;
/** Cuts a double into two halves. */
const SPLIT = 2 ** 27 + 1;
const POWERS = Float64Array.from({ length: 23 }, (_, n) => Number(`1e${n}`));

export class LineShape {
  /** The names of the values: keys joined with dots, indices of lists as numbers. */
  readonly paths: readonly string[];
  /** The bytes before each value, and after the last one. */
  readonly #between: readonly Buffer[];
  /** The byte after the value read last. */
  #at = 0;

  private constructor(paths: readonly string[], between: readonly Buffer[]) {
    this.paths = paths;
    this.#between = between;
  }

  /** The form of a line of JSON without white space between its parts; null: it is none. */
  static of(line: string): LineShape | null {
    const paths: string[] = [];
    const between: Buffer[] = [];
    let last = 0;
    try {
      forEachScalar(line, (path, start, end) => {
        paths.push(path);
        between.push(Buffer.from(line.slice(last, start)));
        last = end;
      });
    } catch {
      return null;
    }
    between.push(Buffer.from(line.slice(last)));
    return new LineShape(paths, between);
  }

  /**
   * Reads the values of a line into `values`: numbers, `GAP` for null, milliseconds since 1970 for a text that is a time, NaN for all else.
   *
   * @returns false when the line has another form
   */
  read(bytes: Buffer, start: number, end: number, values: Float64Array): boolean {
    this.#at = start;
    for (let i = 0; i < this.paths.length; i++) {
      if (!this.#skip(this.#between[i]!, bytes, end)) return false;
      values[i] = this.#value(bytes, end);
      if (this.#at < 0) return false;
    }
    return this.#skip(this.#between[this.paths.length]!, bytes, end) && this.#at === end;
  }

  #skip(text: Buffer, bytes: Buffer, end: number): boolean {
    const { length } = text;
    const at = this.#at;
    if (at + length > end) return false;
    for (let i = 0; i < length; i++) if (bytes[at + i] !== text[i]) return false;
    this.#at = at + length;
    return true;
  }

  #value(bytes: Buffer, end: number): number {
    const first = bytes[this.#at]!;
    if (first === QUOTE) return this.#text(bytes, end);
    if (first === MINUS || (first >= 48 && first <= 57)) return this.#number(bytes, end);
    const start = this.#at;
    while (this.#at < end && bytes[this.#at]! >= 97 && bytes[this.#at]! <= 122) this.#at++;
    if (this.#at === start) this.#at = -1;
    return first === NULL ? GAP : Number.NaN;
  }

  #text(bytes: Buffer, end: number): number {
    const start = this.#at + 1;
    let at = start;
    while (at < end && bytes[at] !== QUOTE) at += bytes[at] === BACKSLASH ? 2 : 1;
    this.#at = at < end ? at + 1 : -1;
    return timeAt(bytes, start, at);
  }

  #number(bytes: Buffer, end: number): number {
    const start = this.#at;
    let at = bytes[start] === MINUS ? start + 1 : start;
    let head = 0;
    let tail = 0;
    let digits = 0;
    let point = -1;
    for (; at < end; at++) {
      const digit = bytes[at]! - 48;
      if (digit >= 0 && digit <= 9) {
        if (digits < HEAD_DIGITS) head = head * 10 + digit;
        else tail = tail * 10 + digit;
        if (digits > 0 || digit > 0) digits++;
      } else if (digit === POINT - 48) point = at;
      else break;
    }
    const fraction = point < 0 ? 0 : at - point - 1;
    const byte = bytes[at];
    const hasExponent = byte === SMALL_E || byte === LARGE_E;
    if (hasExponent) {
      at++;
      while (at < end && (bytes[at] === MINUS || bytes[at] === PLUS || (bytes[at]! >= 48 && bytes[at]! <= 57))) at++;
    }
    this.#at = at;
    if (hasExponent || digits > MOST_DIGITS || fraction > 22) return Number(bytes.toString('latin1', start, at));
    const divisor = POWERS[fraction]!;
    const value = digits <= HEAD_DIGITS ? head / divisor : quotient(head, digits - HEAD_DIGITS, tail, divisor);
    return bytes[start] === MINUS ? -value : value;
  }
}

/** `(head * 10 ** places + tail) / divisor` rounded once: with the parts of products and sums that doubles lose (Dekker 1971). */
function quotient(head: number, places: number, tail: number, divisor: number): number {
  const factor = POWERS[places]!;
  const product = head * factor;
  const sum = product + tail;
  const rest = tail - (sum - product) + lost(head, factor, product);
  const result = sum / divisor;
  const back = result * divisor;
  return result + (sum - back - lost(result, divisor, back) + rest) / divisor;
}

/** What the product `a * b` lost by rounding. */
function lost(a: number, b: number, product: number): number {
  const bigA = SPLIT * a;
  const highA = bigA - (bigA - a);
  const lowA = a - highA;
  const bigB = SPLIT * b;
  const highB = bigB - (bigB - b);
  const lowB = b - highB;
  return highA * highB - product + highA * lowB + lowA * highB + lowA * lowB;
}

/** `2026-11-27T04:06:57.985Z` in milliseconds since 1970; NaN: another text. */
function timeAt(bytes: Buffer, start: number, end: number): number {
  if (end - start !== 24 || bytes[start + 10] !== 84 || bytes[end - 1] !== 90) return Number.NaN;
  const number = (from: number, count: number): number => {
    let value = 0;
    for (let i = 0; i < count; i++) value = value * 10 + (bytes[start + from + i]! - 48);
    return value;
  };
  const day = Date.UTC(number(0, 4), number(5, 2) - 1, number(8, 2));
  return day + 3_600_000 * number(11, 2) + 60_000 * number(14, 2) + 1000 * number(17, 2) + number(20, 3);
}

/** Calls `onScalar` with the path and the place of each text, number, true, false and null. @throws SyntaxError */
function forEachScalar(line: string, onScalar: (path: string, start: number, end: number) => void): void {
  JSON.parse(line);
  const scalar = /"(?:[^"\\]|\\.)*"|[^\s,:[\]{}"]+/y;
  let at = 0;
  const token = (): [number, number] => {
    scalar.lastIndex = at;
    if (!scalar.test(line)) throw new SyntaxError('white space between the parts');
    const start = at;
    at = scalar.lastIndex;
    return [start, at];
  };
  const value = (path: string): void => {
    const open = line[at];
    if (open !== '{' && open !== '[') {
      onScalar(path, ...token());
      return;
    }
    const close = open === '{' ? '}' : ']';
    at++;
    for (let index = 0; line[at] !== close; index++) {
      let key = String(index);
      if (open === '{') {
        key = JSON.parse(line.slice(...token())) as string;
        at++; // the colon
      }
      value(path === '' ? key : `${path}.${key}`);
      if (line[at] === ',') at++;
    }
    at++;
  };
  value('');
}
