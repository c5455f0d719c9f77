/**
 * What the text of a turn may not hold. Half a character, or a picture in the way of another tool: the model would learn
 * a replacement character, or the path of a picture that it never sees.
 */
import { shown, UserError } from '@minicpm-finetune/run';
import type { ImageSource } from '../image/decode.js';
import type { RecordTurn } from './record.js';

/** Characters shown on both sides of a mistake. */
const AROUND = 20;

/**
 * Checks that a text has no half of a surrogate pair.
 * @throws UserError naming the turn and where the half is
 */
export function checkCharacters(text: string, turn: number): void {
  if (text.isWellFormed()) return;
  const at = /\p{Surrogate}/u.exec(text)!.index;
  const half = `\\u${text.charCodeAt(at).toString(16)}`;
  const before = [...text.slice(Math.max(0, at - 2 * AROUND - 1), at)].slice(-AROUND);
  const after = [...text.slice(at, at + 2 * AROUND)].slice(0, AROUND);
  const around = shown([...before, ...after].join(''));
  throw new UserError(
    `Expected whole characters in the text of a turn but received half of one, ${half}, as character ${at + 1}: ${around}.`,
    { turn, cure: 'The text was cut inside a character. Cut texts between characters, not between UTF-16 units.' },
  );
}

/** Marks that stand for a picture in other tools, without its path. */
const PLACEHOLDER =
  /<(?:image[ _-]?here|image_?placeholder|image_soft_token|image_?patch|image_?feature|start_of_image|img_context|im_patch|(?:image|img)(?:[ _-]?\d+)?)>|<\|(?:image(?:_(?:pad|start|placeholder|\d+))?|img|vision_(?:start|pad)|begin_of_image)\|>|\[IMG(?:_?\d+)?\]/giu;

/** A picture by its path: of Qwen-VL, in Markdown, in HTML. */
const NAMED = [
  /<img>\s*(?<path>[^<>\n]{1,4000}?)\s*<\/img>/iu,
  /!\[[^\]\n]{0,500}\]\(\s*<?(?<path>[^)\s>]{1,4000})[^)\n]{0,500}\)/u,
  /<(?:img|image)\s[^>]{0,500}?src\s*=\s*["']?(?<path>[^"'\s>]{1,4000})[^>]{0,500}>/iu,
];

/** What is shown as code speaks of a mark and does not use it. */
const CODE = /```.*?(?:```|$)|`[^`\n]+`/gsu;

interface PictureName {
  /** As it stands in the text. */
  readonly written: string;
  /** undefined: a mark without one. */
  readonly path: string | undefined;
}

/** The first picture that a text names in the way of another tool, outside of code. */
export function foreignPicture(text: string): PictureName | undefined {
  if (!/[<[]/u.test(text) || find(text) === undefined) return undefined;
  return find(text.includes('`') ? text.replace(CODE, '') : text);
}

function find(text: string): PictureName | undefined {
  for (const pattern of NAMED) {
    const match = pattern.exec(text);
    if (match) return { written: match[0], path: match.groups!.path! };
  }
  for (const [written] of text.matchAll(PLACEHOLDER)) if (!OWN.test(written)) return { written, path: undefined };
  return undefined;
}

/** The tags of this project: what is wrong with them is found where they are replaced. */
const OWN = /^<image(?:_\d+)?>$/u;

/**
 * Checks that no user turn names a picture in the way of another tool, unless it is one of the record's.
 * @throws UserError naming the turn and what to write
 */
export function checkPictureNames(turns: readonly RecordTurn[], pictures: readonly ImageSource[]): void {
  for (const [turn, { role, content }] of turns.entries()) {
    const name = role === 'user' ? foreignPicture(content) : undefined;
    if (name === undefined || isAmong(pictures, name.path)) continue;
    const there = pictures.length === 0 ? 'the record has no picture' : 'the record has no such picture';
    throw new UserError(
      `Expected <image> for a picture in the text but received ${shown(name.written)}, and ${there}.`,
      {
        turn,
        flag: '--allow_special_text',
        cure: `Write <image> in its place and ${name.path === undefined ? 'the path' : shown(name.path)} under the key image, or give --allow_special_text to have it read as plain text.`,
      },
    );
  }
}

const VIDEO_TAG = /<video(?:_\d+)?>/u;

/**
 * Checks that no user turn of a record without videos has the tag of one, outside of code.
 * @throws UserError naming the turn and what to write
 */
export function checkVideoTags(turns: readonly RecordTurn[]): void {
  for (const [turn, { role, content }] of turns.entries()) {
    const tag =
      role === 'user' && content.includes('<video') ? VIDEO_TAG.exec(content.replace(CODE, ''))?.[0] : undefined;
    if (tag === undefined) continue;
    throw new UserError(`Expected a video for the tag ${tag} in the text but the record has no video.`, {
      turn,
      flag: '--allow_special_text',
      cure: `Write its path under the key video, or give --allow_special_text to have ${tag} read as plain text.`,
    });
  }
}

/** Whether a path is that of one of the pictures; bytes have no name, so any may be meant. */
function isAmong(pictures: readonly ImageSource[], path: string | undefined): boolean {
  if (path === undefined) return false;
  const name = fileName(path);
  return pictures.some((picture) => typeof picture !== 'string' || fileName(picture) === name);
}

function fileName(path: string): string {
  return path.split(/[\\/]/u).at(-1)!;
}
