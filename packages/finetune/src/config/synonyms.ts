/** Flags that stand for another flag or its value. Also names of loggers. */
import { expected, nameAt, placeOf, UserError } from '@minicpm-finetune/run';
import type { Given } from './flags.js';

/** `--bf16` for `--dtype bfloat16`. `false` denies that value. */
const SYNONYMS: Readonly<Record<string, Readonly<Record<string, unknown>>>> = {
  dtype: { bf16: 'bfloat16', fp16: 'float16' },
  device: { use_cpu: 'cpu', no_cuda: 'cpu' },
};

/**
 * Turns synonyms into the flag they stand for. Flags outrank the recipe.
 *
 * @throws UserError for two answers of one rank.
 */
export function resolveSynonyms(given: Map<string, Given>): void {
  const renamed = given.get('evaluation_strategy');
  if (renamed !== undefined) answer(given, 'eval_strategy', [{ name: 'evaluation_strategy', ...renamed }]);
  for (const [target, words] of Object.entries(SYNONYMS)) {
    const answers: Answer[] = [];
    for (const [name, value] of Object.entries(words)) {
      const entry = given.get(name);
      if (entry !== undefined) answers.push({ name, source: entry.source, value, denied: entry.value === false });
    }
    answer(given, target, answers);
  }
}

interface Answer extends Given {
  name: string;
  /** The user said that it is not this value. */
  denied?: boolean;
}

function answer(given: Map<string, Given>, target: string, synonyms: readonly Answer[]): void {
  const own = given.get(target);
  const all: Answer[] = own === undefined ? [...synonyms] : [{ name: target, ...own }, ...synonyms];
  const flags = all.filter((entry) => entry.source.kind === 'flag');
  const rank = flags.some((entry) => !entry.denied) ? flags : all.filter((entry) => !deniedBy(flags, entry));
  const chosen = rank.find((entry) => !entry.denied);
  if (chosen === undefined) {
    given.delete(target);
    return;
  }
  const against = rank.find((entry) => (entry.value === chosen.value) === (entry.denied === true));
  if (against !== undefined) {
    const [first, second] = [chosen, against].map((entry) => {
      const shownValue = entry.name in (SYNONYMS[target] ?? {}) ? !entry.denied : entry.value;
      return `${nameAt(entry.name, entry.source)} ${String(shownValue)}`;
    });
    throw new UserError(`Expected one answer for ${target} but received ${first} and ${second}.`, {
      ...placeOf(against.name, against.source),
      cure: 'Leave one of them out.',
    });
  }
  given.set(target, { value: chosen.value, source: chosen.source });
}

/** Whether a flag denies what the recipe says. */
function deniedBy(flags: readonly Answer[], entry: Answer): boolean {
  return entry.source.kind !== 'flag' && flags.some((flag) => flag.denied && flag.value === entry.value);
}

/** Loggers of transformers that are accepted but not there. */
const OTHER_LOGGERS =
  'wandb mlflow comet_ml swanlab clearml neptune dvclive trackio azure_ml codecarbon dagshub flyte'.split(' ');

/**
 * Turns `--report_to` into the list of loggers there are.
 *
 * @returns notices about the others.
 * @throws UserError for a name that transformers does not know either.
 */
export function resolveReportTo(given: Map<string, Given>): string[] {
  const entry = given.get('report_to');
  if (entry === undefined) return [];
  const notices: string[] = [];
  const name = nameAt('report_to', entry.source);
  const reports = new Set<string>();
  for (const report of (entry.value as string[]).flatMap((word) => word.split(','))) {
    if (report === 'tensorboard' || report === 'all') reports.add('tensorboard');
    else if (OTHER_LOGGERS.includes(report)) {
      notices.push(
        `${name} ${report}: accepted, without effect: the log goes to events.jsonl, and to TensorBoard if asked.`,
      );
    } else if (report !== 'none') {
      const cure = 'The log is always in events.jsonl as well.';
      throw expected('tensorboard or none', name, report, { ...placeOf('report_to', entry.source), cure });
    }
  }
  given.set('report_to', { ...entry, value: [...reports] });
  return notices;
}
