/** Answers to fixed records. Which are wrong, which changed, in which order, and what another run said. */
import type { AnswerIndex, AnswerRecord, StepAnswers } from '../../../src/shared/api.js';

export type Answer = StepAnswers['answers'][number];

/** A record with its answer at a step and at the step before. */
export interface Row {
  readonly record: AnswerRecord;
  readonly answer: Answer | undefined;
  readonly before: Answer | undefined;
}

export type RowFilter = 'all' | 'wrong' | 'changed';

/** The rows of a step, one for each record. */
export function rowsOf(records: readonly AnswerRecord[], now?: StepAnswers, before?: StepAnswers): Row[] {
  const byRecord = (step?: StepAnswers): Map<number, Answer> =>
    new Map(step?.answers.map((answer) => [answer.record, answer]));
  const [answers, earlier] = [byRecord(now), byRecord(before)];
  return records.map((record) => ({ record, answer: answers.get(record.record), before: earlier.get(record.record) }));
}

/** Whether an answer is right; undefined: there is no reference to judge by. */
export function isRight(record: AnswerRecord, answer: Answer): boolean | undefined {
  const exact = answer.metrics.exact_match;
  if (exact !== undefined) return exact >= 1;
  return record.reference === null ? undefined : answer.answer.trim() === record.reference.trim();
}

/** How good an answer is, 0 to 1: the mean of its metrics. */
export function scoreOf(record: AnswerRecord, answer: Answer): number | undefined {
  const values = Object.values(answer.metrics);
  if (values.length > 0) return values.reduce((sum, value) => sum + value, 0) / values.length;
  const right = isRight(record, answer);
  return right === undefined ? undefined : Number(right);
}

/** The rows that a filter keeps; `worst` puts the lowest score first, rows without a score last. */
export function chooseRows(rows: readonly Row[], filter: RowFilter, worst: boolean): Row[] {
  const kept = rows.filter(({ record, answer, before }) => {
    if (filter === 'all') return true;
    if (answer === undefined) return false;
    if (filter === 'wrong') return isRight(record, answer) === false;
    return before !== undefined && before.answer !== answer.answer;
  });
  if (!worst) return kept;
  const score = ({ record, answer }: Row): number =>
    (answer === undefined ? undefined : scoreOf(record, answer)) ?? Number.POSITIVE_INFINITY;
  return kept.toSorted((a, b) => score(a) - score(b) || 0);
}

/** The step of another run that is nearest to one of this run; undefined: the other one has none. */
export function matchingStep(
  steps: AnswerIndex['steps'],
  wanted: { step: number; epoch: number | null },
  by: 'step' | 'epoch',
): number | undefined {
  const distance = (one: { step: number; epoch: number | null }): number =>
    by === 'step' || wanted.epoch === null || one.epoch === null
      ? Math.abs(one.step - wanted.step)
      : Math.abs(one.epoch - wanted.epoch);
  let best: AnswerIndex['steps'][number] | undefined;
  for (const one of steps) if (best === undefined || distance(one) < distance(best)) best = one;
  return best?.step;
}

/** The same record in another run: by its id, else by its question and pictures' place. */
export function sameRecord(records: readonly AnswerRecord[], wanted: AnswerRecord): AnswerRecord | undefined {
  if (wanted.id !== null) {
    const named = records.find(({ id }) => id === wanted.id);
    if (named !== undefined) return named;
  }
  return records.find(({ record, question }) => record === wanted.record && question === wanted.question);
}
