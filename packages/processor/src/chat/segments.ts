/**
 * Conversation to ids, labels and bounds, as at inference. The text is laid out in segments (layout.ts) that know whether
 * the model has to produce them; neighbours of the same kind are tokenized together, so that a prompt gets exactly the ids
 * it has at inference, and an answer the ids that follow such a prompt. Where pictures are is recorded while the ids are
 * made, never searched for afterwards.
 */
import type { Range } from '../sample.js';
import { type LayoutOptions, layOut, type Medium, type Segment } from './layout.js';
import type { ChatMessage } from './messages.js';
import type { ChatTemplate } from './templates.js';

export interface EncodedText {
  inputIds: number[];
  /** labels[i] is the id at i + 1 where that is supervised, else -100. */
  labels: number[];
  /** One per picture (or group of frames): the features between its marks. */
  imageBounds: Range[];
  /** One per image or video: everything that stands for it, slices and marks included. */
  imageSpans: Range[];
}

export const IGNORED = -100;

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

/** Ranges of whole images and videos, from those of their pictures. */
function findSpans(
  template: ChatTemplate,
  ids: readonly number[],
  bounds: readonly Range[],
  media: readonly Medium[],
): Range[] {
  const { tokenizer, schema } = template;
  const imageIdEnd = schema === 'new' ? tokenizer.requireId(tokenizer.imageTokens.imageIdEnd) : undefined;
  const imageIdStart = schema === 'new' ? tokenizer.requireId(tokenizer.imageTokens.imageIdStart) : undefined;
  let picture = 0;
  return media.map(({ counts, grids }) => {
    let start = bounds[picture]![0] - 1;
    if (imageIdEnd !== undefined && ids[start - 1] === imageIdEnd) while (ids[start] !== imageIdStart) start--;
    picture += counts.length;
    const closingMark = grids[0] && schema === 'old' ? 1 : 0;
    return [start, bounds[picture - 1]![1] + 1 + closingMark];
  });
}

/**
 * Encodes a conversation.
 * @param media - its images and videos in order of appearance
 */
export async function encodeMessages(
  template: ChatTemplate,
  messages: readonly ChatMessage[],
  media: readonly Medium[],
  options: LayoutOptions,
): Promise<EncodedText> {
  const { tokenizer, imagePad, videoPad } = template;
  const id = (token: string): number => tokenizer.requireId(token);
  const opening = [id(tokenizer.imageTokens.imageStart), id(tokenizer.imageTokens.sliceStart)];
  const pads = [id(imagePad), id(videoPad)];
  const counts = media.flatMap((medium) => medium.counts);
  const segments = layOut(template, messages, media, options);
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
      if (!plain && pads.includes(id) && before !== undefined && opening.includes(before)) {
        const start = inputIds.length;
        const count = counts[imageBounds.length]!;
        imageBounds.push([start, start + count]);
        for (let n = 1; n < count; n++) {
          inputIds.push(id);
          labels.push(IGNORED);
        }
      }
      inputIds.push(id);
    }
    if (endsUnseen) unseen = tokenizer.requireId(template.end);
  }
  labels.push(unseen ?? IGNORED);
  return { inputIds, labels, imageBounds, imageSpans: findSpans(template, inputIds, imageBounds, media) };
}
