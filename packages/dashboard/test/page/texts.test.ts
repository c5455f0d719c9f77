import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { chinese } from '../../page/messages/chinese/index.js';
import { english } from '../../page/messages/english/index.js';
import { Format } from '../../page/messages/format.js';
import { chooseLanguage } from '../../page/messages/table.js';

const page = join(import.meta.dirname, '..', '..', 'page');

/** The keys of a table: `runs.columns.state`. */
function keysOf(table: object, before = ''): string[] {
  return Object.entries(table).flatMap(([key, value]) =>
    typeof value === 'object' ? keysOf(value, `${before}${key}.`) : [`${before}${key}`],
  );
}

/** The text of all files that write messages. */
const sources = readdirSync(page, { recursive: true, encoding: 'utf8' })
  .filter((name) => /\.(svelte|ts)$/.test(name) && !/^messages.(english|chinese)/.test(name))
  .map((name) => ({ name, text: readFileSync(join(page, name), 'utf8') }));

/** A table, a group or a message of the address `common.chart.csv`. */
const at = (path: readonly string[]): unknown =>
  path.reduce<unknown>((table, key) => (table as Record<string, unknown> | undefined)?.[key], english);

test('both languages have the same keys and no empty text', () => {
  expect(keysOf(chinese)).toEqual(keysOf(english));
  for (const table of [english, chinese]) expect(JSON.stringify(table)).not.toContain('""');
});

test('every message that a component names is in the tables', () => {
  const missing: string[] = [];
  for (const { name, text } of sources) {
    const aliases = new Map<string, string[]>([['t()', []]]);
    for (const [, alias, path] of text.matchAll(/const (\w+) = \$derived\(t\(\)((?:\.\w+)*)(?: as [^)]*)?\);/g))
      aliases.set(alias!, path!.split('.').filter(Boolean));
    for (const [alias, base] of aliases) {
      const escaped = alias.replace(/[()]/g, '\\$&');
      for (const [, path] of text.matchAll(new RegExp(`(?<![\\w.])${escaped}((?:\\.\\w+)+)`, 'g'))) {
        const keys = [...base, ...path!.split('.').filter(Boolean)];
        // What comes after a message is a method of its text.
        let found = false;
        for (let length = keys.length; length > base.length && !found; length--)
          found = at(keys.slice(0, length)) !== undefined;
        const first = at(keys.slice(0, base.length + 1));
        if (!found || first === undefined) missing.push(`${name}: ${keys.join('.')}`);
        else if (
          typeof first === 'object' &&
          keys.length > base.length + 1 &&
          at(keys.slice(0, base.length + 2)) === undefined
        )
          missing.push(`${name}: ${keys.join('.')}`);
      }
    }
  }
  expect(missing).toEqual([]);
});

test('every message is used', () => {
  const text = sources.map((source) => source.text).join('\n');
  const unused = keysOf(english).filter((key) => {
    const words = key.split('.');
    const last = words.at(-1)!;
    const group = words.at(-2)!;
    // Named itself, or its group is indexed by a variable or passed on. Groups of a screen have names that other things have, too.
    const before = words.length > 2 ? '(?<!\\$derived\\(t\\(\\)(?:\\.\\w+)*)' : 't\\(\\)';
    const passed = new RegExp(`${before}\\.${group}(\\[${words.length > 2 ? '|\\b(?!\\.)' : ''})`);
    return !new RegExp(`\\.${last}\\b`).test(text) && !passed.test(text);
  });
  expect(unused).toEqual([]);
});

test('the language of a first visit is the first known one of the browser', () => {
  expect(chooseLanguage(['fr-FR', 'zh-TW', 'en'])).toBe('zh');
  expect(chooseLanguage(['en-GB', 'zh-CN'])).toBe('en');
  expect(chooseLanguage(['de'])).toBe('en');
});

test('numbers are written for readers, and what is none says so', () => {
  const format = new Format('en', '–', 'not finite');
  expect(format.value(0.08917)).toBe('0.0892');
  expect(format.value(1234.5)).toBe('1,235');
  expect(format.value(0.00001)).toBe('1.00e-5');
  expect(format.value(null)).toBe('not finite');
  expect(format.value(undefined)).toBe('–');
  expect(format.bytes(425_222_144)).toBe('425 MB');
  expect(format.bytes(15_900_000_000)).toBe('15.9 GB');
  expect(format.bytes(999)).toBe('999 B');
  expect(format.duration(460.35)).toBe('7:40');
  expect(format.duration(93_784)).toBe('1d 02:03');
  expect(format.percent(0.0153, 1)).toBe('1.5%');
  expect(format.rate(5e-5)).toBe('5.00e-5');
  expect(format.count(8120)).toBe('8.12K');
  expect(format.whole(12_345)).toBe('12,345');
  const noon = new Date('2026-11-27T12:00:00').getTime();
  expect(format.time('2026-11-27T09:05:00', noon)).toBe('09:05');
  expect(format.time('2026-11-26T09:05:00', noon)).toContain('Nov 26');
  expect(new Format('zh', '–', '非有限值').count(81_200)).toBe('8.12万');
});
