/**
 * Conversation to ids, labels and bounds, as at inference. The text is laid out in segments that know whether the model
 * has to produce them; neighbours of the same kind are tokenized together, so that a prompt gets exactly the ids it has
 * at inference, and an answer the ids that follow such a prompt. Where images are is recorded while the ids are made,
 * never searched for afterwards.
 *
 * Supervised is what the model has to produce: each answer and its end token, once. The header's newline is prompt.
 * An answer that is not to be learned is prompt, too, with the ids that it has as history at inference.
 */
import type { Range } from '../sample.js';
import { IMAGE_TOKENS } from '../tokenizer.js';
import type { ChatMessage, Part } from './messages.js';
import { imagePlaceholder } from './placeholders.js';
import { stripEnd, stripStart } from './python.js';
import type { ChatTemplate } from './templates.js';

/** 'training': answers are supervised. 'prompt': the header of the next answer ends it. 'continue': the last turn is left open, to be gone on with. */
export type Purpose = 'training' | 'prompt' | 'continue';

/** Columns and rows of an image's slices, or null. */
export type Grid = [columns: number, rows: number] | null;

/** A stretch of text tokenized at once. */
interface Segment {
  text: string;
  /** The model has to produce it. */
  supervised: boolean;
  /** Special tokens in it are plain text. */
  plain: boolean;
  /** After the last token the model has to produce the end token, which is not shown. */
  endsUnseen: boolean;
}

export interface EncodedText {
  inputIds: number[];
  /** labels[i] is the id at i + 1 where that is supervised, else -100. */
  labels: number[];
  /** One per picture: the features between its marks. */
  imageBounds: Range[];
  /** One per image: everything that stands for it, slices and marks included. */
  imageSpans: Range[];
}

export const IGNORED = -100;

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

/** Lays out a conversation. `grids` says how each image is sliced, in order of appearance. */
function layOut(
  template: ChatTemplate,
  messages: readonly ChatMessage[],
  grids: readonly Grid[],
  purpose: Purpose,
): Segment[] {
  const { tokenizer, schema } = template;
  const segments: Segment[] = [];
  const add = (text: string, supervised: boolean, plain = false): void => {
    const last = segments.at(-1);
    if (text === '') return;
    if (last && last.supervised === supervised && !last.plain && !plain && !last.endsUnseen) last.text += text;
    else segments.push({ text, supervised, plain, endsUnseen: false });
  };
  let image = 0;
  add(messages[0]?.role === 'system' ? template.beginWithSystem : template.begin, false);
  for (const [i, { role, content, supervised: learned = true }] of messages.entries()) {
    const supervised = purpose === 'training' && role === 'assistant' && learned;
    add(template.header[role]!, false);
    const written = typeof content === 'string' ? [content] : content;
    for (const [j, part] of (template.strip ? stripEnds(written) : written).entries()) {
      if (j > 0) add('\n', supervised);
      if (typeof part === 'string') {
        add(part, supervised, tokenizer.findStructure(part) !== undefined);
      } else {
        const imageId = schema === 'new' ? image : undefined;
        add(imagePlaceholder({ schema, grid: grids[image]!, features: tokenizer.unkToken, imageId }), supervised);
        image++;
      }
    }
    if (purpose === 'continue' && i === messages.length - 1) break;
    if (template.endInHistory) {
      add(template.end, supervised);
      add(template.afterEnd, false);
    } else if (supervised && i === messages.length - 1) {
      add(template.end, true);
    } else if (supervised) {
      segments.at(-1)!.endsUnseen = true;
    }
  }
  if (purpose === 'prompt') add(template.header.assistant!, false);
  return segments;
}

/** How a segment's text continues the text before it. */
function encodeSegment(template: ChatTemplate, segments: readonly Segment[], i: number): Promise<number[]> {
  const { tokenizer, answerContinues } = template;
  const { text, plain, supervised } = segments[i]!;
  const before = segments[i - 1];
  const follows = before !== undefined && (before.plain || !tokenizer.endsInSpecial(before.text));
  const startsAnswer = supervised && before?.supervised === false;
  const continuation = follows && (answerContinues || !startsAnswer);
  return tokenizer.encode(text, { addSpecialTokens: i === 0, plain, continuation });
}

/** Ranges of whole images, from those of their pictures. */
function findSpans(
  template: ChatTemplate,
  ids: readonly number[],
  bounds: readonly Range[],
  grids: readonly Grid[],
): Range[] {
  const imageIdStart = template.schema === 'new' ? template.tokenizer.requireId(IMAGE_TOKENS.imageIdStart) : undefined;
  let picture = 0;
  return grids.map((grid) => {
    let start = bounds[picture]![0] - 1;
    while (imageIdStart !== undefined && ids[start] !== imageIdStart) start--;
    picture += grid ? 1 + grid[0] * grid[1] : 1;
    const closingMark = grid && template.schema === 'old' ? 1 : 0;
    return [start, bounds[picture - 1]![1] + 1 + closingMark];
  });
}

/**
 * Encodes a conversation.
 * @param grids - columns and rows of each image in order of appearance, or null where it is not sliced
 * @param queryNum - features per picture
 * @param purpose - 'prompt' ends in the header of the answer to come and supervises nothing
 */
export async function encodeMessages(
  template: ChatTemplate,
  messages: readonly ChatMessage[],
  grids: readonly Grid[],
  queryNum: number,
  purpose: Purpose,
): Promise<EncodedText> {
  const { tokenizer } = template;
  const [imageStart, sliceStart, unk] = [IMAGE_TOKENS.imageStart, IMAGE_TOKENS.sliceStart, tokenizer.unkToken].map(
    (token) => tokenizer.requireId(token),
  );
  const segments = layOut(template, messages, grids, purpose);
  const encoded = await Promise.all(segments.map((_, i) => encodeSegment(template, segments, i)));
  const inputIds: number[] = [];
  const labels: number[] = [];
  const imageBounds: Range[] = [];
  let unseen: number | undefined; // an end token that is to be produced but not shown
  for (const [i, { supervised, plain, endsUnseen }] of segments.entries()) {
    for (const id of encoded[i]!) {
      const before = inputIds.at(-1);
      if (inputIds.length > 0) labels.push(unseen ?? (supervised ? id : IGNORED));
      unseen = undefined;
      if (!plain && id === unk && (before === imageStart || before === sliceStart)) {
        const start = inputIds.length;
        imageBounds.push([start, start + queryNum]);
        for (let n = 1; n < queryNum; n++) {
          inputIds.push(id);
          labels.push(IGNORED);
        }
      }
      inputIds.push(id);
    }
    if (endsUnseen) unseen = tokenizer.requireId(template.end);
  }
  labels.push(unseen ?? IGNORED);
  return { inputIds, labels, imageBounds, imageSpans: findSpans(template, inputIds, imageBounds, grids) };
}
