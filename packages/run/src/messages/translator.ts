/**
 * Translates a printed message by a catalogue of templates. The English text is written where the message is made; a
 * catalogue maps its template, with numbered holes, to the other language's. What has no entry stays English.
 *
 * Not for what programs read: events.jsonl, run.json, JSON reports and the `message` of errors stay English.
 */
import { WIDE } from '../display-width.js';

/**
 * Templates of a language by their English ones. `{1}` to `{9}` are holes; `[s]` in an English one is an s that may be
 * there or not. A hole's text is translated in its turn if it has an entry.
 */
export type Messages = Readonly<Record<string, string>>;

/** What is printed instead of an English text. */
export type Say = (text: string) => string;

/** The text as it is. */
export const ENGLISH: Say = (text) => text;

/** A text after its label: `error: …`. */
export function labelled(label: string, text: string, say: Say): string {
  return say === ENGLISH ? `${label}: ${text}` : `${say(`${label}:`)}${say(text)}`;
}

/** A translated text, and what was not found on the way: texts that look like English and have no entry. */
export interface Translation {
  readonly text: string;
  readonly missing: readonly string[];
  /** English templates of the entries that were used, as the catalogue has them. */
  readonly used: readonly string[];
}

interface Entry {
  /** As the catalogue has it. */
  readonly key: string;
  /** Literals around the holes: one more than there are holes. */
  readonly literals: readonly string[];
  /** Numbers of the holes, in the English order. */
  readonly holes: readonly string[];
  readonly target: string;
  /** Whether it says so little that it counts only where all of its holes are understood: `{1} and {2}`. */
  readonly weak: boolean;
}

const HOLE = /\{([1-9])\}/;
/** How many ways to cut a text into the holes of an entry are tried. */
const MOST_CUTS = 64;
/** An entry with fewer letters outside of its holes says little. */
const FEW_LETTERS = 6;

export class Translator {
  /** The most specific entry first. */
  readonly #entries: readonly Entry[];

  constructor(messages: Messages) {
    const entries = Object.entries(messages).flatMap(([key, target]) =>
      forms(key).map((form) => entry(key, form, target)),
    );
    this.#entries = entries.sort((a, b) => b.literals.join('').length - a.literals.join('').length);
  }

  /** The text in the catalogue's language; what is not found stays as it is. */
  readonly say: Say = (text) => this.translate(text).text;

  /** The same, with what was found and what was not. */
  translate(text: string): Translation {
    const [, before, core, after] = /^(\s*)(.*?)(\s*)$/s.exec(text)!;
    const { text: translated, missing, used } = this.#unit(core!) ?? { text: core!, missing: prose(core!), used: [] };
    return { text: `${before}${translated}${after}`, missing, used };
  }

  /** A text without white space around it; undefined if nothing of it is found. */
  #unit(text: string): Translation | undefined {
    if (text === '' || isQuoted(text)) return undefined;
    const whole = this.#whole(text);
    if (whole?.missing.length === 0) return whole;
    const parts =
      this.#parts(text, /(\n)/, '\n') ??
      this.#sentences(text) ??
      this.#parts(text, /(; )/, '；') ??
      this.#parts(text, /(, )/, ', ');
    if (parts === undefined || whole === undefined) return whole ?? parts;
    return parts.missing.length < whole.missing.length ? parts : whole;
  }

  /** The text as one entry. */
  #whole(text: string): Translation | undefined {
    let best: Translation | undefined;
    for (const one of this.#entries) {
      for (const cut of cuts(one, text)) {
        const found = this.#fill(one, cut);
        if (one.weak && !cut.every((part) => isValue(part) || this.translate(part).used.length > 0)) continue;
        if (found.missing.length === 0) return found;
        if (!one.weak) best ??= found;
      }
    }
    return best;
  }

  #fill(one: Entry, cut: readonly string[]): Translation {
    const filled = cut.map((part) => this.translate(part));
    const text = one.target.split(HOLE).reduce((before, piece, i) => {
      return joined(before, i % 2 === 0 ? piece : filled[one.holes.indexOf(piece)]!.text);
    }, '');
    return {
      text,
      missing: filled.flatMap((part) => part.missing),
      used: [one.key, ...filled.flatMap((part) => part.used)],
    };
  }

  /** The first sentence and the rest, where the first sentence is found. */
  #sentences(text: string): Translation | undefined {
    for (const { index, 0: end } of text.matchAll(/[.?!] (?=\S)/g)) {
      const first = this.#whole(text.slice(0, index + end.length - 1));
      if (first === undefined || first.missing.length > 0) continue;
      const rest = this.translate(text.slice(index + end.length));
      return {
        text: joined(first.text, rest.text),
        missing: rest.missing,
        used: [...first.used, ...rest.used],
      };
    }
    return undefined;
  }

  /** A list, where one of its items is found. */
  #parts(text: string, between: RegExp, mark: string): Translation | undefined {
    const items = text.split(between).filter((_, i) => i % 2 === 0);
    if (items.length < 2) return undefined;
    const done = items.map((item) => this.translate(item));
    if (done.every(({ used }) => used.length === 0)) return undefined;
    return {
      text: done.map((item) => item.text).join(mark),
      missing: done.flatMap((item) => item.missing),
      used: done.flatMap((item) => item.used),
    };
  }
}

/** A template with each `[s]` there and not there. */
function forms(key: string): string[] {
  return key.split('[s]').reduce<string[]>((done, piece, i) => {
    return i === 0 ? [piece] : done.flatMap((form) => [`${form}${piece}`, `${form}s${piece}`]);
  }, []);
}

function entry(key: string, form: string, target: string): Entry {
  const pieces = form.split(HOLE);
  const literals = pieces.filter((_, i) => i % 2 === 0);
  const weak = literals.join('').replace(/[^A-Za-z]/g, '').length < FEW_LETTERS;
  return { key, target, literals, holes: pieces.filter((_, i) => i % 2 === 1), weak };
}

/** The ways to cut a text into the holes of an entry; a hole has at least one character. */
function* cuts({ literals }: Entry, text: string): Generator<string[]> {
  const [first, last] = [literals[0]!, literals.at(-1)!];
  if (literals.length === 1) {
    if (text === first) yield [];
    return;
  }
  if (text.length < first.length + last.length || !text.startsWith(first) || !text.endsWith(last)) return;
  const end = text.length - last.length;
  let left = MOST_CUTS;
  function* from(hole: number, start: number): Generator<string[]> {
    if (hole === literals.length - 2) {
      if (start < end) yield [text.slice(start, end)];
      return;
    }
    const literal = literals[hole + 1]!;
    for (let at = text.indexOf(literal, start + 1); at >= 0 && at < end; at = text.indexOf(literal, at + 1)) {
      if (left-- <= 0) return;
      for (const rest of from(hole + 1, at + literal.length)) yield [text.slice(start, at), ...rest];
    }
  }
  yield* from(0, first.length);
}

/** Whether the text is a value: one word that ends no sentence, a flag with its values, or a number or something quoted with its unit. */
const isValue = (text: string): boolean =>
  /^(\S*[^\s.?!:]|--\S+( \S+)*|([\d.:]+|"[^"]*")( (\S{1,3}|"[^"]*"))?)$/.test(text) || isQuoted(text);

/** Whether the text is one quoted value, which is nobody's sentence. */
const isQuoted = (text: string): boolean => /^"(\\"|[^"])*"$|^`[^`]*`$/.test(text);

/** The text, if it looks like English rather than like values: two words in a row outside of quotes. */
function prose(text: string): string[] {
  const bare = text.replace(/"[^"]*"|`[^`]*`/g, '""');
  return /(?:^|[\s(])[A-Za-z][a-z]+ [a-z]{2,}/.test(bare) ? [text] : [];
}

const WIDE_EDGE = /[\u4e00-\u9fff]/;
const NARROW_EDGE = /[A-Za-z0-9"'`<>[\]{}$%/\\~+=_-]/;

/** Two pieces of a text with a space between a Chinese character and a Latin one, and none between Chinese ones. */
function joined(left: string, right: string): string {
  if (left === '' || right === '') return left + right;
  const [a, b] = [left.trimEnd(), right.trimStart()];
  const [end, start] = [a.at(-1) ?? '', b[0] ?? ''];
  if (WIDE_EDGE.test(end) && NARROW_EDGE.test(start)) return `${a} ${b}`;
  if (NARROW_EDGE.test(end) && WIDE_EDGE.test(start)) return `${a} ${b}`;
  if (isWide(end) || isWide(start)) return a + b;
  return left + right;
}

const isWide = (character: string): boolean => WIDE.test(character);
