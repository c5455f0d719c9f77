/**
 * The chat formats of the model family, as data. What surrounds each turn, which image placeholders belong to it, and
 * how its tokens are split. One table, no code per model. Where a checkpoint has a Jinja template of its own, the table
 * is checked against it, and the default system prompt is taken from it.
 */
import { type LlmType, shown, UserError } from '@minicpm-finetune/run';
import type { Tokenizer } from '../tokenizer.js';
import { renderChatTemplate } from './jinja.js';
import type { SliceSchema } from './placeholders.js';
import { readThinking, THINK_BLOCKS, type Thinking } from './thinking.js';

export type Role = 'system' | 'user' | 'assistant';

export interface ChatFormat {
  readonly llmType: LlmType;
  /** Text in front of a turn; null: there is no such turn. */
  readonly header: Readonly<Record<Role, string | null>>;
  /** Ends a turn; after an answer, the model has to produce it. */
  readonly end: string;
  /** Follows the end of a turn. */
  readonly afterEnd: string;
  /**
   * Whether `end` is part of the prompt when the conversation goes on. MiniCPM-V-2's is not: its model has to produce
   * `</s>` after each answer, but the next prompt shows the answer without it.
   */
  readonly endInHistory: boolean;
  /** Strip white space around each turn's text, as the template does. */
  readonly strip: boolean;
  /** Slices and images in the older or newer schema; the newer one numbers every image by its position. */
  readonly schema: SliceSchema;
  /**
   * Whether an answer's first token continues the header (SentencePiece puts no space in front of it). MiniCPM-V-2's
   * does not: its answers were trained as texts of their own.
   */
  readonly answerContinues: boolean;
  /** Whether answers may have thoughts in front. */
  readonly thinks: boolean;
  /** Whether pictures and frames have pads of their own; else `<unk>` stands for a token of either. */
  readonly pads: boolean;
  /** Special tokens without which the format cannot be written, beside those of images. */
  readonly tokens: readonly string[];
}

const chatMl = {
  header: { system: '<|im_start|>system\n', user: '<|im_start|>user\n', assistant: '<|im_start|>assistant\n' },
  end: '<|im_end|>',
  afterEnd: '\n',
  endInHistory: true,
  strip: false,
  schema: 'new',
  answerContinues: true,
  thinks: false,
  pads: false,
  tokens: ['<|im_start|>', '<|im_end|>'],
} as const;

export const CHAT_FORMATS: Readonly<Record<LlmType, ChatFormat>> = {
  qwen: { llmType: 'qwen', ...chatMl },
  llama: { llmType: 'llama', ...chatMl },
  qwen3: { ...chatMl, llmType: 'qwen3', thinks: true },
  qwen3_5: { ...chatMl, llmType: 'qwen3_5', strip: true, thinks: true, pads: true },
  llama3: {
    llmType: 'llama3',
    header: {
      system: '<|start_header_id|>system<|end_header_id|>\n\n',
      user: '<|start_header_id|>user<|end_header_id|>\n\n',
      assistant: '<|start_header_id|>assistant<|end_header_id|>\n\n',
    },
    end: '<|eot_id|>',
    afterEnd: '',
    endInHistory: true,
    strip: true,
    schema: 'old',
    answerContinues: true,
    thinks: false,
    pads: false,
    tokens: ['<|begin_of_text|>', '<|start_header_id|>', '<|end_header_id|>', '<|eot_id|>'],
  },
  minicpm: {
    llmType: 'minicpm',
    header: { system: null, user: '<用户>', assistant: '<AI>' },
    end: '</s>',
    afterEnd: '',
    endInHistory: false,
    strip: false,
    schema: 'old',
    answerContinues: false,
    thinks: false,
    pads: false,
    tokens: ['<s>', '</s>'],
  },
};

/** A chat format together with the tokenizer that it is written for. */
export interface ChatTemplate extends ChatFormat {
  readonly tokenizer: Tokenizer;
  /** Text in front of a conversation without a system turn. */
  readonly begin: string;
  /** Text in front of a conversation with one. */
  readonly beginWithSystem: string;
  /** null: the model does not think. */
  readonly thinking: Thinking | null;
  /** Stand for a token of a picture, and of a video's frame. */
  readonly imagePad: string;
  readonly videoPad: string;
}

/** What stands for a token of a picture and of a frame. */
function padsOf({ pads }: ChatFormat, { imagePad, videoPad, unkToken }: Tokenizer): [image: string, video: string] {
  return pads ? [imagePad ?? '<|image_pad|>', videoPad ?? '<|video_pad|>'] : [unkToken, unkToken];
}

/** @throws UserError for a tokenizer without the special tokens of a chat format */
export function requireTokens(llmType: LlmType, tokenizer: Tokenizer): void {
  const format = CHAT_FORMATS[llmType];
  const { imageStart, imageEnd, sliceStart, sliceEnd, imageIdStart, imageIdEnd } = tokenizer.imageTokens;
  const numbers = format.schema === 'new' ? [imageIdStart, imageIdEnd] : [];
  const marks = [imageStart, imageEnd, sliceStart, sliceEnd];
  tokenizer.requireSpecial([...marks, ...padsOf(format, tokenizer), ...format.tokens, ...numbers]);
}

function turn(format: ChatFormat, role: Role, text: string): string {
  return format.header[role] + text + format.end + format.afterEnd;
}

/** Compares the table with the checkpoint's template on small conversations; returns what the template begins with. */
function begins(format: ChatFormat, tokenizer: Tokenizer): { begin: string; beginWithSystem: string } {
  const bos = format.llmType === 'llama3' ? (tokenizer.bosToken ?? '') : '';
  if (tokenizer.chatTemplate === undefined || !format.endInHistory) return { begin: bos, beginWithSystem: bos };
  const conversation = [
    { role: 'user', content: 'question' },
    { role: 'assistant', content: 'answer' },
    { role: 'user', content: 'again' },
  ] as const;
  const { header, thinks } = format;
  const body = conversation.map(({ role, content }) => turn(format, role, content)).join('') + header.assistant;
  const find = (system: { role: 'system'; content: string }[]): string => {
    const rest = system.map(({ role, content }) => turn(format, role, content)).join('') + body;
    const text = renderChatTemplate(tokenizer, [...system, ...conversation], { add_generation_prompt: true });
    const at = thinks ? text.lastIndexOf(rest) : text.length - rest.length;
    if (at >= 0 && text.startsWith(rest, at)) return text.slice(0, at);
    throw new UserError(
      `Expected a chat template of --llm_type ${format.llmType}, ending in ${shown(rest)}, in the tokenizer of ${tokenizer.folder} but received ${shown(text)}.`,
      { flag: '--llm_type', cure: 'Give the --llm_type that belongs to the checkpoint.' },
    );
  };
  return { begin: find([]), beginWithSystem: find([{ role: 'system', content: 'instruction' }]) };
}

function thinkingOf({ header, end }: ChatFormat, tokenizer: Tokenizer): Thinking {
  return tokenizer.chatTemplate === undefined ? THINK_BLOCKS : readThinking(header.assistant!, end, tokenizer);
}

const bound = new WeakMap<Tokenizer, Map<LlmType, ChatTemplate>>();

/**
 * The chat template of a model type for a tokenizer.
 * @throws UserError when the tokenizer lacks special tokens or its own template says something else
 */
export function chatTemplate(llmType: LlmType, tokenizer: Tokenizer): ChatTemplate {
  let templates = bound.get(tokenizer);
  if (!templates) {
    templates = new Map();
    bound.set(tokenizer, templates);
  }
  let template = templates.get(llmType);
  if (!template) {
    const format = CHAT_FORMATS[llmType];
    requireTokens(llmType, tokenizer);
    const [imagePad, videoPad] = padsOf(format, tokenizer);
    const ends = begins(format, tokenizer);
    const thinking = format.thinks ? thinkingOf(format, tokenizer) : null;
    template = { ...format, tokenizer, ...ends, thinking, imagePad, videoPad };
    templates.set(llmType, template);
  }
  return template;
}
