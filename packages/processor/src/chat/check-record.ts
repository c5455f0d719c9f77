/**
 * Checks of a record that need no encoding. Encoding begins with them, and the preflight of a run does them alone.
 */
import { UserError } from '@minicpm-finetune/run';
import type { RecordOptions } from '../sample.js';
import { type ChatMessage, checkMessages, recordMessages } from './messages.js';
import { imagesOf, type SeedRecord } from './record.js';
import { chatTemplate } from './templates.js';
import { checkCharacters, checkPictureNames } from './text.js';

export type CheckOptions = Pick<RecordOptions, 'llmType' | 'tokenizer' | 'compat' | 'allowSpecialText'>;

/**
 * Checks a record. The official code has its own rules of who speaks when, which are left to it.
 * @returns the conversation with its images in their places; empty for the official code
 * @throws UserError naming the turn, what was expected and received, and the cure
 */
export function checkRecord(record: SeedRecord, options: CheckOptions): ChatMessage[] {
  const { llmType, tokenizer, compat, allowSpecialText = false } = options;
  if (!allowSpecialText) checkPictureNames(record.conversations, imagesOf(record));
  if (compat === 'official') {
    for (const [turn, { content }] of record.conversations.entries()) checkCharacters(content, turn);
    checkOfficial(record);
    return [];
  }
  const messages = recordMessages(record);
  checkMessages(messages, chatTemplate(llmType, tokenizer), allowSpecialText);
  checkSupervised(record);
  return messages;
}

/** Checks that at least one answer is to be learned. */
function checkSupervised({ conversations }: SeedRecord): void {
  const answers = conversations.filter(({ role }) => role === 'assistant');
  if (answers.some(({ supervised }) => supervised !== false)) return;
  const all = answers.length === 1 ? 'its only answer is' : `all of its ${answers.length} answers are`;
  throw new UserError(`Expected at least one answer to learn in a record but ${all} marked as not to be learned.`, {
    cure: 'Remove the record, or the mark of the answer that is to be learned.',
  });
}

/** The official code learns every answer. */
function checkOfficial({ conversations }: SeedRecord): void {
  const turn = conversations.findIndex(({ role, supervised }) => role === 'assistant' && supervised === false);
  if (turn === -1) return;
  throw new UserError(
    'Expected no answer that is marked as not to be learned for --compat official but received one.',
    {
      turn,
      flag: '--compat',
      cure: 'The official code learns every answer. Leave out --compat official, or remove the record.',
    },
  );
}
