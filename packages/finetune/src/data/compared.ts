/**
 * Records of preference tuning, as other tools write them. Made records with one conversation each. The keys of a record
 * decide (turns may have role and content, or from and value):
 *
 *     {conversations | messages, rejected: text | turns, rejected_image?}                      ours: the last answer is the chosen one
 *     {prompt, chosen, rejected}, {chosen: turns, rejected: turns}                              TRL
 *     {messages, rejected_response | rejected_messages, rejected_images?}                       ms-swift
 *     {conversations, chosen: turn, rejected: turn}, {instruction, input, chosen, rejected}     LLaMA-Factory
 *     {question, chosen, rejected, image}                                                       RLAIF-V, RLHF-V
 *     {prompt, completion, label}, {messages | conversations, label}, {conversations, kto_tag}  answers called good or bad
 *
 * Not here: what a conversation may say (forms.ts reads what comes out of here like every other record).
 */
import { expected, shown, UserError } from '@minicpm-finetune/run';
import { isEmpty, present } from './empty.js';
import { isObject } from './images.js';
import type { RecordPlace } from './record.js';

type Keys = Readonly<Record<string, unknown>>;

/** A record of preference tuning as two records, each with a whole conversation, or as one that is called good or bad. */
export interface Compared {
  readonly chosen: Keys;
  /** Null: an answer called good or bad. */
  readonly rejected: Keys | null;
  /** The key that makes it one: for messages. */
  readonly key: string;
  readonly label?: boolean;
}

/** Keys that other records have, too, and that mean this only beside others. */
const PROMPTS = ['prompt', 'question', 'instruction'] as const;
const REJECTED = ['rejected', 'rejected_response', 'rejected_messages', 'rejected_images', 'rejected_image'] as const;
const OWN = [...PROMPTS, ...REJECTED, 'chosen', 'completion', 'label', 'kto_tag', 'input'] as const;

/** Names of columns that a record of preference tuning may have. */
export const COMPARED_KEYS: readonly string[] = OWN;

const TURNS = ['messages', 'conversations'] as const;

/** Whether keys are those of a record without messages or conversations of its own. */
export function bringsTurns(names: readonly string[]): boolean {
  return names.includes('chosen') || (names.includes('prompt') && names.includes('completion'));
}

/** A record of preference tuning taken apart; null: it is none. @throws UserError */
export function comparedOf(raw: unknown, place: RecordPlace): Compared | null {
  if (!isObject(raw)) return null;
  const rejectedKeys = REJECTED.filter((key) => !isEmpty(raw[key]));
  if (!isEmpty(raw.chosen) || rejectedKeys.length > 0) return pairOf(raw, place);
  if (present(raw.kto_tag)) return labelled(raw, 'kto_tag', place);
  const brings = PROMPTS.some((key) => present(raw[key])) && present(raw.completion);
  const hasTurns = TURNS.some((key) => present(raw[key]));
  if (hasTurns ? typeof raw.label === 'boolean' : brings && present(raw.label)) return labelled(raw, 'label', place);
  return null;
}

/** The keys of a record that are no part of what is compared. */
function restOf(raw: Keys): Record<string, unknown> {
  const own: readonly string[] = [...OWN, ...TURNS];
  return Object.fromEntries(Object.entries(raw).filter(([key]) => !own.includes(key)));
}

function labelled(raw: Keys, key: 'label' | 'kto_tag', place: RecordPlace): Compared {
  const label = raw[key];
  if (typeof label !== 'boolean')
    throw expected('true or false', `the key ${key} of a record`, label, {
      ...place,
      key,
      cure: 'Write true for an answer that is good, false for one that is bad.',
    });
  const own = ownTurns(raw);
  const chosen =
    own === null
      ? conversation(raw, promptTurns(raw, place), answerTurns(raw.completion, 'completion', place))
      : { ...restOf(raw), [own.key]: own.turns };
  return { chosen, rejected: null, key, label };
}

function pairOf(raw: Keys, place: RecordPlace): Compared {
  const key = REJECTED.find((name) => present(raw[name])) ?? 'chosen';
  const own = ownTurns(raw);
  if (present(raw.chosen)) {
    if (!present(raw.rejected)) throw lacks('rejected', 'chosen', place);
    const [chosen, rejected] = (['chosen', 'rejected'] as const).map((name) => answerTurns(raw[name], name, place));
    const prompt = own === null ? promptTurns(raw, place) : own.turns;
    const first = conversation(raw, prompt, chosen!, own?.key);
    return { key, chosen: first, rejected: withOther(raw, conversation(raw, prompt, rejected!, own?.key)) };
  }
  if (own === null) throw lacks('chosen', key, place);
  const chosen = { ...restOf(raw), [own.key]: own.turns };
  if (present(raw.rejected_messages)) {
    const turns = answerTurns(raw.rejected_messages, 'rejected_messages', place);
    return { key, chosen, rejected: withOther(raw, { ...restOf(raw), [own.key]: turns }) };
  }
  const answer = raw.rejected ?? raw.rejected_response;
  if (!present(answer)) return { key, chosen, rejected: withOther(raw, chosen) };
  const rejected = answerTurns(answer, present(raw.rejected) ? 'rejected' : 'rejected_response', place);
  const prompt = own.turns.slice(0, lastQuestion(own.turns));
  return { key, chosen, rejected: withOther(raw, conversation(raw, prompt, rejected, own.key)) };
}

const lacks = (missing: string, there: string, place: RecordPlace): UserError =>
  new UserError(`Expected the key ${missing} beside ${there} of a record but received none.`, {
    ...place,
    key: missing,
    cure: 'Write both answers, or remove the record.',
  });

/** The turns of a record under its own key; null: it has none. */
function ownTurns(raw: Keys): { key: (typeof TURNS)[number]; turns: readonly unknown[] } | null {
  const key = TURNS.find((name) => Array.isArray(raw[name]) && raw[name].length > 0);
  return key === undefined ? null : { key, turns: raw[key] as unknown[] };
}

/** How many turns come before the last answers: the other answer follows them. */
function lastQuestion(turns: readonly unknown[]): number {
  const answers = (turn: unknown): boolean =>
    isObject(turn) && (turn.role === 'assistant' || turn.from === 'gpt' || turn.from === 'assistant');
  let end = turns.length;
  while (end > 0 && answers(turns[end - 1])) end--;
  return end;
}

/** The turns that both answers follow: of a prompt, a question, or an instruction with its input; none where the answers bring them. */
function promptTurns(raw: Keys, place: RecordPlace): readonly unknown[] {
  const key = PROMPTS.find((name) => present(raw[name]));
  if (key === undefined) return [];
  const prompt = raw[key];
  if (Array.isArray(prompt)) return prompt;
  if (typeof prompt !== 'string')
    throw expected('text or a list of turns', `the key ${key} of a record`, prompt, { ...place, key });
  const input = key === 'instruction' && typeof raw.input === 'string' && raw.input !== '' ? `\n${raw.input}` : '';
  return [{ role: 'user', content: prompt + input }];
}

/** An answer as turns: written as text, as one turn, or as turns. */
function answerTurns(value: unknown, key: string, place: RecordPlace): readonly unknown[] {
  const cure = 'Write the answer as text, or as a turn of the assistant.';
  if (Array.isArray(value) && value.length > 0) return value;
  if (isObject(value)) return [value];
  if (typeof value === 'string' && value.trim() !== '') return [{ role: 'assistant', content: value }];
  throw expected('an answer', `the key ${key} of a record`, value, { ...place, key, cure });
}

/** A record of prompt and answer in one style of turns. */
function conversation(
  raw: Keys,
  prompt: readonly unknown[],
  answer: readonly unknown[],
  given?: (typeof TURNS)[number],
): Record<string, unknown> {
  const turns = [...prompt, ...answer];
  const from = turns.some((turn) => isObject(turn) && present(turn.from));
  const alike = from ? turns.map(withFrom) : turns;
  const parts = turns.some((turn) => isObject(turn) && Array.isArray(turn.content));
  const key = from ? 'conversations' : parts ? 'messages' : (given ?? 'conversations');
  return { ...restOf(raw), [key]: alike };
}

/** A turn with from and value, as those beside it. */
function withFrom(turn: unknown): unknown {
  if (!isObject(turn) || present(turn.from)) return turn;
  return { from: turn.role === 'assistant' ? 'gpt' : turn.role, value: turn.content };
}

/** The rejected record, with its own pictures where it has some. */
function withOther(raw: Keys, rejected: Keys): Keys {
  const other = [raw.rejected_images, raw.rejected_image].find((value) => !isEmpty(value));
  if (other === undefined) return rejected;
  const { image: _, images: __, ...rest } = rejected;
  return { ...rest, [Array.isArray(other) ? 'images' : 'image']: other };
}

/** The error for two answers that are the same, or of which one is empty. */
export function answersProblem(
  [chosen, rejected]: readonly [string, string],
  differs: boolean,
  place: RecordPlace,
): UserError | null {
  const cure = 'Remove the record: nothing can be learned from it.';
  if (!differs)
    return new UserError(
      `Expected two different answers in a record but chosen and rejected are the same: ${shown(chosen)}.`,
      { ...place, cure },
    );
  if (chosen.trim() === '')
    return new UserError(`Expected text for the chosen answer of a record but received ${shown(chosen)}.`, {
      ...place,
      cure,
    });
  if (rejected.trim() !== '') return null;
  return new UserError(`Expected text for the rejected answer of a record but received ${shown(rejected)}.`, {
    ...place,
    cure,
  });
}
