/**
 * Think blocks: what a model thinks before it answers. Where a checkpoint has a Jinja template, the text around thoughts
 * is read from it, so that training shows the model what inference does.
 */
import type { Tokenizer } from '../tokenizer.js';
import { type PlainMessage, renderChatTemplate } from './jinja.js';
import { strip } from './python.js';

/** The text around thoughts. */
export interface Thinking {
  /** In front of an answer without a thought, which a prompt ends with unless the model shall think. */
  readonly empty: string;
  /** What a prompt ends with when the model shall think. */
  readonly asked: string;
  /** In front of and after a thought. */
  readonly open: string;
  readonly close: string;
}

/** As published. Which of it a checkpoint has is read from its template. */
export const THINK_BLOCKS: Thinking = {
  empty: '<think>\n\n</think>\n\n',
  asked: '<think>\n',
  open: '<think>\n',
  close: '\n</think>\n\n',
};

const THOUGHT = 'idea';
const ANSWER = 'answer';

/** The text around thoughts in a checkpoint's own template; `header` begins an answer and `end` ends it. */
export function readThinking(header: string, end: string, tokenizer: Tokenizer): Thinking {
  const question: PlainMessage = { role: 'user', content: 'question' };
  const after = (text: string): string => text.slice(text.lastIndexOf(header) + header.length);
  const prompt = (enable_thinking: boolean): string =>
    after(renderChatTemplate(tokenizer, [question], { add_generation_prompt: true, enable_thinking }));
  const thought: PlainMessage = { role: 'assistant', content: ANSWER, reasoning_content: THOUGHT };
  const shown = after(renderChatTemplate(tokenizer, [question, thought], { add_generation_prompt: false }));
  const [open, rest] = shown.split(THOUGHT);
  const answer = rest?.indexOf(ANSWER + end) ?? -1;
  return {
    empty: prompt(false),
    asked: prompt(true),
    open: answer === -1 ? THINK_BLOCKS.open : open!,
    close: answer === -1 ? THINK_BLOCKS.close : rest!.slice(0, answer),
  };
}

/** A thought and the answer after it. */
export interface Thought {
  readonly thought: string;
  readonly answer: string;
}

/** Takes the thought out of an answer: what stands before `</think>`. */
export function splitThought(text: string): Thought {
  const end = text.lastIndexOf('</think>');
  if (end === -1) return { thought: '', answer: text };
  const before = text.slice(0, text.indexOf('</think>'));
  const thought = before.slice(before.lastIndexOf('<think>') + (before.includes('<think>') ? '<think>'.length : 0));
  return { thought: strip(thought), answer: text.slice(end + '</think>'.length).replace(/^\n+/, '') };
}
