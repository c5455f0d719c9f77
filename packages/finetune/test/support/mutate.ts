/** Damage for tests, always the same for a seed: in bytes, in JSON values, in the lines of a recipe. */
import type { Random } from '../../src/data/random.js';

export const pick = <T>(random: Random, items: readonly T[]): T => items[random.below(items.length)]!;

/** Cuts, overwrites, removes, doubles or inserts a few bytes; never returns the same bytes. */
export function mutateBytes(bytes: Buffer, random: Random): Buffer {
  let result: Buffer = Buffer.from(bytes);
  do {
    for (let i = random.below(3); i >= 0; i--) {
      const at = random.below(result.length + 1);
      const end = Math.min(result.length, at + 1 + random.below(24));
      const [head, tail] = [result.subarray(0, at), result.subarray(at)];
      const kind = random.below(6);
      if (kind === 0) result = Buffer.from(head);
      else if (kind <= 2 && at < result.length) result[at] = result[at]! ^ (1 << random.below(8));
      else if (kind === 3) result = Buffer.concat([head, result.subarray(end)]);
      else if (kind === 4) result = Buffer.concat([result.subarray(0, end), tail]);
      else result = Buffer.concat([head, Buffer.from(pick(random, TEXTS)), tail]);
    }
  } while (result.equals(bytes));
  return result;
}

const TEXTS = [
  '\0',
  '"',
  '{',
  '}',
  ']',
  ',',
  ':',
  '\n',
  '\\',
  '\ufeff',
  '\\ud800',
  '-',
  'NaN',
  '1e999',
  '<image>',
  '  ',
];

/** Values that no reader should choke on, whatever it expected. */
const VALUES: readonly unknown[] = [
  null,
  true,
  false,
  0,
  -1,
  0.5,
  7,
  1e9,
  2 ** 31,
  2 ** 53,
  1e308,
  '',
  ' ',
  '0',
  'user',
  'assistant',
  'system',
  '<image>',
  '<image_00>',
  '<image>./</image>',
  '<|im_end|>',
  '</s>',
  '\u0000',
  '\ud800',
  '\u{1f600}'.repeat(50),
  '../../etc/passwd',
  '/dev/null',
  '/dev/zero',
  'http://localhost:1/a.png',
  'data:image/png;base64,AAAA',
  '__proto__',
  'a'.repeat(5000),
  '(((((((((a+)+)+)+)+)+)+)+)+)$',
  [],
  {},
  [[]],
  [null],
  { a: 1 },
  { bytes: 'x' },
  ['a', 'b'],
];

/** A copy of a JSON value with one to three places changed: replaced, removed, doubled, renamed, swapped. */
export function mutateJson(value: unknown, random: Random): unknown {
  const root = { root: structuredClone(value) };
  for (let i = random.below(3); i >= 0; i--) changeOnePlace(root, random);
  return root.root;
}

type Holder = Record<string | number, unknown>;

function changeOnePlace(root: Holder, random: Random): void {
  const places: [Holder, string | number][] = [];
  const visit = (holder: Holder): void => {
    for (const key of Object.keys(holder)) {
      places.push([holder, key]);
      const inner = holder[key];
      if (typeof inner === 'object' && inner !== null) visit(inner as Holder);
    }
  };
  visit(root);
  const [holder, key] = pick(random, places);
  const kind = random.below(8);
  if (holder === root || kind <= 2) holder[key] = structuredClone(pick(random, VALUES));
  else if (kind === 3) holder[key] = nearby(holder[key], random);
  else if (kind === 4) remove(holder, key);
  else if (kind === 5) {
    const [other, otherKey] = pick(random, places.slice(1));
    holder[key] = structuredClone(other[otherKey]);
  } else if (Array.isArray(holder)) holder.splice(Number(key), 0, structuredClone(holder[Number(key)]));
  else {
    const inner = holder[key];
    remove(holder, key);
    holder[kind === 6 ? `${key}s` : pick(random, ['image', 'images', 'messages', 'from', 'value', 'role', ''])] = inner;
  }
}

/** Something of the same kind. */
function nearby(value: unknown, random: Random): unknown {
  if (typeof value === 'number') return pick(random, [value + 1, value - 1, -value, value * 2, value / 2, value * 1e6]);
  if (typeof value === 'boolean') return !value;
  if (typeof value !== 'string') return value;
  const at = random.below(value.length + 1);
  const text = pick(random, ['<image>', '<image_01>', '<|im_start|>user\n', ' ', 'x', '\n', '\u{10ffff}', '\ud83d']);
  return pick(random, [value.slice(0, at), value.slice(0, at) + text + value.slice(at), value.toUpperCase()]);
}

function remove(holder: Holder, key: string | number): void {
  if (Array.isArray(holder)) holder.splice(Number(key), 1);
  else delete holder[key];
}
