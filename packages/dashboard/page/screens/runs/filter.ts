/** The filter of the list of runs: `lr>1e-5 r=64 digits`. Words are searched, conditions are compared; all have to hold. */
import type { RunSummary } from '../../../src/shared/api.js';

type Operator = '=' | '!=' | '<' | '<=' | '>' | '>=';

interface Condition {
  readonly name: string;
  readonly operator: Operator;
  readonly value: string;
}

export interface Filter {
  readonly words: readonly string[];
  readonly conditions: readonly Condition[];
  /** What looks like a condition and is none. */
  readonly mistakes: readonly string[];
}

/** Short names that people type, and what they stand for. */
const ALIASES: Readonly<Record<string, string>> = {
  lr: 'learning_rate',
  r: 'lora_r',
  rank: 'lora_r',
  alpha: 'lora_alpha',
  epochs: 'num_train_epochs',
  batch: 'per_device_train_batch_size',
};

/** Values of a run that are no flags. */
const FACTS: Readonly<Record<string, (run: RunSummary) => unknown>> = {
  state: (run) => run.state,
  name: (run) => run.name,
  model: (run) => run.model,
  method: (run) => run.method?.kind,
  lora_r: (run) => run.method?.r,
  preference: (run) => run.method?.preference,
  step: (run) => run.step,
  loss: (run) => run.loss,
  eval_loss: (run) => run.bestEvalLoss?.value,
  metric: (run) => run.bestMetric?.value,
  tokens: (run) => run.tokensPerSecond,
  memory: (run) => run.peakMemory,
  duration: (run) => run.durationSeconds,
  warnings: (run) => run.warnings,
  tag: (run) => run.notes.tags.join(' '),
  star: (run) => run.notes.star,
};

/** Reads what was typed. */
export function readFilter(text: string): Filter {
  const words: string[] = [];
  const conditions: Condition[] = [];
  const mistakes: string[] = [];
  for (const word of text.trim().split(/\s+/).filter(Boolean)) {
    const [, name, operator, value] = /^(?:--)?([\w/.]*)(!=|<=|>=|=|<|>)(.*)$/.exec(word) ?? [];
    if (operator === undefined) words.push(word.toLowerCase());
    else if (!name || !value) mistakes.push(word);
    else conditions.push({ name: ALIASES[name.toLowerCase()] ?? name, operator: operator as Operator, value });
  }
  return { words, conditions, mistakes };
}

/**
 * Whether a run passes.
 *
 * @param defaults of the flags, by name: a run lists only the flags that differ from them.
 */
export function passes(run: RunSummary, filter: Filter, defaults: Readonly<Record<string, unknown>>): boolean {
  const text = [run.name, run.model, run.folder, run.state, run.notes.note, ...run.notes.tags].join(' ').toLowerCase();
  return (
    filter.words.every((word) => text.includes(word)) &&
    filter.conditions.every(({ name, operator, value }) => {
      const fact = FACTS[name.toLowerCase()];
      return holds(fact ? fact(run) : (run.changed[name] ?? defaults[name]), operator, value);
    })
  );
}

function holds(actual: unknown, operator: Operator, wanted: string): boolean {
  if (actual === undefined || actual === null) return operator === '!=';
  const [left, right] = [typeof actual === 'number' ? actual : Number.NaN, Number(wanted)];
  const numbers = Number.isFinite(left) && Number.isFinite(right);
  switch (operator) {
    case '=':
      return numbers ? left === right : isLike(actual, wanted);
    case '!=':
      return numbers ? left !== right : !isLike(actual, wanted);
    case '<':
      return numbers && left < right;
    case '<=':
      return numbers && left <= right;
    case '>':
      return numbers && left > right;
    case '>=':
      return numbers && left >= right;
  }
}

/** Texts are like one that they hold; other values as they are written. */
function isLike(actual: unknown, wanted: string): boolean {
  const text = typeof actual === 'string' ? actual : JSON.stringify(actual);
  return typeof actual === 'boolean' ? text === wanted : text.toLowerCase().includes(wanted.toLowerCase());
}
