/**
 * From a given value to a checked value of the flag's type. The value is a word of the command line or a value of a
 * recipe.
 *
 * Command line and recipe share these rules, so `lora_r: "8"` in a recipe is as good as `lora_r: 8`. Every refusal names
 * flag or file and line, what was expected and received, and an example that works.
 */
import { expected, type UserError } from '../user-error.js';
import { nameAt, placeOf, type Source } from './source.js';
import type { FlagKind, FlagSpec } from './spec.js';

const TRUE = ['true', 'yes', 'y', 't', '1', 'on'];
const FALSE = ['false', 'no', 'n', 'f', '0', 'off'];
const NULL = ['none', 'null', ''];

/** Bytes per unit; GB and GiB are different. */
const UNITS: Readonly<Record<string, number>> = {
  '': 1,
  b: 1,
  kb: 1e3,
  mb: 1e6,
  gb: 1e9,
  tb: 1e12,
  kib: 2 ** 10,
  mib: 2 ** 20,
  gib: 2 ** 30,
  tib: 2 ** 40,
};

/** A refusal of the value: what would have been right, and how to write it. */
type Refuse = (what: string, cure: string, received?: unknown) => UserError;

/**
 * @param raw a string, `true` for a flag without a value, a list, or any value of a recipe.
 * @returns the value in the type that `kind` stands for; null where the flag is nullable and the value says so.
 * @throws UserError
 */
export function coerce(name: string, spec: FlagSpec, raw: unknown, source: Source): unknown {
  const refuse: Refuse = (what, cure, received = raw) =>
    expected(what, nameAt(name, source), received, { ...placeOf(name, source), cure });
  if (isNull(spec, raw)) return null;
  if (raw === null) throw refuse(describeKind(spec), `Give ${example(name, spec)}, or leave it out.`);
  if (raw === true && spec.bare !== undefined) return spec.bare;
  if (typeof raw === 'string' && source.kind === 'flag' && /^--[a-z]/.test(raw)) {
    throw refuse('a value', `Write one after --${name}, such as ${example(name, spec)}.`);
  }
  return PARSERS[spec.kind](raw, spec, refuse, name);
}

function isNull(spec: FlagSpec, raw: unknown): boolean {
  if (spec.default !== null && !spec.nullable) return false;
  return raw === null || (typeof raw === 'string' && NULL.includes(raw.toLowerCase()));
}

type Parser = (raw: unknown, spec: FlagSpec, refuse: Refuse, name: string) => unknown;

const PARSERS: Readonly<Record<FlagKind, Parser>> = {
  string: (raw, spec, refuse, name) => {
    if (typeof raw === 'number') return String(raw);
    if (typeof raw !== 'string' || raw === '') throw refuse('a text', `Give ${example(name, spec)}.`);
    return raw;
  },
  boolean: (raw, spec, refuse, name) => {
    if (typeof raw === 'boolean' || spec.choices?.includes(raw as string)) return raw;
    const word = typeof raw === 'string' ? raw.toLowerCase() : raw === 1 || raw === 0 ? String(raw) : '';
    if (TRUE.includes(word)) return true;
    if (FALSE.includes(word)) return false;
    throw refuse(describeKind(spec), `Write --${name} true or --${name} false.`);
  },
  integer: number,
  number,
  bytes,
  choice: (raw, spec, refuse) => {
    const choices = spec.choices ?? [];
    if (choices.includes(raw as string)) return raw;
    if ((typeof raw === 'number' || typeof raw === 'boolean') && choices.includes(String(raw))) return String(raw);
    // YAML reads no as the word, but a person may mean the boolean: eval_strategy: false.
    if (raw === false && choices.includes('no')) return 'no';
    throw refuse(`one of ${choices.join(', ')}`, 'Choose one of them.');
  },
  strings: (raw, spec, refuse, name) => {
    const list = (Array.isArray(raw) ? raw : [raw]).map((item) => (typeof item === 'number' ? String(item) : item));
    if (list.length === 1 && list[0] === '') return [];
    if (list.some((item) => typeof item !== 'string' || item === '')) {
      throw refuse('a list of texts', `Give ${example(name, spec)}.`);
    }
    return list;
  },
  integers: numbers,
  numbers,
  options,
  modules: (raw, spec, refuse, name) => {
    const list = PARSERS.strings(raw, spec, refuse, name) as string[];
    if (list.length === 0) throw refuse('a pattern or names', `Give ${example(name, spec)}.`);
    // A single plain word would match nothing as a full-name pattern: it is meant as a name.
    const [first] = list;
    return list.length === 1 && first !== undefined && !/^[\w.]+$/.test(first) ? first : list;
  },
};

function number(raw: unknown, spec: FlagSpec, refuse: Refuse, name: string): number {
  const value = typeof raw === 'string' && raw.trim() !== '' ? Number(raw) : raw;
  const whole = spec.kind === 'integer' || spec.kind === 'integers';
  if (typeof value !== 'number' || !Number.isFinite(value) || (whole && !Number.isSafeInteger(value))) {
    throw refuse(describeKind(spec), `Give ${example(name, spec)}.`, raw);
  }
  if (!inRange(value, spec)) throw refuse(describeKind(spec), 'Give a value in that range.', value);
  return value;
}

function numbers(raw: unknown, spec: FlagSpec, refuse: Refuse, name: string): number[] {
  const words = (Array.isArray(raw) ? raw : [raw]).flatMap((item) =>
    typeof item === 'string' ? item.split(/[\s,]+/).filter((word) => word !== '') : [item],
  );
  if (words.length === 0) throw refuse(describeKind(spec), `Give ${example(name, spec)}.`);
  return words.map((word) => number(word, spec, refuse, name));
}

function bytes(raw: unknown, spec: FlagSpec, refuse: Refuse, name: string): number {
  const match = /^(\d+(?:\.\d+)?)\s*([a-z]*)$/.exec(String(raw).trim().toLowerCase());
  const unit = match === null ? undefined : UNITS[match[2]!];
  const value = match === null || unit === undefined ? Number.NaN : Math.round(Number(match[1]) * unit);
  if (!(value > 0))
    throw refuse(describeKind(spec), `Give ${example(name, spec)}; units are KB, MB, GB, KiB, MiB, GiB.`);
  return value;
}

/** A flat object of numbers and strings; on the command line as JSON. */
function options(raw: unknown, spec: FlagSpec, refuse: Refuse, name: string): Record<string, number | string> {
  const cure = `Give ${example(name, spec)}.`;
  let value = raw;
  if (typeof raw === 'string') {
    try {
      value = JSON.parse(raw);
    } catch {
      throw refuse('a JSON object', cure);
    }
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) throw refuse('a JSON object', cure);
  for (const item of Object.values(value)) {
    if (typeof item !== 'number' && typeof item !== 'string') throw refuse('an object of numbers and texts', cure);
  }
  return value as Record<string, number | string>;
}

function inRange(value: number, spec: FlagSpec): boolean {
  const { min = Number.NEGATIVE_INFINITY, above = Number.NEGATIVE_INFINITY, max = Number.POSITIVE_INFINITY } = spec;
  return value >= min && value > above && value <= max;
}

/** What a right value is, in words: "an integer of at least 1". */
function describeKind(spec: FlagSpec): string {
  const limits: string[] = [];
  if (spec.min !== undefined) limits.push(`of at least ${spec.min}`);
  if (spec.above !== undefined) limits.push(`above ${spec.above}`);
  if (spec.max !== undefined) limits.push(`of at most ${spec.max}`);
  const words: Record<FlagKind, string> = {
    string: 'a text',
    boolean: spec.choices ? `true, false or ${spec.choices.join(' or ')}` : 'true or false',
    integer: 'an integer',
    number: 'a number',
    choice: `one of ${(spec.choices ?? []).join(', ')}`,
    strings: 'a list of texts',
    integers: 'integers',
    numbers: 'numbers',
    bytes: 'a size in bytes',
    options: 'a JSON object',
    modules: 'a regular expression or a list of names',
  };
  return [words[spec.kind], limits.join(' and ')].filter((part) => part !== '').join(' ');
}

/** A command line that works: "--lora_r 64". */
function example(name: string, spec: FlagSpec): string {
  const samples: Record<FlagKind, string> = {
    string: (spec.placeholder ?? 'name').split('|')[0]!.replace('...', ''),
    boolean: 'true',
    integer: String(Math.max(spec.min ?? 0, 1)),
    number: String(spec.max === undefined ? 1 : Math.min(spec.max, 1) / 2),
    choice: spec.choices?.[0] ?? '',
    strings: (spec.placeholder ?? 'name').split('|')[0]!.replace('...', ''),
    integers: '0 1 2',
    numbers: '1 0.5',
    bytes: '12GB',
    options: `'{"num_cycles": 2}'`,
    modules: 'q_proj v_proj',
  };
  const usual = spec.default;
  const value = typeof usual === 'number' || typeof usual === 'string' ? String(usual) : samples[spec.kind];
  return `--${name} ${/[\\()|*]/.test(value) ? `'${value}'` : value}`;
}
