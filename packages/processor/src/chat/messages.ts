/**
 * A conversation: turns of text and images in order. A record's tags are put into this form here, and what can be wrong
 * with a conversation is found here; turning it into tokens is `segments.ts`.
 */
import { shown, UserError } from '@minicpm-finetune/run';
import type { ImageSource } from '../image/decode.js';
import { NUMBERED_TAG, stripEnd, stripStart } from './python.js';
import type { SeedRecord } from './record.js';
import type { ChatTemplate, Role } from './templates.js';
import { checkCharacters } from './text.js';

/** An image between texts; `maxSliceNums` cuts it into fewer slices than other images. */
export interface ImagePart {
  readonly image: ImageSource;
  readonly maxSliceNums?: number;
}

/** A video between texts. */
export interface VideoPart {
  readonly video: VideoSource;
}

export type Part = string | ImagePart | VideoPart;

/** A turn. Parts are joined with exactly one newline, as inference joins the items of its lists. */
export interface ChatMessage {
  readonly role: Role;
  readonly content: string | readonly Part[];
  /** false: an answer that is not learned; it stays in the conversation as context. Default: true. */
  readonly supervised?: boolean | undefined;
  /** What the assistant thought before this answer, where it is not written in the answer itself. */
  readonly thought?: string | undefined;
}

const SINGLE_TAG = '<image>';
const ANY_TAG = new RegExp(`(${SINGLE_TAG}|${NUMBERED_TAG.source})`, 'u');

function isImages(image: NonNullable<SeedRecord['image']>): image is Readonly<Record<string, ImageSource>> {
  return typeof image === 'object' && !(image instanceof Uint8Array);
}

/** Images of a record by their tags; a single one has the tag `<image>`. */
function imagesByTag({ image }: SeedRecord): Map<string, ImageSource> {
  if (image === undefined || image === null) return new Map();
  const images = new Map(isImages(image) ? Object.entries(image) : [[SINGLE_TAG, image]]);
  for (const tag of images.keys()) {
    if (ANY_TAG.exec(tag)?.[0] === tag) continue;
    throw new UserError(`Expected tags like <image_00> for the images of a record but received ${shown(tag)}.`, {
      cure: 'Name the images <image_00>, <image_01>, … and write these tags where the images belong in the text.',
    });
  }
  return images;
}

/** Splits a turn at its tags. White space next to an image goes: a newline takes its place. */
function splitAtTags(
  content: string,
  turn: number,
  role: Role,
  images: Map<string, ImageSource>,
  used: Set<string>,
): Part[] {
  const pieces = content.split(ANY_TAG); // odd pieces are tags
  if (pieces.length === 1) return [content];
  return pieces.flatMap((piece, i): Part[] => {
    if (i % 2 === 0) {
      const start = i === 0 ? piece : stripStart(piece);
      const text = i === pieces.length - 1 ? start : stripEnd(start);
      return text === '' ? [] : [text];
    }
    const image = images.get(piece);
    if (image === undefined) {
      const there = images.size === 0 ? 'has no image' : `has ${[...images.keys()].join(', ')}`;
      throw new UserError(`Expected an image for the tag ${piece} in the text but the record ${there}.`, {
        turn,
        cure: `Add the image to the record's "image", or take ${piece} out of the text.`,
      });
    }
    if (role !== 'user') {
      throw new UserError(`Expected images in user turns only but received ${piece} in the turn of ${role}.`, {
        turn,
        cure: 'Show the image in the user turn before.',
      });
    }
    if (used.has(piece)) {
      throw new UserError(`Expected ${piece} once in the text for its picture but received it again.`, {
        turn,
        cure: `Keep the first ${piece} and remove the others: later turns see the picture, too.`,
      });
    }
    used.add(piece);
    return [{ image }];
  });
}

/**
 * A record's conversation with its images in their places. A single image without a tag in the text comes first.
 * @throws UserError when tags and images do not belong together, or the conversation has no question and answer
 */
export function recordMessages(record: SeedRecord): ChatMessage[] {
  const turns = record.conversations;
  const images = imagesByTag(record);
  const used = new Set<string>();
  const messages = turns.map(({ role, content, supervised }, turn) => ({
    role,
    content: splitAtTags(content, turn, role, images, used),
    ...(supervised === false ? { supervised } : {}),
  }));
  const unused = [...images].filter(([tag]) => !used.has(tag));
  const [tag, image] = unused[0] ?? [];
  const first = messages.find(({ role }) => role === 'user');
  if (image !== undefined && first && images.size === 1 && tag === SINGLE_TAG) {
    first.content = [{ image }, ...first.content.filter((part) => part !== '')];
  } else if (image !== undefined) {
    throw new UserError(
      `Expected the tag ${tag} in the text for its image but it is in none of the ${turns.length} turns.`,
      {
        cure: `Write ${tag} where the image belongs, or take the image out of the record.`,
      },
    );
  }
  if (!messages.some(({ role }) => role === 'assistant')) {
    throw new UserError(
      `Expected a turn of the assistant to learn from but received ${turns.length} turns without one.`,
      {
        cure: 'Add the answer as a turn with role "assistant", or remove the record.',
      },
    );
  }
  return messages;
}

/**
 * Checks who speaks when, and that the text has whole characters and no special tokens.
 * @throws UserError naming the turn
 */
export function checkMessages(
  messages: readonly ChatMessage[],
  template: ChatTemplate,
  allowSpecialText: boolean,
): void {
  for (const [turn, { role, content }] of messages.entries()) {
    const first = turn === 0 || (turn === 1 && messages[0]!.role === 'system');
    if (template.header[role] === null) {
      throw new UserError(
        `Expected user or assistant for the role of a turn of --llm_type ${template.llmType} but received ${role}.`,
        {
          turn,
          cure: `The model knows no ${role} turn. Put its text in front of the first user turn.`,
        },
      );
    }
    if (role === 'system' && turn > 0) {
      throw new UserError('Expected the system turn first but received it later.', {
        turn,
        cure: 'Move it to the front.',
      });
    }
    if (first && role === 'assistant') {
      throw new UserError('Expected user for the role of the first turn but received assistant.', {
        turn,
        cure: 'Put the question in front, or remove the turn.',
      });
    }
    for (const part of typeof content === 'string' ? [content] : content) {
      if (typeof part !== 'string') continue;
      checkCharacters(part, turn);
      const special = allowSpecialText ? undefined : template.tokenizer.findStructure(part);
      if (special === undefined) continue;
      throw new UserError(`Expected text without special tokens in the turn of ${role} but received ${special}.`, {
        turn,
        flag: '--allow_special_text',
        cure: `Take ${special} out of the text, or give --allow_special_text to have it read as plain text.`,
      });
    }
  }
}
