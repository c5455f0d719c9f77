/**
 * Conversation to ids and labels by the official code. The official data set code (see `official.ts`) tokenizes the
 * whole text, then searches the ids for roles, answers and images. Faithful, not good; `segments.ts` is the way of this
 * project.
 */
import { expected, type LlmType, UserError } from '@minicpm-finetune/run';
import type { EncodedSample, Range } from '../sample.js';
import { IMAGE_TOKENS, type Tokenizer } from '../tokenizer.js';
import { renderChatTemplate } from './jinja.js';
import { pythonString, strip } from './python.js';
import { IGNORED } from './segments.js';

/** Which of the two copies of the code. */
export type OfficialVariant = 'cookbook' | 'openbmb';

/** An unchecked turn. */
export interface RawMessage {
  role?: unknown;
  content?: unknown;
}

export interface OfficialIdsOptions {
  tokenizer: Tokenizer;
  llmType: LlmType;
  maxLength: number;
  variant: OfficialVariant;
}

interface Masked {
  ids: number[];
  /** true: the token is in the loss. */
  inLoss: boolean[];
}

/** Positions of an id. */
function positions(ids: readonly number[], id: number): number[] {
  return ids.flatMap((value, i) => (value === id ? [i] : []));
}

/** As transformers: an unknown token has the id of the unknown token. */
function idOrUnknown(tokenizer: Tokenizer, token: string): number {
  return tokenizer.tokenId(token) ?? tokenizer.requireId(tokenizer.unkToken);
}

/** Marks from `start` to the first end token that lies strictly after it. */
function markAnswer(inLoss: boolean[], start: number, ends: readonly number[]): void {
  const end = ends.find((position) => position > start);
  if (end !== undefined) inLoss.fill(true, start, end + 1);
}

function userOrAssistant({ role, content }: RawMessage, turn: number): { role: string; content: string } {
  if (role !== 'user' && role !== 'assistant')
    throw expected('user or assistant', 'the role of a turn', role, { turn });
  if (typeof content !== 'string') throw expected('text', 'the content of a turn', content, { turn });
  return { role, content };
}

/** Header and text of each turn by themselves, each without its first id (`<s>`); the last turn ends in `</s>`. */
async function minicpm(conversation: readonly RawMessage[], { tokenizer }: OfficialIdsOptions): Promise<Masked> {
  const ids: number[] = [];
  const inLoss: boolean[] = [];
  for (const [turn, message] of conversation.entries()) {
    const { role, content } = userOrAssistant(message, turn);
    const text = turn === conversation.length - 1 ? content + (tokenizer.eosToken ?? '') : content;
    for (const [piece, loss] of [
      [role === 'user' ? '<用户>' : '<AI>', false],
      [text, role === 'assistant'],
    ] as const) {
      const encoded = (await tokenizer.encode(piece, { addSpecialTokens: true })).slice(1);
      ids.push(...encoded);
      for (const _ of encoded) inLoss.push(loss);
    }
  }
  return { ids, inLoss };
}

/** The official Llama 3 template's text of a turn. It takes any role, and prints contents that are not text. */
function llama3Turn({ role, content }: RawMessage, turn: number): string {
  if (typeof role !== 'string') throw expected('text', 'the role of a turn', role, { turn });
  const text = content === undefined ? '' : strip(pythonString(content));
  return `<|start_header_id|>${role}<|end_header_id|>\n\n${text}<|eot_id|>`;
}

/** Sums of two lists of positions, which a list of one stretches to; otherwise lists of different lengths are an error. */
function pairSums(a: readonly number[], b: readonly number[]): number[] {
  const length = a.length === 1 ? b.length : a.length;
  if (b.length !== length && b.length !== 1) {
    throw new UserError(
      `Expected as many <|start_header_id|> as <|end_header_id|> but received ${a.length} and ${b.length}.`,
      {
        cure: 'Take these tokens out of the text.',
      },
    );
  }
  return Array.from({ length }, (_, i) => a[a.length === 1 ? 0 : i]! + b[b.length === 1 ? 0 : i]!);
}

async function llama3(conversation: readonly RawMessage[], { tokenizer }: OfficialIdsOptions): Promise<Masked> {
  const text = (tokenizer.bosToken ?? '') + conversation.map(llama3Turn).join('');
  const ids = await tokenizer.encode(text);
  const find = (token: string): number[] => positions(ids, idOrUnknown(tokenizer, token));
  // The middle between a start and an end mark is where the role is.
  const middles = new Set(pairSums(find('<|start_header_id|>'), find('<|end_header_id|>')).map((sum) => sum / 2));
  const ends = find('<|eot_id|>');
  const inLoss = ids.map(() => false);
  for (const role of find('assistant')) if (middles.has(role)) markAnswer(inLoss, role + 3, ends);
  return { ids, inLoss };
}

async function qwen(conversation: readonly RawMessage[], { tokenizer, variant }: OfficialIdsOptions): Promise<Masked> {
  const chat = conversation.map(userOrAssistant);
  if (!chat.some(({ role }) => role === 'assistant')) {
    throw new UserError('Expected a turn of the assistant but received none.', { cure: 'Add the answer.' });
  }
  const openbmb = variant === 'openbmb';
  const last = chat.at(-1)!.content;
  const thinking = openbmb ? { enable_thinking: last.includes('<think>') && last.includes('</think>') } : {};
  const text = renderChatTemplate(tokenizer, chat, { add_generation_prompt: false, ...thinking });
  const ids = await tokenizer.encode(text);
  const find = (token: string): number[] => positions(ids, idOrUnknown(tokenizer, token));
  const starts = new Set(find('<|im_start|>'));
  const ends = find('<|im_end|>');
  const roles = find('assistant');
  const emptyThought = openbmb && text.includes('<think>\n\n</think>\n\n') ? 4 : 0;
  const inLoss = ids.map(() => false);
  for (const [i, role] of roles.entries()) {
    const skipped = openbmb ? 2 + (i === roles.length - 1 ? emptyThought : 0) : 1;
    if (starts.has(role - 1)) markAnswer(inLoss, role + skipped, ends);
  }
  return { ids, inLoss };
}

const BRANCHES: Readonly<Partial<Record<LlmType, typeof qwen>>> = { qwen, llama3, minicpm, llama: minicpm };

/** Labels, already shifted; where a stretch in the loss ends, its last one is overwritten by an end token. */
function shiftedLabels({ ids, inLoss }: Masked, endId: number): number[] {
  return ids.map((_, i) => {
    if (i + 1 >= ids.length) return IGNORED;
    if (inLoss[i + 1]) return ids[i + 1]!;
    return inLoss[i] ? endId : IGNORED;
  });
}

function findBounds(ids: readonly number[], { tokenizer, llmType }: OfficialIdsOptions): Range[] {
  const { imageStart, imageEnd, sliceStart, sliceEnd } = IMAGE_TOKENS;
  const withSlices = llmType === 'qwen';
  const startIds = [imageStart, ...(withSlices ? [sliceStart] : [])].map((token) => tokenizer.requireId(token));
  const endIds = [imageEnd, ...(withSlices ? [sliceEnd] : [])].map((token) => tokenizer.requireId(token));
  const starts = ids.flatMap((id, i) => (startIds.includes(id) ? [i + 1] : []));
  const ends = ids.flatMap((id, i) => (endIds.includes(id) ? [i] : []));
  if (starts.length !== ends.length) {
    throw new UserError(
      `Expected as many image starts as image ends but received ${starts.length} and ${ends.length}.`,
      {
        cure: 'An image was cut at the maximal length, or the text holds a stray mark.',
      },
    );
  }
  return starts.map((start, i) => [start, ends[i]!]);
}

/** @throws UserError where the official code raises */
export async function conversationToIds(
  conversation: readonly RawMessage[],
  options: OfficialIdsOptions,
): Promise<Omit<EncodedSample, 'pictures'>> {
  const { tokenizer, llmType, maxLength } = options;
  const branch = BRANCHES[llmType];
  if (branch === undefined)
    throw new UserError(
      `Expected one of ${Object.keys(BRANCHES).join(', ')} for --compat official but received ${llmType}.`,
      {
        flag: '--compat',
        cure: 'Leave --compat out: the official scripts do not train this model.',
      },
    );
  const whole = await branch(conversation, options);
  const cut = { ids: whole.ids.slice(0, maxLength), inLoss: whole.inLoss.slice(0, maxLength) };
  if (!cut.inLoss.includes(true)) {
    throw new UserError(`Expected tokens to learn among the first ${maxLength} but received none.`, {
      cure: 'Raise --model_max_length, or add an answer.',
    });
  }
  const endId = tokenizer.requireId(llmType === 'llama3' ? '<|eot_id|>' : (tokenizer.eosToken ?? '</s>'));
  return {
    inputIds: Int32Array.from(cut.ids),
    labels: Int32Array.from(shiftedLabels(cut, endId)),
    imageBounds: findBounds(cut.ids, options),
  };
}
