/** The fields of the form: texts to values of flags and back. What a value has to be is the server's to say. */
import type { Flag } from '@minicpm-finetune/run';

/** What a field holds: a text, which may be empty. Lists are one entry on a line, lists of numbers on one line. */
export type Fields = Readonly<Record<string, string>>;

/** How a flag is asked for. */
export type FieldKind = 'choice' | 'lines' | 'text';

export function fieldKind({ kind }: Pick<Flag, 'kind'>): FieldKind {
  if (kind === 'boolean' || kind === 'choice') return 'choice';
  return kind === 'strings' || kind === 'modules' ? 'lines' : 'text';
}

/** The words that a choice has. */
export function choicesOf({ kind, choices = [] }: Pick<Flag, 'kind' | 'choices'>): readonly string[] {
  return kind === 'boolean' ? ['true', 'false', ...choices] : choices;
}

/** A value as its field shows it. */
export function fieldText(value: unknown): string {
  if (value === null || value === undefined) return '';
  if (Array.isArray(value)) return value.join(value.every((one) => typeof one === 'number') ? ' ' : '\n');
  return typeof value === 'object' ? JSON.stringify(value) : String(value);
}

/** The values of fields that are not empty. */
export function valuesOf(fields: Fields, flags: readonly Pick<Flag, 'name' | 'kind'>[]): Record<string, unknown> {
  const values: Record<string, unknown> = {};
  for (const flag of flags) {
    const text = fields[flag.name]?.trim() ?? '';
    if (text === '') continue;
    const lines = text.split('\n').map((line) => line.trim());
    values[flag.name] = fieldKind(flag) === 'lines' ? lines.filter((line) => line !== '') : text;
  }
  return values;
}

/** The fields that show these values. */
export function fieldsOf(values: Readonly<Record<string, unknown>>): Record<string, string> {
  return Object.fromEntries(Object.entries(values).map(([name, value]) => [name, fieldText(value)]));
}

/** Whether a flag is found by words: of its name, or of its help. */
export function isFound({ name, help }: Pick<Flag, 'name' | 'help'>, search: string, language: 'en' | 'zh'): boolean {
  const text = `${name} ${help.en} ${help[language]}`.toLowerCase();
  return search
    .toLowerCase()
    .split(/\s+/)
    .every((word) => text.includes(word.replace(/^--/, '')));
}
