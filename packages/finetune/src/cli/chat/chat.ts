/**
 * Chat: one answer on standard output, or a conversation. Not here: the model (loadModel of minicpm-v), the flags
 * (flags.ts). Questions may be piped in, one per line.
 */
import { existsSync } from 'node:fs';
import { createInterface, type Interface } from 'node:readline';
import { type LoadedModel, PromptEncoder } from '@minicpm-finetune/minicpm-v';
import {
  type ChatMessage,
  measureImage,
  type Part,
  PILLOW_MAX_PIXELS,
  pictureFromText,
  requireCheckpoint,
} from '@minicpm-finetune/processor';
import { ENGLISH, expected, pathCure, type Say, shown, shownNames, UserError } from '@minicpm-finetune/run';
import { type DeviceName, explainingMemory, startEngine } from '../../engine/machine.js';
import { Progress, type TextStream } from '../../report/progress.js';
import type { Reporter } from '../../report/reporter.js';
import { loadForAnswers } from '../shared/load-model.js';
import { answerOptions, type ChatOptions } from './options.js';

export interface ChatIO {
  readonly stdin: NodeJS.ReadableStream & { readonly isTTY?: boolean };
  readonly stdout: TextStream;
  readonly stderr: TextStream;
  /** Messages in the language of the command line; English unless given. */
  readonly say?: Say;
}

const HELP = [
  'Write a question and press Enter. Also:',
  '  /image PATH   show a picture with the next question (any number of times)',
  '  /reset        forget the conversation and its pictures',
  '  /quit         end; Ctrl-D and Ctrl-C do, too (Ctrl-C during an answer ends the answer)',
].join('\n');

const LESS_MEMORY = 'Take --dtype bfloat16, a smaller --max_slice_nums or --max_new_tokens, or --device cpu.';

/**
 * Answers `options.prompt`, or every line of standard input until it ends.
 *
 * @throws UserError for a model, adapter or picture that cannot be used. In a conversation, a question that cannot be is refused alone.
 */
export async function chat(options: ChatOptions, io: ChatIO = process): Promise<void> {
  await checkQuestion(options);
  const device = startEngine(options);
  await explainingMemory(device, LESS_MEMORY, () => chatOn(device, options, io));
}

/** Reads what is known of the first question before the model is loaded: its pictures, and its text if it is given. */
async function checkQuestion(options: ChatOptions): Promise<void> {
  for (const image of options.images) await requireImage(image);
  requireCheckpoint(options.model, { flag: '--model', adapterFlag: '--adapter' });
  const encoder = PromptEncoder.open(options.model, options.adapters);
  await encoder.encode(firstQuestion(options, options.prompt ?? 'Any question?'), answerOptions(options));
}

async function chatOn(device: DeviceName, options: ChatOptions, io: ChatIO): Promise<void> {
  using progress = new Progress({ stream: io.stderr, say: io.say ?? ENGLISH });
  using model = await loadForAnswers(options, { device, reporter: progress });
  if (options.prompt === null) return await converse(model, options, io);
  for (const text of [options.prompt, options.system ?? '']) warnOfLost(text, progress);
  const question = firstQuestion(options, options.prompt);
  for await (const piece of model.chat(question, answerOptions(options))) io.stdout.write(piece);
  io.stdout.write('\n');
}

const firstQuestion = (options: ChatOptions, text: string): ChatMessage[] => [
  ...opening(options),
  { role: 'user', content: [...pictures(options.images), text] },
];

/** Bytes that are not UTF-8 reach a program's arguments as U+FFFD. */
function warnOfLost(text: string, reporter: Reporter): void {
  const at = text.indexOf('\uFFFD');
  if (at === -1) return;
  reporter.notice(
    `Character ${at + 1} of ${shown(text)} is the replacement character U+FFFD: what stood there was no UTF-8.`,
  );
}

async function requireImage(path: string): Promise<void> {
  const picture = pictureFromText(path);
  if (picture === undefined && !existsSync(path))
    throw expected('the path of a picture', '--image', path, {
      flag: '--image',
      cure: pathCure(path, 'No such file: check the path.'),
    });
  try {
    await measureImage(picture ?? path, { maxImagePixels: PILLOW_MAX_PIXELS });
  } catch (error) {
    if (!(error instanceof UserError)) throw error;
    throw error.at({ flag: '--image', ...(picture === undefined ? { file: path } : {}) });
  }
}

const pictures = (paths: readonly string[]): Part[] => paths.map((image) => ({ image }));

const opening = ({ system }: ChatOptions): ChatMessage[] =>
  system === null ? [] : [{ role: 'system', content: system }];

/** A conversation in the making. */
class Conversation {
  messages: ChatMessage[];
  /** Pictures for the next question. */
  waiting: string[];
  /** Ends the answer under way. */
  abort: AbortController | undefined;

  readonly model: LoadedModel;
  readonly options: ChatOptions;

  constructor(model: LoadedModel, options: ChatOptions) {
    this.model = model;
    this.options = options;
    this.messages = opening(options);
    this.waiting = [...options.images];
  }

  reset(): void {
    this.messages = opening(this.options);
    this.waiting = [];
  }

  /** Answers a question, piece by piece. A question that fails leaves the conversation as it was. */
  async *ask(question: string): AsyncGenerator<string> {
    const asked: ChatMessage[] = [...this.messages, { role: 'user', content: [...pictures(this.waiting), question] }];
    this.abort = new AbortController();
    try {
      let answer = '';
      const options = { ...answerOptions(this.options), signal: this.abort.signal };
      for await (const piece of this.model.chat(asked, options)) {
        answer += piece;
        yield piece;
      }
      this.messages = [...asked, { role: 'assistant', content: answer }];
      this.waiting = [];
    } finally {
      this.abort = undefined;
    }
  }
}

async function converse(model: LoadedModel, options: ChatOptions, io: ChatIO): Promise<void> {
  const conversation = new Conversation(model, options);
  const terminal = io.stdin.isTTY === true;
  const lines = createInterface({
    input: io.stdin,
    ...(terminal ? { output: process.stderr, terminal } : {}),
    prompt: '> ',
  });
  lines.on('SIGINT', () => {
    if (conversation.abort === undefined) lines.close();
    else conversation.abort.abort();
  });
  if (terminal) io.stderr.write(`${model.model.version.title}\n${(io.say ?? ENGLISH)(HELP)}\n`);
  try {
    await answerLines(lines, conversation, io, terminal);
  } finally {
    lines.close();
  }
}

async function answerLines(lines: Interface, conversation: Conversation, io: ChatIO, terminal: boolean): Promise<void> {
  if (terminal) lines.prompt();
  for await (const line of lines) {
    const text = line.trim();
    if (text === '/quit') return;
    if (text.startsWith('/')) io.stderr.write(`${(io.say ?? ENGLISH)(obey(text, conversation))}\n`);
    else if (text !== '') await answerLine(text, conversation, io);
    if (terminal) lines.prompt();
  }
}

/** Does what a line with a slash says, and says what was done. */
function obey(line: string, conversation: Conversation): string {
  const [word, ...rest] = line.split(/\s+/);
  const path = unquoted(line.slice(word!.length).trim());
  if (word === '/reset' && rest.length === 0) {
    conversation.reset();
    return 'Forgotten.';
  }
  if (word !== '/image') return word === '/help' ? HELP : `There is no ${shownNames([word!])}.\n${HELP}`;
  if (path === '') return '/image needs the path of a picture.';
  if (!existsSync(path)) return `There is no file ${shown(path)}. ${pathCure(path, '')}`.trim();
  conversation.waiting.push(path);
  return `${conversation.waiting.length === 1 ? 'One picture' : `${conversation.waiting.length} pictures`} for the next question.`;
}

/** A path as terminals paste it: quoted, or with escaped spaces. */
function unquoted(path: string): string {
  const quoted = /^(["'])(.*)\1$/.exec(path)?.[2];
  return quoted ?? path.replaceAll('\\ ', ' ');
}

async function answerLine(question: string, conversation: Conversation, io: ChatIO): Promise<void> {
  try {
    for await (const piece of conversation.ask(question)) io.stdout.write(piece);
    io.stdout.write('\n');
  } catch (error) {
    if (!(error instanceof UserError)) throw error;
    io.stderr.write(`${error.format(io.say)}\n`);
  }
}
