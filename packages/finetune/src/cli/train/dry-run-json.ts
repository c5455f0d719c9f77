/**
 * `--dry_run json`: what a dry run finds, as one JSON object. For programs that start trainings, such as the page; a mistake is part of the
 * answer, with its flag and its cure.
 */
import { type RunConfig, UserError, type UserErrorData } from '@minicpm-finetune/run';
import { stringify } from 'yaml';
import type { GivenValues } from '../../config/flags.js';
import { INPUT_FLAGS } from '../../config/input-flags.js';
import { readRecipe } from '../../config/recipe.js';
import { resolveGiven } from '../../config/resolve.js';
import { resolveSynonyms } from '../../config/synonyms.js';
import { TRAIN_FLAGS } from '../../config/train-flags.js';
import { Progress } from '../../report/progress.js';
import type { Line } from '../../train/estimate/estimate.js';
import type { CommandIO } from '../cli-command.js';
import { EXIT } from '../exit.js';
import { idleNotices, sizeOf, standingOf } from './launching.js';

/** Keys are those of the JSON. Sizes are bytes. */
interface DryRunJson {
  error: UserErrorData | null;
  /** Values as flags and recipe give them, by name: there, too, when something else is wrong. */
  given: Readonly<Record<string, unknown>>;
  /** The resolved configuration and the same as a recipe; null: refused. */
  config: RunConfig | null;
  recipe: string | null;
  /** What was given but means nothing, or less than it seems. */
  notices: string[];
  /** Numbers computed from others, and what was found, a line each. */
  lines: string[];
  /** The estimate for one device, and the memory that it has; null: not estimated. */
  memory: {
    device: string;
    bytes: number;
    /** Of it, free now and in all; null: not known. */
    free: number | null;
    total: number | null;
    by: readonly Line[];
    hostBytes: number;
    diskBytes: number;
    trainedNumbers: number;
    totalNumbers: number;
  } | null;
}

const OF_THE_COMMAND: readonly string[] = ['recipe', 'config', 'dry_run'];

const known = (bytes: number): number | null => (Number.isFinite(bytes) ? bytes : null);

/** The values of the recipe, and over them those of the flags; short forms such as bf16 as the flags that they stand for. */
function valuesOf(given: GivenValues): Record<string, unknown> {
  const recipe = given.get('recipe') ?? given.get('config');
  const flags = TRAIN_FLAGS.filter(({ name }) => !OF_THE_COMMAND.includes(name));
  const inRecipe = typeof recipe?.value === 'string' ? readRecipe(recipe.value, flags) : [];
  const all = new Map([...inRecipe, ...given].filter(([name]) => !OF_THE_COMMAND.includes(name)));
  resolveSynonyms(all);
  const own = [...all].filter(([name]) => name === 'deepspeed' || !(name in INPUT_FLAGS));
  return Object.fromEntries(own.map(([name, { value }]) => [name, value]));
}

/** Prints the object and returns the exit code. */
export async function dryRunJson(given: GivenValues, io: CommandIO): Promise<number> {
  const found: DryRunJson = {
    error: null,
    given: {},
    config: null,
    recipe: null,
    notices: [],
    lines: [],
    memory: null,
  };
  const reporter = new Progress({ mode: 'plain', stream: io.stderr, say: io.say });
  try {
    found.given = valuesOf(given);
    const standing = standingOf(given, io.env, resolveGiven(given).config);
    const worldSize = sizeOf(standing);
    const { config, notices, derived } = resolveGiven(given, { worldSize });
    found.notices.push(...notices, ...idleNotices(standing));
    const { dryRun } = await import('../../train/dry-run.js');
    const said = await dryRun(config, {
      worldSize,
      reporter: {
        notice: (message) => void found.notices.push(message),
        task: (label, total, unit) => reporter.task(label, total, unit),
      },
      onMemory: ({ estimate, device, room }) => {
        const { deviceBytes: bytes, device: by, hostBytes, diskBytes, trainedNumbers, totalNumbers } = estimate;
        const numbers = { bytes, by, hostBytes, diskBytes, trainedNumbers, totalNumbers };
        found.memory = { device, free: known(room.now), total: known(room.whole), ...numbers };
      },
    });
    found.lines.push(...derived, ...said);
    found.config = config;
    found.recipe = stringify(config);
  } catch (error) {
    if (!(error instanceof UserError)) throw error;
    found.error = error.toData();
  } finally {
    reporter.close();
  }
  io.stdout.write(`${JSON.stringify(found)}\n`);
  return found.error === null ? EXIT.ok : EXIT.usage;
}
