/**
 * Renders a checkpoint's own chat template. Equal to transformers' `apply_chat_template(tokenize=False)`. The templates
 * of `templates.ts` are checked against it; the official data set code renders conversations with it.
 */
import { Template } from '@huggingface/jinja';
import { UserError } from '@minicpm-finetune/run';
import type { Tokenizer } from '../tokenizer.js';

export interface PlainMessage {
  role: string;
  content: string;
  /** What an assistant thought before its answer. */
  reasoning_content?: string;
}

// Characters that Python strips and JavaScript does not, stand-ins that JavaScript strips, and the reverse.
const PYTHON_ONLY_SPACE = ['\x1c', '\x1d', '\x1e', '\x1f', '\x85'];
const JAVASCRIPT_SPACE = [
  ...'\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u2028\u2029\u202f\u205f',
];
const JAVASCRIPT_ONLY_SPACE = '\ufeff';
const NO_SPACE = [...'\ue000\ue001\ue002\ue003\ue004\ue005'];

/** Characters to put in for others while the template runs, so that its `trim` strips what Python's would. */
function standIns(text: string): Map<string, string> {
  const unused = (candidates: string[]): string[] => candidates.filter((c) => !text.includes(c));
  const spaces = unused(JAVASCRIPT_SPACE);
  const result = new Map<string, string>();
  for (const c of PYTHON_ONLY_SPACE) if (text.includes(c)) result.set(c, spaces.shift() ?? c);
  if (text.includes(JAVASCRIPT_ONLY_SPACE))
    result.set(JAVASCRIPT_ONLY_SPACE, unused(NO_SPACE)[0] ?? JAVASCRIPT_ONLY_SPACE);
  return result;
}

function substitute(text: string, table: Map<string, string>): string {
  return table.size === 0 ? text : [...text].map((c) => table.get(c) ?? c).join('');
}

/** @throws UserError when the checkpoint has no chat template or the template refuses the messages */
export function renderChatTemplate(
  tokenizer: Tokenizer,
  messages: readonly PlainMessage[],
  options: Record<string, unknown>,
): string {
  if (tokenizer.chatTemplate === undefined) {
    throw new UserError(`Expected a chat template in the tokenizer of ${tokenizer.folder} but it has none.`, {
      cure: 'Give the complete checkpoint, chat_template.jinja included, and its --llm_type.',
    });
  }
  const table = standIns(messages.map(({ content }) => content).join(''));
  const back = new Map([...table].map(([c, standIn]) => [standIn, c]));
  try {
    const text = new Template(tokenizer.chatTemplate).render({
      messages: messages.map((message) => ({ ...message, content: substitute(message.content, table) })),
      bos_token: tokenizer.bosToken ?? '',
      eos_token: tokenizer.eosToken ?? '',
      pad_token: tokenizer.padToken ?? '',
      unk_token: tokenizer.unkToken,
      ...options,
    });
    return substitute(text, back);
  } catch (cause) {
    const reason = (cause as Error).message;
    throw new UserError(
      `Expected messages that the chat template of ${tokenizer.folder} takes but it says: ${reason}.`,
      {
        cure: 'Check the roles and their order.',
        cause,
      },
    );
  }
}
