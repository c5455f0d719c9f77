/**
 * Reads the numbers of many JSON lines of one form. Lines of a kind differ in their values alone, so the text between the values is compared
 * as bytes and the numbers are read in place: the same numbers as those of `JSON.parse`, without an object for each line.
 */

/** Stands for null, a number that was not finite: JSON has no infinity, so no number of a file is this one. */
export const GAP = Number.POSITIVE_INFINITY;

const [QUOTE, BACKSLASH, MINUS, POINT, ZERO, NINE] = [34, 92, 45, 46, 48, 57];
const [PLUS, SMALL_E, LARGE_E, LETTER_U, FIRST_PRINTED] = [43, 101, 69, 117, 32];
/** What a number of so many digits is made of: each half is a small integer. No double is written with more digits. */
const HALF_DIGITS = 9;
const MOST_DIGITS = 18;
/** Whole numbers of so many digits and powers of ten up to 1e22 are exact, and their quotient is rounded once. */
const EXACT_DIGITS = 15;
/** Cuts a double into two halves. */
const SPLIT = 2 ** 27 + 1;
const POWERS = Float64Array.from({ length: 23 }, (_, n) => Number(`1e${n}`));
/** A digit stands for any one. */
const TIME = Buffer.from('0000-00-00T00:00:00.000Z');
/** Words that are values, and what they are read as, by their first letter. */
const WORDS: ReadonlyMap<number, readonly [word: Buffer, value: number]> = new Map([
  [110, [Buffer.from('null'), GAP]],
  [116, [Buffer.from('true'), Number.NaN]],
  [102, [Buffer.from('false'), Number.NaN]],
]);

export class LineShape {
  /** The names of the values: keys joined with dots, indices of lists as numbers. */
  readonly paths: readonly string[];
  /** The bytes before each value and after the last one, one after the other. */
  readonly #text: Buffer;
  readonly #words: DataView;
  /** Where each of them ends in `#text`. */
  readonly #ends: Int32Array;

  private constructor(paths: readonly string[], between: readonly Buffer[]) {
    this.paths = paths;
    this.#text = Buffer.concat(between);
    this.#words = viewOf(this.#text);
    let end = 0;
    this.#ends = Int32Array.from(between, ({ length }) => (end += length));
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
   * @returns false when the line has another form, or is no JSON
   */
  read(bytes: Buffer, start: number, end: number, values: Float64Array): boolean {
    if (seen.bytes !== bytes) seen = { bytes, words: viewOf(bytes) };
    const { words } = seen;
    const ends = this.#ends;
    const last = ends.length - 1;
    let at = start;
    let from = 0;
    for (let i = 0; i <= last; i++) {
      const to = ends[i]!;
      if (at + to - from > end) return false;
      const ahead = at - from;
      for (; from + 4 <= to; from += 4) if (words.getInt32(ahead + from) !== this.#words.getInt32(from)) return false;
      for (; from < to; from++) if (bytes[ahead + from] !== this.#text[from]) return false;
      at = ahead + to;
      if (i === last) break;
      const first = bytes[at]!;
      if (first === QUOTE) at = readText(bytes, at, end, values, i);
      else if (first === MINUS || (first >= ZERO && first <= NINE)) at = readNumber(bytes, at, end, values, i);
      else at = readWord(bytes, at, end, values, i);
      if (at < 0) return false;
    }
    return at === end;
  }
}

/** The bytes that were read last, to be compared four at a time. */
let seen: { bytes: Buffer; words: DataView } = { bytes: Buffer.alloc(0), words: new DataView(new ArrayBuffer(0)) };

const viewOf = ({ buffer, byteOffset, length }: Buffer): DataView => new DataView(buffer, byteOffset, length);

/* Each of these reads the value at a place into `values[i]` and returns the place after it; -1: there is no such value. */

function readWord(bytes: Buffer, start: number, end: number, values: Float64Array, i: number): number {
  const known = start < end ? WORDS.get(bytes[start]!) : undefined;
  if (known === undefined) return -1;
  const [word, value] = known;
  for (let j = 0; j < word.length; j++) if (bytes[start + j] !== word[j]) return -1;
  values[i] = value;
  return start + word.length;
}

function readText(bytes: Buffer, start: number, end: number, values: Float64Array, i: number): number {
  if (start + TIME.length + 1 < end && bytes[start + TIME.length + 1] === QUOTE) {
    values[i] = timeAt(bytes, start + 1);
    if (!Number.isNaN(values[i]!)) return start + TIME.length + 2;
  }
  let at = start + 1;
  for (; at < end && bytes[at] !== QUOTE; at++) {
    if (bytes[at]! < FIRST_PRINTED) return -1;
    if (bytes[at] !== BACKSLASH) continue;
    at = escapeEnd(bytes, at);
    if (at < 0) return -1;
  }
  if (at >= end) return -1;
  values[i] = Number.NaN;
  return at + 1;
}

/** The last byte of an escape that begins at a place; -1: JSON has no such escape. */
function escapeEnd(bytes: Buffer, start: number): number {
  const letter = bytes[start + 1] ?? 0;
  if (letter !== LETTER_U) return '"\\/bfnrt'.includes(String.fromCharCode(letter)) ? start + 1 : -1;
  const digits = String.fromCharCode(...bytes.subarray(start + 2, start + 6));
  return /^[\da-f]{4}$/i.test(digits) ? start + 5 : -1;
}

function readNumber(bytes: Buffer, start: number, end: number, values: Float64Array, i: number): number {
  const isNegative = bytes[start] === MINUS;
  const first = start + (isNegative ? 1 : 0);
  let at = first;
  let high = 0;
  let low = 0;
  let digits = 0;
  let point = -1;
  for (; at < end; at++) {
    const digit = bytes[at]! - ZERO;
    if (digit < 0 || digit > 9) {
      if (digit !== POINT - ZERO || point >= 0) break;
      point = at;
    } else if (digits > 0 || digit > 0) {
      if (digits < HALF_DIGITS) high = (high * 10 + digit) | 0;
      else low = (low * 10 + digit) | 0;
      digits++;
    }
  }
  const whole = (point < 0 ? at : point) - first;
  const fraction = point < 0 ? 0 : at - point - 1;
  if (whole === 0 || (whole > 1 && bytes[first] === ZERO) || point === at - 1) return -1;
  const exponentEnd = exponentFrom(bytes, at, end);
  if (exponentEnd < 0) return -1;
  if (exponentEnd > at || digits > MOST_DIGITS || fraction >= POWERS.length) {
    values[i] = Number(bytes.toString('latin1', start, exponentEnd));
    return exponentEnd;
  }
  const places = Math.max(0, digits - HALF_DIGITS);
  const value =
    digits <= EXACT_DIGITS
      ? (high * POWERS[places]! + low) / POWERS[fraction]!
      : quotient(high, places, low, POWERS[fraction]!);
  values[i] = isNegative ? -value : value;
  return at;
}

/** The place after an exponent; `start`: there is none, -1: it has no digits. */
function exponentFrom(bytes: Buffer, start: number, end: number): number {
  if (start >= end || (bytes[start] !== SMALL_E && bytes[start] !== LARGE_E)) return start;
  const sign = bytes[start + 1];
  const first = sign === MINUS || sign === PLUS ? start + 2 : start + 1;
  let at = first;
  while (at < end && bytes[at]! >= ZERO && bytes[at]! <= NINE) at++;
  return at > first ? at : -1;
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

/** The minute of the time that was read last: lines of a run have mostly the same. */
const minute = { text: Buffer.alloc(TIME.indexOf(':', 14) + 1), began: Number.NaN };

/** `2026-11-27T04:06:57.985Z` in milliseconds since 1970; NaN: another text. */
function timeAt(bytes: Buffer, start: number): number {
  let at = 0;
  while (at < minute.text.length && bytes[start + at] === minute.text[at]) at++;
  for (let i = at; i < TIME.length; i++) {
    const byte = bytes[start + i]!;
    if (TIME[i] === ZERO ? byte < ZERO || byte > NINE : byte !== TIME[i]) return Number.NaN;
  }
  if (at < minute.text.length) {
    bytes.copy(minute.text, 0, start);
    const day = Date.UTC(wholeAt(bytes, start, 4), wholeAt(bytes, start + 5, 2) - 1, wholeAt(bytes, start + 8, 2));
    minute.began = day + 3_600_000 * wholeAt(bytes, start + 11, 2) + 60_000 * wholeAt(bytes, start + 14, 2);
  }
  return minute.began + 1000 * wholeAt(bytes, start + 17, 2) + wholeAt(bytes, start + 20, 3);
}

/** So many digits as a number. */
function wholeAt(bytes: Buffer, start: number, count: number): number {
  let value = 0;
  for (let i = start; i < start + count; i++) value = value * 10 + (bytes[i]! - ZERO);
  return value;
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
