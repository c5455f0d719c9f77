/** How turns are written, and who speaks in them. With role and content, or with from and value. */
import { expected, shownNames, UserError } from '@minicpm-finetune/run';
import { present } from './empty.js';
import { isObject } from './images.js';
import type { RecordPlace, Turn } from './record.js';

export type TurnStyle = 'role' | 'from';

const STYLE_KEYS: Readonly<Record<TurnStyle, string>> = { role: 'role and content', from: 'from and value' };

/** The style that all turns have. Throws UserError for a turn without one, with both, or with another than the first. */
export function styleOfTurns(turns: readonly unknown[], place: RecordPlace, cure: string): TurnStyle {
  const styles = turns.map((turn, index) => turnStyle(turn, { ...place, turn: index }, cure));
  const other = styles.findIndex((style) => style !== styles[0]);
  if (other === -1) return styles[0]!;
  throw new UserError(
    `Expected ${STYLE_KEYS[styles[0]!]} for every turn as in turn 0 but received ${STYLE_KEYS[styles[other]!]}.`,
    { ...place, turn: other, cure: 'Write all turns of a record in one form.' },
  );
}

function turnStyle(turn: unknown, place: RecordPlace & { turn: number }, cure: string): TurnStyle {
  if (!isObject(turn)) throw expected('an object with role and content', 'a turn', turn, { ...place, cure });
  const role = present(turn.role) || present(turn.content);
  const from = present(turn.from) || present(turn.value);
  if (role && from) {
    throw new UserError(`Expected role and content, or from and value, for a turn but received ${keyNames(turn)}.`, {
      ...place,
      cure,
    });
  }
  if (role || from) return role ? 'role' : 'from';
  throw new UserError(`Expected role and content for a turn but received ${keyNames(turn)}.`, { ...place, cure });
}

/** The keys of a record or turn, for messages. */
export function keyNames(record: Readonly<Record<string, unknown>>): string {
  const names = Object.keys(record);
  return names.length === 0 ? 'an empty object' : `the keys ${shownNames(names)}`;
}

const ROLES: Readonly<Record<string, Turn['role']>> = {
  system: 'system',
  user: 'user',
  human: 'user',
  assistant: 'assistant',
  gpt: 'assistant',
};
/** Names of other tools that may mean something else: proposed, not taken. */
const PROBABLY: Readonly<Record<string, Turn['role']>> = {
  ...ROLES,
  bot: 'assistant',
  model: 'assistant',
  ai: 'assistant',
  chatgpt: 'assistant',
};

function likely(name: unknown): string | undefined {
  const lower = typeof name === 'string' ? name.trim().toLowerCase() : '';
  return Object.hasOwn(PROBABLY, lower) ? `Rename ${JSON.stringify(name)} to "${PROBABLY[lower]}".` : undefined;
}

/** Who speaks in turn `index`. Throws UserError for a name that is not known and for a late system turn. */
export function turnRole(
  turn: Readonly<Record<string, unknown>>,
  index: number,
  style: TurnStyle,
  place: RecordPlace,
): Turn['role'] {
  const value = turn[style];
  const role = typeof value === 'string' && Object.hasOwn(ROLES, value) ? ROLES[value] : undefined;
  if (role === undefined) {
    const names = style === 'from' ? 'human or gpt (or system first)' : 'user or assistant (or system first)';
    throw expected(names, `the key ${style} of a turn`, value, {
      ...place,
      turn: index,
      cure: likely(value) ?? 'Rename the role, or put what it says into a user turn.',
    });
  }
  if (role === 'system' && index > 0) {
    throw expected('user or assistant', `the key ${style} of a turn after the first`, value, {
      ...place,
      turn: index,
      cure: 'Move the system turn to the front of the conversation.',
    });
  }
  return role;
}
