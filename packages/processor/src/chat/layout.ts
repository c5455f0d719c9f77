/**
 * The text of a conversation in segments. Each is one that the model has to produce, or not.
 *
 * Supervised is what the model has to produce: each answer and its end token, once, and a thought before it. The header's
 * newline is prompt, and so is an empty think block, with which a prompt ends. An answer that is not to be learned is
 * prompt, too, with the ids that it has as history at inference.
 */
import type { ThinkingMode } from '@minicpm-finetune/run';
import type { ChatMessage, Part } from './messages.js';
import { type Grid, imagePlaceholder, videoPlaceholder } from './placeholders.js';
import { strip, stripEnd, stripStart } from './python.js';
import type { ChatTemplate } from './templates.js';
import { splitThought } from './thinking.js';

/** 'training': answers are supervised. 'prompt': the header of the next answer ends it. 'continue': the last turn is left open, to be gone on with. */
export type Purpose = 'training' | 'prompt' | 'continue';

/** An image or a video as the text has it. */
export interface Medium {
  readonly kind: 'image' | 'video';
  /** How an image is sliced; how each frame (or group of frames) of a video is. */
  readonly grids: readonly Grid[];
  /** Tokens of each picture: overview, then slices; frame after frame. */
  readonly counts: readonly number[];
}

export interface LayoutOptions {
  readonly purpose: Purpose;
  /**
   * For 'training'. inference: as the model's template has them, in answers after the last question only; an empty block is prompt.
   * every_turn: in every answer, an empty block is learned, as ms-swift does. as_written: only those that are written in the data, as
   * LLaMA-Factory does.
   */
  readonly thinking: ThinkingMode;
  /** For 'prompt': whether the model shall think. */
  readonly enableThinking: boolean;
  /** Whether images are numbered, where the schema can. */
  readonly imageIds: boolean;
  readonly videos: { readonly numbered: boolean; readonly separator: string };
}

/** A stretch of text tokenized at once. */
export interface Segment {
  text: string;
  /** The model has to produce it. */
  supervised: boolean;
  /** Special tokens in it are plain text. */
  plain: boolean;
  /** After the last token the model has to produce the end token, which is not shown. */
  endsUnseen: boolean;
}

/** Lays out a conversation; `media` are its images and videos in order of appearance. */
export function layOut(
  template: ChatTemplate,
  messages: readonly ChatMessage[],
  media: readonly Medium[],
  options: LayoutOptions,
): Segment[] {
  const layout = new Layout(template, media, options);
  const lastQuestion = messages.findLastIndex(({ role }) => role === 'user');
  layout.begin(messages[0]?.role === 'system');
  for (const [i, message] of messages.entries()) {
    const place = { last: i === messages.length - 1, history: i < lastQuestion };
    if (message.role === 'assistant' && template.thinking) layout.thinkingAnswer(message, place);
    else layout.turn(message, place);
  }
  if (options.purpose === 'prompt') layout.promptEnd();
  return layout.segments;
}

interface Place {
  /** The last turn. */
  readonly last: boolean;
  /** Before the last question. */
  readonly history: boolean;
}

class Layout {
  readonly segments: Segment[] = [];
  readonly #template: ChatTemplate;
  readonly #media: readonly Medium[];
  readonly #options: LayoutOptions;
  readonly #shown = { image: 0, video: 0 };

  constructor(template: ChatTemplate, media: readonly Medium[], options: LayoutOptions) {
    this.#template = template;
    this.#media = media;
    this.#options = options;
  }

  begin(withSystem: boolean): void {
    this.#add(withSystem ? this.#template.beginWithSystem : this.#template.begin, false);
  }

  turn(message: ChatMessage, place: Place): void {
    const supervised = this.#isSupervised(message);
    this.#add(this.#template.header[message.role]!, false);
    const written = typeof message.content === 'string' ? [message.content] : message.content;
    for (const [j, part] of (this.#template.strip ? stripEnds(written) : written).entries()) {
      if (j > 0) this.#add('\n', supervised);
      if (typeof part === 'string') this.#addText(part, supervised);
      else this.#add(this.#placeholder(), supervised);
    }
    this.#end(supervised, place);
  }

  /** An answer of a model that thinks. A thought in front of it is learned; an empty block is prompt. */
  thinkingAnswer(message: ChatMessage, place: Place): void {
    const { purpose, thinking } = this.#options;
    const { open, close } = this.#template.thinking!;
    const supervised = this.#isSupervised(message);
    const content = textOf(message);
    const begun = purpose === 'continue' && place.last && message.thought === undefined;
    const asWritten = begun ? content.includes('<think>') : thinking === 'as_written' && message.thought === undefined;
    const split = message.thought === undefined ? splitThought(content) : { thought: message.thought, answer: content };
    const { thought, answer } = asWritten ? { thought: '', answer: content } : split;
    this.#add(this.#template.header.assistant!, false);
    const shows = thinking === 'inference' ? !place.history : thinking === 'every_turn' || thought !== '';
    if (shows && !asWritten && strip(thought) !== '') {
      this.#add(open, supervised);
      this.#addText(strip(thought), supervised);
      this.#add(close, supervised);
    } else if (shows && !asWritten) {
      this.#add(this.#template.thinking!.empty, supervised && thinking === 'every_turn');
    }
    this.#addText(this.#template.strip ? strip(answer) : answer, supervised);
    this.#end(supervised, place);
  }

  promptEnd(): void {
    const { header, thinking } = this.#template;
    this.#add(header.assistant!, false);
    if (thinking) this.#add(this.#options.enableThinking ? thinking.asked : thinking.empty, false);
  }

  #isSupervised({ role, supervised = true }: ChatMessage): boolean {
    return this.#options.purpose === 'training' && role === 'assistant' && supervised;
  }

  #end(supervised: boolean, { last }: Place): void {
    const { endInHistory, end, afterEnd } = this.#template;
    if (this.#options.purpose === 'continue' && last) return;
    if (endInHistory) {
      this.#add(end, supervised);
      this.#add(afterEnd, false);
    } else if (supervised && last) {
      this.#add(end, true);
    } else if (supervised) {
      this.segments.at(-1)!.endsUnseen = true;
    }
  }

  /** The placeholder of the next image or video. */
  #placeholder(): string {
    const { schema, imagePad, videoPad, tokenizer } = this.#template;
    const { imageIds, videos } = this.#options;
    const { kind, grids } = this.#media[this.#shown.image + this.#shown.video]!;
    const number = this.#shown[kind]++;
    const numbered = schema === 'new' && imageIds;
    const common = { schema, marks: tokenizer.imageTokens };
    if (kind === 'image') {
      const imageId = numbered ? number : undefined;
      return imagePlaceholder({ ...common, features: imagePad, grid: grids[0]!, imageId });
    }
    const videoId = numbered && videos.numbered ? number : undefined;
    return videoPlaceholder({ ...common, features: videoPad, grids, separator: videos.separator, videoId });
  }

  #addText(text: string, supervised: boolean): void {
    this.#add(text, supervised, this.#template.tokenizer.findStructure(text) !== undefined);
  }

  #add(text: string, supervised: boolean, plain = false): void {
    const last = this.segments.at(-1);
    if (text === '') return;
    if (last && last.supervised === supervised && !last.plain && !plain && !last.endsUnseen) last.text += text;
    else this.segments.push({ text, supervised, plain, endsUnseen: false });
  }
}

/** The text of an answer, which has no images. */
function textOf({ content }: ChatMessage): string {
  return typeof content === 'string' ? content : content.filter((part) => typeof part === 'string').join('\n');
}

/** The parts of a turn with white space stripped at both of its ends. */
function stripEnds(parts: readonly Part[]): Part[] {
  const kept = [...parts];
  while (typeof kept[0] === 'string') {
    kept[0] = stripStart(kept[0]);
    if (kept[0] !== '') break;
    kept.shift();
  }
  while (typeof kept.at(-1) === 'string') {
    kept.push(stripEnd(kept.pop() as string));
    if (kept.at(-1) !== '') break;
    kept.pop();
  }
  return kept;
}
