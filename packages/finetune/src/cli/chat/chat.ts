/**
 * Chat: one answer on standard output, or a conversation. Not here: the model (loadModel of minicpm-v), the flags
 * (flags.ts). Questions may be piped in, one per line.
 */
import { existsSync } from 'node:fs';
import { createInterface, type Interface } from 'node:readline';
import { type LoadedModel, PromptEncoder } from '@minicpm-finetune/minicpm-v';
import {
  type ChatMessage,
  encodePrompt,
  measureImage,
  type Part,
  PILLOW_MAX_PIXELS,
  pictureFromText,
  requireCheckpoint,
} from '@minicpm-finetune/processor';
import { ENGLISH, expected, pathCure, type Say, shown, shownNames, UserError } from '@minicpm-finetune/run';
import { idleVideoFlags, videoFlags } from '../../data/video-flags.js';
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
  '  /video PATH   show a video, a file or a folder of frames, likewise',
  '  /reset        forget the conversation, its pictures and videos',
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

/** Reads what is known of the first question before the model is loaded: its pictures and videos, and its text if it is given. */
async function checkQuestion(options: ChatOptions): Promise<void> {
  for (const image of options.images) await requireImage(image);
  for (const video of options.videos) requireVideo(video);
  requireCheckpoint(options.model, { flag: '--model', adapterFlag: '--adapter' });
  const encoder = PromptEncoder.open(options.model, options.adapters);
  await checkVideos(options, encoder);
  await encoder.encode(firstQuestion(options, options.prompt ?? 'Any question?'), answerOptions(options));
}

async function chatOn(device: DeviceName, options: ChatOptions, io: ChatIO): Promise<void> {
  using progress = new Progress({ stream: io.stderr, say: io.say ?? ENGLISH });
  using model = await loadForAnswers(options, { device, reporter: progress });
  const idle = idleVideoFlags(videoFlags(options.video), model.config.version);
  for (const line of idle) progress.notice(line);
  if (options.prompt === null) return await converse(model, options, io);
  for (const text of [options.prompt, options.system ?? '']) warnOfLost(text, progress);
  const question = firstQuestion(options, options.prompt);
  for await (const piece of model.chat(question, answerOptions(options))) io.stdout.write(piece);
  io.stdout.write('\n');
}

const firstQuestion = (options: ChatOptions, text: string): ChatMessage[] => [
  ...opening(options),
  { role: 'user', content: [...media(options.images, options.videos), text] },
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

function requireVideo(path: string): void {
  if (existsSync(path)) return;
  throw expected('the path of a video', '--video', path, {
    flag: '--video',
    cure: pathCure(path, 'No such file or folder: check the path.'),
  });
}

/** Asks each video for its size and frames. What is wrong with one is said of its file. */
async function checkVideos(options: ChatOptions, encoder: PromptEncoder): Promise<void> {
  const reading = encoder.promptOptions(answerOptions(options));
  for (const video of options.videos) {
    try {
      await encodePrompt([{ role: 'user', content: [{ video }] }], { ...reading, pixels: 'header' });
    } catch (error) {
      if (!(error instanceof UserError)) throw error;
      const { turn: _, ...details } = error.details();
      throw new UserError(error.message, { ...details, flag: '--video', cause: error });
    }
  }
}

const media = (images: readonly string[], videos: readonly string[]): Part[] => [
  ...images.map((image) => ({ image })),
  ...videos.map((video) => ({ video })),
];

const opening = ({ system }: ChatOptions): ChatMessage[] =>
  system === null ? [] : [{ role: 'system', content: system }];

/** A conversation in the making. */
class Conversation {
  messages: ChatMessage[];
  /** Pictures and videos for the next question. */
  waiting: Part[];
  /** Ends the answer under way. */
  abort: AbortController | undefined;

  readonly model: LoadedModel;
  readonly options: ChatOptions;

  constructor(model: LoadedModel, options: ChatOptions) {
    this.model = model;
    this.options = options;
    this.messages = opening(options);
    this.waiting = media(options.images, options.videos);
  }

  reset(): void {
    this.messages = opening(this.options);
    this.waiting = [];
  }

  /** Answers a question, piece by piece. A question that fails leaves the conversation as it was. */
  async *ask(question: string): AsyncGenerator<string> {
    const asked: ChatMessage[] = [...this.messages, { role: 'user', content: [...this.waiting, question] }];
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
  if (word !== '/image' && word !== '/video')
    return word === '/help' ? HELP : `There is no ${shownNames([word!])}.\n${HELP}`;
  if (path === '')
    return word === '/image' ? '/image needs the path of a picture.' : '/video needs the path of a video.';
  if (!existsSync(path)) return `There is no file ${shown(path)}. ${pathCure(path, '')}`.trim();
  const { waiting } = conversation;
  waiting.push(word === '/image' ? { image: path } : { video: path });
  const images = waiting.filter((part) => typeof part !== 'string' && 'image' in part).length;
  const videos = waiting.length - images;
  return word === '/image'
    ? `${images === 1 ? 'One picture' : `${images} pictures`} for the next question.`
    : `${videos === 1 ? 'One video' : `${videos} videos`} for the next question.`;
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
