/**
 * Answers marked as not to be learned. As other tools write it: `weight` (OpenAI), `loss` and `loss_scale` (ms-swift),
 * `loss_mask`, `train`, `trainable`, `training` (axolotl). In a turn, or in the record for all turns or as a list of them.
 */
import { expected, shown, UserError } from '@minicpm-finetune/run';
import { isEmpty } from './empty.js';
import type { RecordPlace } from './record.js';

/** Each says 1 or true for learned, 0 or false for not. */
export const MARKS = ['weight', 'loss', 'loss_scale', 'loss_mask', 'train', 'trainable', 'training'] as const;

const IS_MARK: ReadonlySet<string> = new Set(MARKS);

/** Says "leave out" in some tools and "learn" in others. */
export const UNCERTAIN_MARK = 'mask';

const CURE = 'Write 0 or false for an answer that is not to be learned, 1 or true for one that is, or remove the key.';

type Keys = Readonly<Record<string, unknown>>;
type Place = RecordPlace & { turn?: number };

/**
 * For each turn as written, whether no mark says that it is not to be learned.
 * @throws UserError for a mark whose value is neither 0 nor 1, and for `mask`
 */
export function learnedTurns(record: Keys, turns: readonly Keys[], place: RecordPlace): boolean[] {
  const whole = marksOf(record, 'a record', place).map((key) => turnsOfRecord(record, key, turns.length, place));
  return turns.map((turn, index) => {
    const at = { ...place, turn: index };
    const own = marksOf(turn, 'a turn', at).map((key) => isLearned(key, turn[key], 'a turn', at));
    return whole.every((learned) => learned[index]) && own.every(Boolean);
  });
}

function marksOf(keys: Keys, where: string, place: Place): string[] {
  if (!isEmpty(keys[UNCERTAIN_MARK])) {
    throw new UserError(
      `Expected ${where} without the key ${UNCERTAIN_MARK} but received ${shown(keys[UNCERTAIN_MARK])}.`,
      {
        ...place,
        key: UNCERTAIN_MARK,
        cure: 'Tools do not agree on what mask says. Mark an answer that is not to be learned with "weight": 0.',
      },
    );
  }
  return Object.keys(keys).filter((key) => IS_MARK.has(key) && !isEmpty(keys[key]));
}

/** A mark of the record: one value for all turns, or one for each. */
function turnsOfRecord(record: Keys, key: string, turns: number, place: RecordPlace): boolean[] {
  const value = record[key];
  if (!Array.isArray(value)) {
    const learned = isLearned(key, value, 'a record', place);
    return Array.from({ length: turns }, () => learned);
  }
  if (value.length !== turns) {
    throw new UserError(
      `Expected one value for each of the ${turns} turns in the key ${key} of a record but received ${value.length}: ${shown(value)}.`,
      { ...place, key, cure: CURE },
    );
  }
  return value.map((one, turn) => isLearned(key, one, 'a record', { ...place, turn }));
}

function isLearned(key: string, value: unknown, where: string, place: Place): boolean {
  const number = typeof value === 'bigint' ? Number(value) : value;
  if (number === 1 || number === true) return true;
  if (number === 0 || number === false) return false;
  throw expected('0 or 1 (or false or true)', `the key ${key} of ${where}`, number, { ...place, key, cure: CURE });
}
