/**
 * Locates the first error in a JSON text. `JSON.parse` decides whether a text is JSON; this only locates the first
 * mistake of one that is not, since V8's messages name a position for some mistakes and not for others. Grammar: RFC
 * 8259.
 */

export interface JsonMistake {
  /** Offset of the first character that cannot stand there, in UTF-16 units; the text's length if it ends too early. */
  readonly offset: number;
  /** The characters that are allowed there. */
  readonly wanted: string;
}

const SPACE = /[ \t\r\n]*/y;
const LITERAL = /true|false|null|-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?/y;
// biome-ignore lint/suspicious/noControlCharactersInRegex: JSON forbids exactly these inside strings
const STRING_BODY = /(?:[^"\\\u0000-\u001f]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*/y;

/** The first mistake of `text`, or undefined if it is JSON. Nesting is limited by the call stack only in texts that JSON.parse refuses as well. */
export function findJsonMistake(text: string): JsonMistake | undefined {
  const reader = new Reader(text);
  try {
    reader.value();
    reader.space();
    if (reader.at < text.length) reader.fail('the end of the value');
    return undefined;
  } catch (error) {
    if (error instanceof Mistake) return { offset: error.offset, wanted: error.wanted };
    throw error;
  }
}

/** The JSON text at `offset`, quoted for a message, or "the end". */
export function excerpt(text: string, offset: number): string {
  return offset >= text.length ? 'the end' : JSON.stringify(text.slice(offset, offset + 24).split('\n')[0]);
}

class Mistake extends Error {
  readonly offset: number;
  readonly wanted: string;

  constructor(offset: number, wanted: string) {
    super(wanted);
    this.offset = offset;
    this.wanted = wanted;
  }
}

class Reader {
  at = 0;
  readonly #text: string;

  constructor(text: string) {
    this.#text = text;
  }

  fail(wanted: string): never {
    throw new Mistake(this.at, wanted);
  }

  space(): void {
    this.#take(SPACE);
  }

  value(): void {
    this.space();
    const head = this.#text[this.at];
    if (head === '{') this.#list('}', () => this.#member());
    else if (head === '[') this.#list(']', () => this.value());
    else if (head === '"') this.#string();
    else if (!this.#take(LITERAL))
      this.fail('a value ({, [, a string in double quotes, a number, true, false or null)');
  }

  #list(close: string, item: () => void): void {
    this.at++;
    this.space();
    if (this.#accept(close)) return;
    for (;;) {
      item();
      this.space();
      if (this.#accept(close)) return;
      if (!this.#accept(',')) this.fail(`"," or "${close}"`);
    }
  }

  #member(): void {
    this.space();
    if (this.#text[this.at] !== '"') this.fail('a key in double quotes');
    this.#string();
    this.space();
    if (!this.#accept(':')) this.fail('":"');
    this.value();
  }

  #string(): void {
    this.at++;
    this.#take(STRING_BODY);
    if (!this.#accept('"'))
      this.fail('a character of a string or its closing double quote (line breaks are written \\n)');
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
