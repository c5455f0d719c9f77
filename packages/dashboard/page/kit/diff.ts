/** What differs between two texts, by words. */

export interface DiffPart {
  readonly kind: 'same' | 'added' | 'removed';
  readonly text: string;
}

/** Longer texts are compared whole: the table of the comparison grows with the product of both lengths. */
const MOST_CELLS = 4_000_000;

/** Words with the space after them; each character of Chinese and Japanese is a word. */
function wordsOf(text: string): string[] {
  return (
    text.match(/[\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}]|[\p{L}\p{N}_]+\s*|[^\p{L}\p{N}_]\s*/gu) ?? []
  );
}

/** The parts of both texts in order: what only `before` has is removed, what only `after` has is added. */
export function diffWords(before: string, after: string): DiffPart[] {
  const [a, b] = [wordsOf(before), wordsOf(after)];
  if (a.length * b.length > MOST_CELLS) return join([part('removed', before), part('added', after)]);
  const width = b.length + 1;
  // Length of the longest common sequence of the rests from i and j.
  const common = new Uint32Array((a.length + 1) * width);
  for (let i = a.length - 1; i >= 0; i--)
    for (let j = b.length - 1; j >= 0; j--)
      common[i * width + j] =
        a[i] === b[j]
          ? common[(i + 1) * width + j + 1]! + 1
          : Math.max(common[(i + 1) * width + j]!, common[i * width + j + 1]!);
  const parts: DiffPart[] = [];
  let [i, j] = [0, 0];
  while (i < a.length && j < b.length) {
    if (a[i] === b[j]) {
      parts.push(part('same', a[i]!));
      i++;
      j++;
    } else if (common[(i + 1) * width + j]! >= common[i * width + j + 1]!) parts.push(part('removed', a[i++]!));
    else parts.push(part('added', b[j++]!));
  }
  parts.push(...a.slice(i).map((word) => part('removed', word)), ...b.slice(j).map((word) => part('added', word)));
  return join(parts);
}

const part = (kind: DiffPart['kind'], text: string): DiffPart => ({ kind, text });

/** Neighbours of one kind become one part; empty parts go. */
function join(parts: readonly DiffPart[]): DiffPart[] {
  const joined: DiffPart[] = [];
  for (const { kind, text } of parts) {
    const last = joined.at(-1);
    if (text === '') continue;
    if (last?.kind === kind) joined[joined.length - 1] = part(kind, last.text + text);
    else joined.push(part(kind, text));
  }
  return joined;
}
