/**
 * Checks of a record that need no encoding. Encoding begins with them, and the preflight of a run does them alone.
 */
import { shown, UserError } from '@minicpm-finetune/run';
import type { RecordOptions } from '../sample.js';
import { type ChatMessage, checkMessages, recordMessages } from './messages.js';
import { imagesOf, type SeedRecord, videosOf } from './record.js';
import { type ChatTemplate, chatTemplate } from './templates.js';
import { checkCharacters, checkPictureNames, checkVideoTags } from './text.js';

export type CheckOptions = Pick<RecordOptions, 'llmType' | 'tokenizer' | 'compat' | 'allowSpecialText'>;

/**
 * Checks a record. The official code has its own rules of who speaks when, which are left to it.
 * @returns the conversation with its images in their places; empty for the official code
 * @throws UserError naming the turn, what was expected and received, and the cure
 */
export function checkRecord(record: SeedRecord, options: CheckOptions): ChatMessage[] {
  const { llmType, tokenizer, compat, allowSpecialText = false } = options;
  if (!allowSpecialText) {
    checkPictureNames(record.conversations, imagesOf(record));
    if (videosOf(record).length === 0) checkVideoTags(record.conversations);
  }
  if (compat === 'official') {
    for (const [turn, { content }] of record.conversations.entries()) checkCharacters(content, turn);
    checkOfficial(record);
    return [];
  }
  checkThoughts(record, chatTemplate(llmType, tokenizer));
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

/** A thought beside an answer is for models that think. */
function checkThoughts({ conversations }: SeedRecord, { thinking, llmType }: ChatTemplate): void {
  const turn = thinking ? -1 : conversations.findIndex(({ thought }) => thought !== undefined);
  if (turn === -1) return;
  throw new UserError(
    `Expected no thought before an answer for --llm_type ${llmType}, whose models do not think, but received ${shown(conversations[turn]!.thought)}.`,
    {
      turn,
      cure: 'Write the thought into the answer itself, in the form in which the model shall say it, or remove it.',
    },
  );
}

/** The official code learns every answer. */
function checkOfficial(record: SeedRecord): void {
  const { conversations } = record;
  const hasThought = conversations.some(({ thought }) => thought !== undefined);
  if (hasThought || videosOf(record).length > 0) {
    const other = hasThought ? 'a thought' : 'a video';
    throw new UserError(`Expected text, pictures and answers alone for --compat official but received ${other}.`, {
      flag: '--compat',
      cure: 'Leave out --compat official, or remove the record.',
    });
  }
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
