/** How tokens are written: what cannot be seen gets a sign. */
import type { FeaturesView, TokenView } from '../../../src/shared/api.js';

export type Entry = TokenView | FeaturesView;

export const isFeatures = (entry: Entry): entry is FeaturesView => 'features' in entry;

const SIGNS: Readonly<Record<string, string>> = { '\n': '↵\n', '\t': '⇥', '\r': '␍', '\u00a0': '⍽', '\u3000': '□' };

/** The text of a token with signs for what cannot be seen. A token that is part of a character has no text of its own. */
export function shownText(text: string): string {
  if (text === '') return '▫';
  return text.replace(/[\n\t\r\u00a0\u3000]/g, (character) => SIGNS[character]!).replace(/^ | $/g, '␣');
}

/** The entry whose token is the label of entry `at`: the next one, unless something else is learned in its place. */
export function labelledEntry(entries: readonly Entry[], at: number): number | null {
  const entry = entries[at];
  const next = entries[at + 1];
  if (entry === undefined || isFeatures(entry) || entry.label === null || next === undefined) return null;
  return !isFeatures(next) && next.supervised ? at + 1 : null;
}

/** The neighbour of entry `at` in a direction, within the list. */
export function moved(at: number, key: string, count: number): number | null {
  const steps: Readonly<Record<string, number>> = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: 10, ArrowUp: -10 };
  if (key === 'Home') return 0;
  if (key === 'End') return count - 1;
  const step = steps[key];
  return step === undefined ? null : Math.min(count - 1, Math.max(0, at + step));
}
