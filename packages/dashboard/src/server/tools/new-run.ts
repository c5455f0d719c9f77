/**
 * The form of a new run. Its values as a command line and a recipe, what is wrong with them, and what a dry run says. Values are checked by the
 * rules of the command line (`coerce`), their combinations by the command line itself.
 */
import { mkdtempSync, rmSync, statfsSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import {
  CONFIG_FLAGS,
  CONFIG_GROUPS,
  CONFIG_HEADINGS,
  coerce,
  type Flag,
  flagsOf,
  idleReason,
  type Say,
  UserError,
  type UserErrorData,
} from '@minicpm-finetune/run';
import type {
  CheckedValues,
  DryRunAnswer,
  EstimateAnswer,
  FieldError,
  FlagsTable,
  FlagValues,
  RecipeAnswer,
} from '../../shared/api.js';
import { flagWords, shellText } from '../process/command-words.js';
import { errorOfText, fieldError } from '../say.js';
import { type CommandOptions, type Ended, startCommand } from './child.js';

const FLAGS = flagsOf(CONFIG_FLAGS);
const BY_NAME: ReadonlyMap<string, Flag> = new Map(FLAGS.map((flag) => [flag.name, flag]));

/** The groups of a configuration, in the order of `train --help`. */
export const FLAGS_TABLE: FlagsTable = {
  groups: CONFIG_GROUPS.map((name) => ({ name, heading: CONFIG_HEADINGS[name] })),
  flags: FLAGS,
};

/** A field that is empty is not given. */
const isGiven = (value: unknown): boolean =>
  value !== undefined && value !== '' && !(Array.isArray(value) && value.length === 0);

/** Values that differ from their defaults, in the types of their flags, and what is wrong with the others. */
export function coerced(values: FlagValues, say: Say): { values: Record<string, unknown>; mistakes: FieldError[] } {
  const good: Record<string, unknown> = {};
  const mistakes: FieldError[] = [];
  for (const [name, raw] of Object.entries(values)) {
    const flag = BY_NAME.get(name);
    if (flag === undefined || !isGiven(raw)) {
      if (isGiven(raw)) good[name] = raw; // the command line says whether there is such a flag
      continue;
    }
    try {
      const value = coerce(name, flag, raw, { kind: 'flag' });
      if (JSON.stringify(value) !== JSON.stringify(flag.default)) good[name] = value;
    } catch (error) {
      if (!(error instanceof UserError)) throw error;
      mistakes.push(fieldError(error.toData(), say));
    }
  }
  return { values: good, mistakes };
}

/** The order of the table of flags, so that the same values have the same command line. */
function inOrder(values: FlagValues): Record<string, unknown> {
  const place = (name: string): number => (FLAGS.findIndex((flag) => flag.name === name) + 1000) % 1000;
  return Object.fromEntries(Object.entries(values).sort(([a], [b]) => place(a) - place(b)));
}

/** The words of `train` for the values of a form. @throws ApiError naming a flag that there is not */
function trainWords(values: FlagValues): string[] {
  return ['train', ...flagWords(inOrder(values))];
}

/** What a form says live: nothing is started. */
export function checkValues(given: FlagValues, say: Say): CheckedValues {
  const { values, mistakes } = coerced(given, say);
  const missing = FLAGS.filter(({ name, required }) => required && !isGiven(given[name])).map(({ name }) => name);
  const all = new Map(FLAGS.map(({ name, default: usual }) => [name, name in values ? values[name] : usual]));
  const idle = Object.keys(values).flatMap((name) => {
    const reason = idleReason(BY_NAME.get(name) ?? { kind: 'string', help: { en: '', zh: '' } }, all);
    return reason === undefined ? [] : [{ name, reason: say(reason) }];
  });
  return {
    command: shellText(['minicpm-finetune', ...trainWords(values)]),
    recipe: recipeText(values),
    changed: Object.keys(values),
    mistakes,
    missing,
    idle,
  };
}

/** A plain word that YAML reads as text. */
const PLAIN = /^(?!(?:true|false|null|yes|no|on|off|y|n|~)$)[A-Za-z_./][\w./+-]*$/i;

/** A flat recipe. JSON is YAML, so only plain words are written without quotes. */
export function recipeText(values: FlagValues): string {
  const text = (value: unknown): string =>
    typeof value === 'string' && PLAIN.test(value) ? value : JSON.stringify(value);
  return Object.entries(inOrder(values))
    .map(([name, value]) => `${name}: ${text(value)}\n`)
    .join('');
}

interface DryRunJson {
  readonly error: UserErrorData | null;
  readonly given: FlagValues;
  readonly notices: readonly string[];
  readonly lines: readonly string[];
  readonly recipe: string | null;
  readonly memory: DryRunAnswer['memory'];
}

/** The JSON that a command printed; a mistake that it printed instead. */
function jsonOf<T>({ stdout, stderr }: Ended, say: Say): T | { readonly mistake: FieldError } {
  if (stdout.startsWith('{')) return JSON.parse(stdout) as T;
  return { mistake: errorOfText(stderr, say) };
}

const NOTHING_FOUND = { notices: [], lines: [], recipe: null, memory: null, disk: null };

/** `train --dry_run json` of the values. */
export async function dryRun(given: FlagValues, options: CommandOptions, say: Say): Promise<DryRunAnswer> {
  const { values, mistakes } = coerced(given, say);
  const [first] = mistakes;
  if (first !== undefined) return { ...NOTHING_FOUND, error: first };
  const { ended } = startCommand([...trainWords(values), '--dry_run=json'], { ...options, quiet: true });
  const json = jsonOf<DryRunJson>(await ended, say);
  if ('mistake' in json) return { ...NOTHING_FOUND, error: json.mistake };
  return {
    error: json.error === null ? null : fieldError(json.error, say),
    notices: json.notices.map((notice) => say(notice)),
    lines: json.lines.map((line) => say(line)),
    recipe: json.recipe,
    memory: json.memory,
    disk: diskOf(values.output_dir, options.cwd),
  };
}

/** The disk of a folder that may not be there yet. */
function diskOf(folder: unknown, cwd: string): DryRunAnswer['disk'] {
  if (typeof folder !== 'string') return null;
  const path = resolve(cwd, folder);
  for (let at = path; ; at = dirname(at)) {
    try {
      const { bavail, bsize } = statfsSync(at);
      return { folder: path, free: bavail * bsize };
    } catch {
      if (dirname(at) === at) return null;
    }
  }
}

interface FitJson {
  readonly device: string;
  readonly found: readonly {
    readonly fitted: { readonly changes: FlagValues; readonly estimate: { readonly deviceBytes: number } } | null;
  }[];
}

/** `estimate --fit`: the cheapest settings that fit into `room` bytes of one device. */
export async function estimateFit(
  given: FlagValues,
  room: number,
  options: CommandOptions,
  say: Say,
): Promise<EstimateAnswer> {
  const nothing = { device: null, room, bytes: null, changes: {} };
  const { values, mistakes } = coerced(given, say);
  const [first] = mistakes;
  if (first !== undefined) return { ...nothing, error: first };
  const words = ['estimate', ...trainWords(values).slice(1), '--world=1', `--fit=${room}`, '--json=true'];
  const json = jsonOf<FitJson>(await startCommand(words, { ...options, quiet: true }).ended, say);
  if ('mistake' in json) return { ...nothing, error: json.mistake };
  const fitted = json.found[0]?.fitted ?? null;
  return {
    error: null,
    device: json.device,
    room,
    bytes: fitted?.estimate.deviceBytes ?? null,
    changes: fitted?.changes ?? {},
  };
}

/** Values of a recipe's text, read by the command line. Of it, only what the recipe says is asked for: data and model may be missing. */
export async function readRecipe(text: string, options: CommandOptions, say: Say): Promise<RecipeAnswer> {
  const folder = mkdtempSync(join(tmpdir(), 'minicpm-finetune-recipe-'));
  try {
    const file = join(folder, 'recipe.yaml');
    writeFileSync(file, text, { mode: 0o600 });
    const words = ['train', `--recipe=${file}`, '--dry_run=json'];
    const json = jsonOf<DryRunJson>(await startCommand(words, options).ended, say);
    if ('mistake' in json) return { error: json.mistake, values: {}, left: [] };
    const ofRecipe = json.error?.file === file;
    if (ofRecipe) return { error: fieldError({ ...json.error, file: 'recipe' }, say), values: {}, left: [] };
    const entries = Object.entries(json.given);
    const inForm = entries.filter(([name]) => BY_NAME.has(name));
    const left = entries.flatMap(([name]) => (BY_NAME.has(name) ? [] : [name]));
    return { error: null, values: inOrder(Object.fromEntries(inForm)), left };
  } finally {
    rmSync(folder, { recursive: true });
  }
}
