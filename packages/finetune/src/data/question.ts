/** The question in a record, and the line of its answer. */

import type { Answer } from '@minicpm-finetune/minicpm-v';
import { type ChatMessage, recordMessages } from '@minicpm-finetune/processor';
import type { DataRecord } from './record.js';

/** The question of a record. */
export interface Question {
  readonly messages: readonly ChatMessage[];
  /** The last user turn as written. */
  readonly text: string;
  /** The record's last assistant turn. */
  readonly reference: string | null;
}

/** The question of a record: everything before its last assistant turn. */
export function questionOf(record: DataRecord): Question {
  const turns = record.conversations;
  const last = turns.at(-1);
  const reference = last?.role === 'assistant' ? last.content : null;
  const whole = reference === null ? [...turns, { role: 'assistant', content: '' } as const] : turns;
  const messages = recordMessages({ image: record.image, conversations: whole }).slice(0, -1);
  const text = whole.at(-2)?.content ?? '';
  return { messages, text, reference };
}

/** Indices of `count` records spread evenly over `length`: the same in every evaluation. */
export function fixedRecords(length: number, count: number): number[] {
  const some = Math.min(length, count);
  return Array.from({ length: some }, (_, i) => Math.floor((i * length) / some));
}

/** A line of the output. */
export interface AnswerLine {
  /** Index of the record in the whole data. */
  readonly record: number;
  readonly id?: string;
  readonly question: string;
  /** The record's own answer, if it has one. */
  readonly reference?: string;
  readonly answer: string;
  readonly tokens: number;
  readonly end: Answer['end'];
}
