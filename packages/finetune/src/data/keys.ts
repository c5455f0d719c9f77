/**
 * Keys that mean something in a conversation and are not read. Refused by name, or counted: another name of a picture
 * beside pictures. Keys without meaning for a conversation (`source`, `score`, …) are free. Marks of answers are marks.ts.
 */
import { shown, UserError } from '@minicpm-finetune/run';
import { COMPARED_KEYS } from './compared.js';
import { isEmpty } from './empty.js';
import { isObject } from './images.js';
import { MARKS, UNCERTAIN_MARK } from './marks.js';
import type { RecordPlace } from './record.js';

type Keys = Readonly<Record<string, unknown>>;
type Place = RecordPlace & { turn?: number };

/** The keys of a record that are read. */
const READ = ['id', 'image', 'images', 'video', 'videos', 'conversations', 'messages', 'system'];

/** What to do about a key. */
type Cure = (key: string) => string;

const TOOLS: Cure = (key) =>
  `Tools are not trained here. Write what the model shall see and say into the turns as text, or remove ${key}.`;
const REASONING: Cure = (key) =>
  `Write it as reasoning_content into the turn of its answer, for a model that thinks, or into the answer itself, or remove ${key}.`;
const PREFERENCE: Cure = (key) => `Rename ${key} to rejected or chosen, with --preference; or remove it.`;
const VIDEO: Cure = (key) =>
  `Both answers of a pair are about the same video, under the key video or videos: remove ${key}, or the record.`;
const MEDIA: Cure = (key) => `Remove ${key} or the record: the models are trained on text, images and videos here.`;
const HISTORY: Cure = (key) =>
  `Write the earlier turns in front of the others, as user and assistant, and remove ${key}.`;
const SYSTEM: Cure = (key) => `Rename ${key} to system, or remove it.`;
const TEXT: Cure = (key) => `Write what the model shall see into the user turn, or remove ${key}.`;

/** Cures of the keys that are refused in a record and in a turn, by their name in small letters without separators. */
const REFUSED: Readonly<Record<string, Cure>> = {
  ...cured(MEDIA, ['audio', 'audios']),
  ...cured(TOOLS, ['tools', 'functions', 'function_call', 'tool_call', 'tool_calls', 'tool_choice', 'tool_call_id']),
  ...cured(REASONING, ['reasoning', 'reasoning_content', 'thinking', 'thinking_content', 'thought', 'thoughts']),
  ...cured(PREFERENCE, ['rejected_answer', 'rejected_output', 'chosen_response', 'refusal']),
  ...cured(VIDEO, ['rejected_video', 'rejected_videos']),
  ...cured(HISTORY, ['history', 'histories']),
  ...cured(SYSTEM, ['system_prompt', 'system_message', 'systems', 'sys_prompt']),
  ...cured(TEXT, ['documents', 'context_documents', 'chat_template_kwargs']),
};

function cured(cure: Cure, keys: readonly string[]): Record<string, Cure> {
  return Object.fromEntries(keys.map((key) => [plain(key), cure]));
}

/** A key without what differs between tools' ways to write it. */
function plain(key: string): string {
  return key.toLowerCase().replaceAll(/[\s_-]/gu, '');
}

const KNOWN = new Map([...READ, ...MARKS, UNCERTAIN_MARK].map((key) => [plain(key), key]));

/** Names that are nearly `image` or `images`. */
const PICTURE =
  /^(?:image|img|pic|picture|photo)s?(?:path|file|filename|filepath|name|url|uri|src|link|base64|b64|data|bytes|list)?s?$/u;

/** Placeholders of ms-swift that the key `objects` fills. */
const OBJECT_TAG = /<(?:ref-object|bbox)>/u;

/** Whether the column of a table is worth reading. */
export function hasMeaning(key: string): boolean {
  const name = plain(key);
  return (
    COMPARED_KEYS.includes(key) ||
    KNOWN.has(name) ||
    Object.hasOwn(REFUSED, name) ||
    name === 'objects' ||
    PICTURE.test(name)
  );
}

/**
 * Checks the keys of a record.
 * @param pictures - whether the record has pictures under the keys that are read
 * @returns the keys that mean something and are not read
 * @throws UserError for a key that is refused
 */
export function checkRecordKeys(record: Keys, turns: readonly Keys[], pictures: boolean, place: RecordPlace): string[] {
  const unread: string[] = [];
  for (const [key, value] of Object.entries(record)) {
    if (READ.includes(key) || isEmpty(value)) continue;
    refuse(key, value, 'a record', place);
    const name = plain(key);
    if (name === 'objects') {
      if (turns.some((turn) => OBJECT_TAG.test(textOf(turn)))) throw objectsUnread(key, value, place);
      unread.push(key);
    } else if (PICTURE.test(name) ? isReference(value) : !pictures && showsPicture(key, value)) {
      if (!pictures) throw otherPictureKey(key, value, place);
      unread.push(key);
    }
  }
  return unread;
}

/** The keys of a turn that are read. */
const TURN = ['role', 'content', 'from', 'value', 'reasoning_content'];

/** Checks the keys of a turn. @throws UserError for a key that is refused */
export function checkTurnKeys(turn: Keys, place: RecordPlace & { turn: number }): void {
  for (const [key, value] of Object.entries(turn)) {
    if (TURN.includes(key) || isEmpty(value)) continue;
    refuse(key, value, 'a turn', place);
    if (!(PICTURE.test(plain(key)) && isReference(value)) && !showsPicture(key, value)) continue;
    throw new UserError(
      `Expected pictures beside the turns of a record but received ${key}: ${shown(value)} in a turn.`,
      {
        ...place,
        key,
        cure: 'Move it to the key images of the record and write <image> where it belongs in the text.',
      },
    );
  }
}

/** The keys of a part of the content that are read. */
const PART = ['type', 'text', 'image', 'image_url', 'video', 'video_url', 'url', 'path', 'bytes'];

/** Checks the keys of a part of a turn's content. @throws UserError for a key that is refused */
export function checkPartKeys(part: Keys, place: RecordPlace & { turn: number }): void {
  for (const [key, value] of Object.entries(part)) {
    if (PART.includes(key) || isEmpty(value)) continue;
    refuse(key, value, 'a part', place);
    if (!(PICTURE.test(plain(key)) && isReference(value)) && !(key === 'source' && isObject(value))) continue;
    throw new UserError(`Expected the key image for the picture of a part but received ${key}: ${shown(value)}.`, {
      ...place,
      key,
      cure: `Rename ${key} to image, with the path of the picture.`,
    });
  }
}

function refuse(key: string, value: unknown, where: string, place: Place): void {
  const name = plain(key);
  const cure = Object.hasOwn(REFUSED, name) ? REFUSED[name] : undefined;
  if (cure !== undefined) {
    throw new UserError(
      `Expected ${where} without the key ${key}, which is not trained here, but received ${shown(value)}.`,
      {
        ...place,
        key,
        cure: cure(key),
      },
    );
  }
  const right = KNOWN.get(name);
  if (right === undefined || right === key || PICTURE.test(name) || name === 'id') return;
  throw new UserError(`Expected the key ${right} for ${where} but received ${key}: ${shown(value)}.`, {
    ...place,
    key,
    cure: `Rename ${key} to ${right}.`,
  });
}

function objectsUnread(key: string, value: unknown, place: RecordPlace): UserError {
  return new UserError(
    `Expected a record without the key ${key}, which is not trained here, but received ${shown(value)}.`,
    {
      ...place,
      key,
      cure: `Write the words and coordinates into the text, in place of <ref-object> and <bbox>, and remove ${key}.`,
    },
  );
}

function otherPictureKey(key: string, value: unknown, place: RecordPlace): UserError {
  const right = Array.isArray(value) ? 'images' : 'image';
  return new UserError(`Expected the key ${right} for the pictures of a record but received ${key}: ${shown(value)}.`, {
    ...place,
    key,
    cure: `Rename ${key} to ${right}.`,
  });
}

/** Not a number or a yes: a text, bytes, a list or an object. */
function isReference(value: unknown): boolean {
  return typeof value === 'string' || typeof value === 'object';
}

/** Keys that may say where a record is from, with the name of a picture. */
const ORIGIN = ['id', 'source'];
const PICTURE_FILE = /\.(?:jpe?g|png|webp|bmp|gif|tiff?|heic|avif)$|^data:image\//iu;

/** How JPEG, PNG, GIF, WebP, BMP and TIFF files begin. */
const PICTURE_BYTES = /^(?:\xff\xd8|\x89PNG|GIF8|RIFF|BM|II\*|MM\0)/u;

/** Whether a value is a picture: its path, its bytes, or several of them. */
function showsPicture(key: string, value: unknown): boolean {
  if (ORIGIN.includes(plain(key))) return false;
  const one = Array.isArray(value) ? value.find((entry) => !isEmpty(entry)) : value;
  if (typeof one === 'string') return PICTURE_FILE.test(one.length > 4096 ? one.slice(0, 20) : one.trim());
  const bytes = typeof one === 'object' && one !== null && 'bytes' in one ? one.bytes : one;
  return bytes instanceof Uint8Array && PICTURE_BYTES.test(Buffer.from(bytes.subarray(0, 4)).toString('latin1'));
}

/** The text of a turn, that of its parts included. */
function textOf({ content, value }: Keys): string {
  const written = content ?? value;
  const parts = Array.isArray(written) ? written.map((part) => (isObject(part) ? part.text : undefined)) : [written];
  return parts.filter((part) => typeof part === 'string').join('\n');
}
