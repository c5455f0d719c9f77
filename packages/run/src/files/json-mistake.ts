/**
 * Locates the first error in a JSON text. `JSON.parse` decides whether a text is JSON; this only locates the first
 * mistake of one that is not, since V8's messages name a position for some mistakes and not for others. Grammar: RFC
 * 8259. Nesting of any depth is read: open brackets are kept in a list, not on the call stack.
 */
import { describeCharacter } from './characters.js';

export interface JsonMistake {
  /** Offset of the first character that cannot stand there, in UTF-16 units; the text's length if it ends too early. */
  readonly offset: number;
  /** The characters that are allowed there. */
  readonly wanted: string;
  /** Offset of the string that was read last: its closing quote may be another character. -1: none. */
  readonly string: number;
}

/** The first mistake of `text`, or undefined if it is JSON. */
export function findJsonMistake(text: string): JsonMistake | undefined {
  const reader = new Reader(text);
  const wanted = reader.read();
  return wanted === undefined ? undefined : { offset: reader.at, wanted, string: reader.string };
}

/** Deeper than tools write that know no limit of their own. */
const DEEPEST_NAN = 100;

/**
 * `text` with `null` for NaN, Infinity and -Infinity, which Python's json writes; undefined if that does not make JSON of it. In deeply nested
 * values they are left as they are.
 */
export function withoutNaN(text: string): string | undefined {
  const found: { start: number; end: number }[] = [];
  const reader = new Reader(text, found);
  if (reader.read() !== undefined || found.length === 0) return undefined;
  let end = 0;
  const pieces = found.map((one) => {
    const piece = `${text.slice(end, one.start)}null`;
    end = one.end;
    return piece;
  });
  return pieces.join('') + text.slice(end);
}

/** What stands at `offset` of a JSON text, for a message: a piece of it, one character by name, or "the end". */
export function excerpt(text: string, offset: number): string {
  if (offset >= text.length) return 'the end';
  const character = String.fromCodePoint(text.codePointAt(offset)!);
  if (!/^[\x20-\x7e\n\r\t]$/.test(character)) return describeCharacter(character);
  return JSON.stringify(text.slice(offset, offset + 24).split(/[\n\r]|[^\x20-\x7e]/)[0] || character);
}

const VALUE = 'a value ({, [, a string in double quotes, a number, true, false or null)';
const STRING = 'a character of a string or its closing double quote (line breaks are written \\n)';
const LITERAL = /true|false|null|-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?/y;
const NOT_A_NUMBER = /NaN|-?Infinity/y;
const ESCAPE = /\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})/y;

class Reader {
  at = 0;
  /** Closing brackets of what is open, the innermost last. */
  readonly #open: ('}' | ']')[] = [];
  /** Offset of the string read last. */
  string = -1;
  readonly #text: string;
  readonly #nan: { start: number; end: number }[] | undefined;

  /** With `nan`, NaN and Infinity are values; their places are added. */
  constructor(text: string, nan?: { start: number; end: number }[]) {
    this.#text = text;
    this.#nan = nan;
  }

  /** Reads on until what is wanted is not there, and returns that; undefined at the end of a whole value. */
  read(): string | undefined {
    let problem = this.#value();
    while (problem === undefined && this.#open.length > 0) problem = this.#next();
    if (problem !== undefined) return problem;
    this.#space();
    return this.at < this.#text.length ? 'the end of the value' : undefined;
  }

  /** What follows an item of the innermost list: its end, or a comma and the next item. */
  #next(): string | undefined {
    const close = this.#open.at(-1)!;
    this.#space();
    if (this.#accept(close)) {
      this.#open.pop();
      return undefined;
    }
    if (!this.#accept(',')) return `"," or "${close}"`;
    return (close === '}' ? this.#key() : undefined) ?? this.#value();
  }

  /** A value, or the opening of one that is a list: its first items too, as long as they open others. */
  #value(): string | undefined {
    for (;;) {
      this.#space();
      const head = this.#text[this.at];
      if (head === '"') return this.#string();
      if (head !== '{' && head !== '[') return this.#take(LITERAL) || this.#notANumber() ? undefined : VALUE;
      const close = head === '{' ? '}' : ']';
      this.at++;
      this.#space();
      if (this.#accept(close)) return undefined;
      this.#open.push(close);
      if (close === '}') {
        const problem = this.#key();
        if (problem !== undefined) return problem;
      }
    }
  }

  #notANumber(): boolean {
    const start = this.at;
    if (this.#nan === undefined || this.#open.length > DEEPEST_NAN || !this.#take(NOT_A_NUMBER)) return false;
    this.#nan.push({ start, end: this.at });
    return true;
  }

  #key(): string | undefined {
    this.#space();
    if (this.#text[this.at] !== '"') return 'a key in double quotes';
    const problem = this.#string();
    if (problem !== undefined) return problem;
    this.#space();
    return this.#accept(':') ? undefined : '":"';
  }

  #string(): string | undefined {
    this.string = this.at;
    this.at++;
    for (;;) {
      const code = this.#text.charCodeAt(this.at);
      if (code === 0x22) {
        this.at++;
        return undefined;
      }
      if (code === 0x5c) {
        if (!this.#take(ESCAPE)) return STRING;
      } else if (code >= 0x20) this.at++;
      else return STRING; // a control character, or NaN at the end
    }
  }

  #space(): void {
    while (/^[ \t\r\n]$/.test(this.#text[this.at] ?? '')) this.at++;
  }

  #accept(character: string): boolean {
    if (this.#text[this.at] !== character) return false;
    this.at++;
    return true;
  }

  /** Skips what `pattern` (sticky) matches here; false if that is nothing. */
  #take(pattern: RegExp): boolean {
    pattern.lastIndex = this.at;
    const length = pattern.exec(this.#text)?.[0].length ?? 0;
    this.at += length;
    return length > 0;
  }
}
