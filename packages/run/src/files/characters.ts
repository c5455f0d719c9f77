/**
 * Characters as messages name them. With the code point, the ASCII character it looks like, and
 * whether it can be seen at all.
 */
import { escapeUnseen } from '../shown.js';

/** What JSON writes for a character that looks like it, and what the character is called. */
interface Lookalike {
  readonly ascii: string;
  readonly name: string;
}

const GROUPS: readonly (readonly [ascii: string, name: string, characters: string])[] = [
  ['"', 'a curly quotation mark', '“”„‟'],
  ['"', 'a quotation mark of another kind', '«»‹›「」『』〝〞〟″‶＂'],
  ['"', 'a single quotation mark', '‘’‚‛′＇'],
  [',', 'a full-width comma', '，'],
  [',', 'a comma of another kind', '、﹐﹑､،'],
  [':', 'a full-width colon', '：'],
  [':', 'a colon of another kind', '﹕∶︰'],
  ['[', 'a full-width bracket', '【［〔〖〚﹝'],
  [']', 'a full-width bracket', '】］〕〗〛﹞'],
  ['{', 'a full-width brace', '｛﹛'],
  ['}', 'a full-width brace', '｝﹜'],
  ['-', 'a dash or minus sign of another kind', '‐‑‒–—―−－'],
  ['.', 'a full stop of another kind', '。．｡'],
];

const LOOKALIKES: ReadonlyMap<string, Lookalike> = new Map(
  GROUPS.flatMap(([ascii, name, characters]) => [...characters].map((one) => [one, { ascii, name }] as const)),
);

const UNSEEN_NAMES: Readonly<Record<string, string>> = {
  '\u0000': 'a NUL character',
  '\u000b': 'a vertical tab',
  '\u000c': 'a form feed',
  '\u0085': 'a next line character',
  '\u00a0': 'a no-break space',
  '\u00ad': 'a soft hyphen',
  '\u1680': 'an Ogham space',
  '\u180e': 'a Mongolian vowel separator',
  '\u200b': 'a zero width space',
  '\u200c': 'a zero width non-joiner',
  '\u200d': 'a zero width joiner',
  '\u200e': 'a left-to-right mark',
  '\u200f': 'a right-to-left mark',
  '\u2028': 'a line separator',
  '\u2029': 'a paragraph separator',
  '\u202f': 'a narrow no-break space',
  '\u205f': 'a mathematical space',
  '\u2060': 'a word joiner',
  '\u3000': 'an ideographic (full-width) space',
  '\ufeff': 'a byte order mark (zero width no-break space)',
};

/** The name of a character that cannot be seen; undefined for one that can, and for the white space of JSON. */
export function unseenName(character: string): string | undefined {
  if (/^[ \n\r\t]$/.test(character)) return undefined;
  const known = UNSEEN_NAMES[character];
  if (known !== undefined) return known;
  if (/^\p{Zs}$/u.test(character)) return 'a space of another width';
  return escapeUnseen(character) === character ? undefined : 'a control character';
}

/** The ASCII character that a character stands for to the eye. */
function lookalike(character: string): Lookalike | undefined {
  const known = LOOKALIKES.get(character);
  if (known !== undefined) return known;
  const code = character.codePointAt(0)!;
  if (code < 0xff01 || code > 0xff5e) return undefined;
  return { ascii: String.fromCodePoint(code - 0xfee0), name: 'a full-width character' };
}

/** A character that is not ASCII, for a message, with what JSON wants in its place: `"】" (U+3011), a full-width bracket: JSON wants ]`. */
export function describeCharacter(character: string): string {
  const code = `U+${character.codePointAt(0)!.toString(16).toUpperCase().padStart(4, '0')}`;
  const unseen = unseenName(character);
  if (unseen !== undefined) {
    const written = escapeUnseen(character);
    return `"${written}" (${code}), ${unseen}, which cannot be seen: JSON wants an ordinary space or nothing`;
  }
  const like = lookalike(character);
  return `"${character}" (${code})${like === undefined ? '' : `, ${like.name}: JSON wants ${like.ascii}`}`;
}

/** A quotation mark of another kind inside a JSON string, where JSON goes on as if it had closed the string. */
export function curlyEnd(text: string): { offset: number; described: string } | undefined {
  const offset = text.search(/[“”„‟«»「」『』〝〞〟″‶＂]\s*[,:}\]，：｝］】]/u);
  return offset === -1 ? undefined : { offset, described: describeCharacter(text[offset]!) };
}
