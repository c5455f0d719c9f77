import { CONFIG_GROUPS, type Flag, LANGUAGES, type Text } from '@minicpm-finetune/run';
import { describe, expect, it } from 'vitest';
import { COMMANDS } from '../../src/cli/commands.js';
import { LANG_FLAG } from '../../src/cli/help.js';
import { TRAIN_FLAGS } from '../../src/config/train-flags.js';

/** Name, kind, default and limits of a flag in one line. */
function line(flag: Flag): string {
  const parts = [`--${flag.name}`, flag.kind];
  if (flag.choices !== undefined) parts.push(flag.choices.join('|'));
  if (flag.required) parts.push('required');
  else if (flag.derived !== undefined) parts.push(`default: ${flag.derived.en}`);
  else if (flag.default !== undefined) parts.push(`default ${JSON.stringify(flag.default)}`);
  if (flag.bare !== undefined) parts.push(`bare ${flag.bare}`);
  if (flag.min !== undefined) parts.push(`>= ${flag.min}`);
  if (flag.above !== undefined) parts.push(`> ${flag.above}`);
  if (flag.max !== undefined) parts.push(`<= ${flag.max}`);
  if (flag.nullable) parts.push('or null');
  for (const { when } of flag.idle ?? []) {
    const conditions = when.map(
      ({ flag: other, is, not }) => `${other} ${is ? '=' : '!='} ${JSON.stringify((is ?? not)![0])}`,
    );
    parts.push(`idle if ${conditions.join(' and ')}`);
  }
  if (flag.freeOnResume) parts.push('free on resume');
  if (flag.neutral !== undefined) parts.push(`only ${flag.neutral.join('|')}`);
  return parts.join('; ');
}

const byCommand = COMMANDS.map((command) => [command.text.name, command] as const);

describe('flags', () => {
  it.each(byCommand.filter(([name]) => name !== 'bench'))('of %s are a decision', (_, { flags }) => {
    const groups = [...new Set(flags.map(({ group }) => group))];
    const list = groups.map((group) => [group, flags.filter((flag) => flag.group === group).map(line)]);
    expect(Object.fromEntries(list)).toMatchSnapshot();
  });

  it('of bench are those of train, and its own', () => {
    const flags = byCommand.find(([name]) => name === 'bench')![1].flags;
    expect(flags.slice(2)).toEqual(TRAIN_FLAGS.filter(({ name }) => name !== 'dry_run'));
    expect(flags.slice(0, 2).map(line)).toMatchSnapshot();
  });
});

/** A text is there in both languages, as a sentence or as a part of one. */
function expectText(text: Text, where: string, sentence: boolean): void {
  expect(Object.keys(text), where).toEqual([...LANGUAGES]);
  expect(text.en, where).toMatch(sentence ? /^[A-Z].*\.$/s : /[^.]$/);
  expect(text.zh, where).toMatch(sentence ? /[。]$/ : /[^。]$/);
  expect(text.en, where).not.toMatch(/[\u2e80-\uffef]/);
  expect(text.zh, where).toMatch(/[\u4e00-\u9fff]/);
}

describe.each(byCommand)('the texts of %s', (name, { text, flags }) => {
  it.each(flags.map((flag) => [flag.name, flag] as const))('--%s', (_, flag) => {
    expectText(flag.help, flag.name, flag.notice === undefined);
    if (flag.derived !== undefined && flag.derived.en !== 'seed') expectText(flag.derived, flag.name, false);
    for (const { why } of flag.idle ?? []) if (why !== undefined) expectText(why, flag.name, false);
    if (flag.notice === undefined) expect(text.headings, flag.name).toHaveProperty(flag.group);
  });

  it('around them', () => {
    expectText(text.summary, name, true);
    expectText(text.description, name, true);
    expect(text.examples.zh).toMatch(/^示例：/);
  });
});

it('--lang has its texts', () => {
  expectText(LANG_FLAG.help, 'lang', true);
});

describe('rules of the table', () => {
  it.each(byCommand)('%s: every idle rule names flags of the command, with values they can have', (_, { flags }) => {
    const known = new Map(flags.map((flag) => [flag.name, flag]));
    for (const flag of flags) {
      for (const { when, why } of flag.idle ?? []) {
        expect(when.length, flag.name).toBeGreaterThan(0);
        for (const { flag: name, is, not } of when) {
          const other = known.get(name);
          expect(other, `${flag.name} depends on ${name}`).toBeDefined();
          expect(is !== undefined || not !== undefined, flag.name).toBe(true);
          for (const value of [...(is ?? []), ...(not ?? [])]) {
            if (other!.kind === 'choice') expect(other!.choices, `${flag.name}: ${name}`).toContain(value);
            if (other!.kind === 'boolean') expect(value, `${flag.name}: ${name}`).toBeTypeOf('boolean');
            if (value === null) expect(other!.default, `${flag.name}: ${name}`).toBeNull();
          }
        }
        for (const [, name] of `${why?.en} ${why?.zh}`.matchAll(/\{(\w+)\}/g))
          expect(known.has(name!), name).toBe(true);
      }
    }
  });

  it('defaults are of their kind and within their limits', () => {
    for (const flag of COMMANDS.flatMap(({ flags }) => flags)) {
      const { name, kind, choices, min, above, max } = flag;
      if (flag.default === undefined || flag.default === null) continue;
      if (kind === 'choice') expect(choices, name).toContain(flag.default);
      if (kind === 'boolean') expect(flag.default, name).toBeTypeOf('boolean');
      if (kind !== 'integer' && kind !== 'number') continue;
      expect(flag.default, name).toBeTypeOf('number');
      if (min !== undefined) expect(flag.default, name).toBeGreaterThanOrEqual(min);
      if (above !== undefined) expect(flag.default, name).toBeGreaterThan(above);
      if (max !== undefined) expect(flag.default, name).toBeLessThanOrEqual(max);
    }
  });

  it('only flags of the configuration may be free on resume; a run never resumes with other weights to learn', () => {
    const free = TRAIN_FLAGS.filter(({ freeOnResume }) => freeOnResume);
    for (const { group, name } of free) expect(CONFIG_GROUPS, name).toContain(group);
    // where a run's adapter began: a checkpoint has one of its own
    const groups = new Set(free.filter(({ name }) => name !== 'lora_weight_path').map(({ group }) => group));
    for (const group of ['trainables', 'lora', 'optimizer', 'schedule', 'precision', 'seeds']) {
      expect(groups.has(group), group).toBe(false);
    }
  });
});
