/**
 * A conversation: turns of text, images and videos in order. A record's tags are put into this form here, and what can be wrong
 * with a conversation is found here; turning it into tokens is `segments.ts`.
 */
import { shown, UserError } from '@minicpm-finetune/run';
import type { ImageSource } from '../image/decode.js';
import type { VideoSource } from '../video/source.js';
import { NUMBERED_TAG, NUMBERED_VIDEO_TAG, stripEnd, stripStart } from './python.js';
import { areByTag, type SeedRecord } from './record.js';
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

/** How the tags of a kind of media are written, and what the words about them are. */
interface Kind {
  readonly word: 'image' | 'video';
  readonly single: string;
  readonly numbered: RegExp;
}

const IMAGES: Kind = { word: 'image', single: '<image>', numbered: NUMBERED_TAG };
const VIDEOS: Kind = { word: 'video', single: '<video>', numbered: NUMBERED_VIDEO_TAG };

const anyTag = (...kinds: Kind[]): RegExp =>
  new RegExp(`(${kinds.map(({ single, numbered }) => `${single}|${numbered.source}`).join('|')})`, 'u');

const IMAGE_TAG = anyTag(IMAGES);
const MEDIA_TAG = anyTag(IMAGES, VIDEOS);

/** Media of a record by their tags; a single one has the tag `<image>` or `<video>`. */
function byTag<T extends object | string>(
  { word, single, numbered }: Kind,
  media: T | Readonly<Record<string, T>> | null | undefined,
  partOf: (source: T) => ImagePart | VideoPart,
): [string, ImagePart | VideoPart][] {
  if (media === undefined || media === null) return [];
  const entries = areByTag(media) ? Object.entries(media) : [[single, media] as const];
  for (const [tag] of entries) {
    if (tag === single || numbered.exec(tag)?.[0] === tag) continue;
    throw new UserError(
      word === 'image'
        ? `Expected tags like <image_00> for the images of a record but received ${shown(tag)}.`
        : `Expected tags like <video_00> for the videos of a record but received ${shown(tag)}.`,
      {
        cure:
          word === 'image'
            ? 'Name the images <image_00>, <image_01>, … and write these tags where the images belong in the text.'
            : 'Name the videos <video_00>, <video_01>, … and write these tags where the videos belong in the text.',
      },
    );
  }
  return entries.map(([tag, source]) => [tag, partOf(source)]);
}

/** Splits a turn at its tags. White space next to an image goes: a newline takes its place. */
function splitAtTags(
  content: string,
  turn: number,
  role: Role,
  media: ReadonlyMap<string, Part>,
  used: Set<string>,
): Part[] {
  const hasVideo = [...media.keys()].some((tag) => !IMAGE_TAG.test(tag));
  const pieces = content.split(hasVideo ? MEDIA_TAG : IMAGE_TAG); // odd pieces are tags
  if (pieces.length === 1) return [content];
  return pieces.flatMap((piece, i): Part[] => {
    if (i % 2 === 0) {
      const start = i === 0 ? piece : stripStart(piece);
      const text = i === pieces.length - 1 ? start : stripEnd(start);
      return text === '' ? [] : [text];
    }
    const medium = media.get(piece);
    const isImage = IMAGE_TAG.test(piece);
    if (medium === undefined) throw withoutMedium(piece, isImage, media).at({ turn });
    if (role !== 'user') {
      throw new UserError(
        isImage
          ? `Expected images in user turns only but received ${piece} in the turn of ${role}.`
          : `Expected videos in user turns only but received ${piece} in the turn of ${role}.`,
        { turn, cure: isImage ? 'Show the image in the user turn before.' : 'Show the video in the user turn before.' },
      );
    }
    if (used.has(piece)) {
      throw new UserError(
        isImage
          ? `Expected ${piece} once in the text for its picture but received it again.`
          : `Expected ${piece} once in the text for its video but received it again.`,
        {
          turn,
          cure: isImage
            ? `Keep the first ${piece} and remove the others: later turns see the picture, too.`
            : `Keep the first ${piece} and remove the others: later turns see the video, too.`,
        },
      );
    }
    used.add(piece);
    return [medium];
  });
}

function withoutMedium(tag: string, isImage: boolean, media: ReadonlyMap<string, Part>): UserError {
  const none = isImage ? 'no image' : 'no video';
  const there = media.size === 0 ? none : [...media.keys()].join(', ');
  return new UserError(
    isImage
      ? `Expected an image for the tag ${tag} in the text but the record has ${there}.`
      : `Expected a video for the tag ${tag} in the text but the record has ${there}.`,
    {
      cure: isImage
        ? `Add the image to the record's "image", or take ${tag} out of the text.`
        : `Add the video to the record's "video", or take ${tag} out of the text.`,
    },
  );
}

/**
 * A record's conversation with its images and videos in their places. A single one without a tag in the text comes first.
 * @throws UserError when tags and media do not belong together, or the conversation has no question and answer
 */
export function recordMessages(record: SeedRecord): ChatMessage[] {
  const turns = record.conversations;
  const images = byTag<ImageSource>(IMAGES, record.image, (image) => ({ image }));
  const videos = byTag<VideoSource>(VIDEOS, record.video, (video) => ({ video }));
  const media = new Map([...images, ...videos]);
  const used = new Set<string>();
  const messages = turns.map(({ role, content, supervised, thought }, turn) => ({
    role,
    content: splitAtTags(content, turn, role, media, used),
    ...(supervised === false ? { supervised } : {}),
    ...(thought === undefined ? {} : { thought }),
  }));
  const first = messages.find(({ role }) => role === 'user');
  for (const [kind, own] of [[VIDEOS, videos] as const, [IMAGES, images] as const]) {
    const unused = own.find(([tag]) => !used.has(tag));
    if (unused === undefined) continue;
    const [tag, medium] = unused;
    if (!first || own.length > 1 || tag !== kind.single) throw withoutPlace(kind, tag, turns.length);
    first.content = [medium, ...first.content.filter((part) => part !== '')];
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

function withoutPlace({ word }: Kind, tag: string, turns: number): UserError {
  return word === 'image'
    ? new UserError(`Expected the tag ${tag} in the text for its image but it is in none of the ${turns} turns.`, {
        cure: `Write ${tag} where the image belongs, or take the image out of the record.`,
      })
    : new UserError(`Expected the tag ${tag} in the text for its video but it is in none of the ${turns} turns.`, {
        cure: `Write ${tag} where the video belongs, or take the video out of the record.`,
      });
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
