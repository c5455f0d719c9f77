/**
 * What a file is, by its first bytes and never by its name. For errors about a file that is something else than its
 * place says: a download that is an error page, a Git LFS pointer, a photo in a format that is not read.
 */
import { closeSync, openSync, readSync } from 'node:fs';
import { MOST_SHOWN, shown } from '../shown.js';
import { wideEncoding } from './encoding.js';
import { type FileKind, signature, video } from './signatures.js';

export type { FileKind } from './signatures.js';

/** As many bytes as `fileKind` looks at. */
const HEAD_BYTES = 4096;

/** What the bytes of a file are, from its start; undefined: nothing that is known. Pictures that are read are not among the kinds. */
export function fileKind(bytes: Uint8Array): FileKind | undefined {
  const head = Buffer.from(bytes.buffer, bytes.byteOffset, Math.min(bytes.length, HEAD_BYTES));
  if (head.length === 0) return { what: 'an empty file (0 bytes)', group: 'empty', cure: 'Copy or download it again.' };
  if (head.every((byte) => byte === 0)) {
    const cure = 'The copy or download was cut off: do it again.';
    return { what: 'a file of zero bytes only', group: 'empty', cure };
  }
  return lfsPointer(head) ?? container(head) ?? signature(head) ?? textKind(head);
}

/** The same of a file; undefined also when it cannot be read. */
export function fileKindOf(file: string): FileKind | undefined {
  try {
    const fd = openSync(file, 'r');
    try {
      const head = Buffer.alloc(HEAD_BYTES);
      return fileKind(head.subarray(0, readSync(fd, head, 0, HEAD_BYTES, 0)));
    } finally {
      closeSync(fd);
    }
  } catch {
    return undefined;
  }
}

function lfsPointer(head: Buffer): FileKind | undefined {
  if (!/^version https?:\/\/(?:git-lfs\.github\.com|hawser\.github\.com)\/spec\//.test(head.toString('latin1', 0, 80)))
    return undefined;
  const size = /^size (\d+)/m.exec(head.toString('latin1'))?.[1];
  return {
    what: `a Git LFS pointer, which stands for the file${size === undefined ? '' : ` (of ${size} bytes)`}`,
    group: 'download',
    cure: 'Fetch the file itself with `git lfs pull` in the repository it comes from, or download it again.',
  };
}

/** Brands of the ISO base media format, from its `ftyp` box. */
const BRANDS: readonly (readonly [RegExp, FileKind])[] = [
  [
    /^(hei[cxms]|hev[cmsx]|mif1|msf1)/,
    { what: 'a photo of a phone in HEIC', group: 'picture', cure: 'Convert it to JPEG.' },
  ],
  [/^(crx )/, { what: 'a raw photo (CR3)', group: 'picture', cure: 'Convert it to JPEG.' }],
  [/^jp[2xm]/, { what: 'a JPEG 2000 picture', group: 'picture', cure: 'It is not read: convert it to PNG.' }],
  [/^(M4A|M4B)/, { what: 'audio (MP4)', group: 'media' }],
  [/^(qt)/, { what: 'a video (QuickTime)', group: 'media' }],
  [/./, { what: 'a video (MP4)', group: 'media' }],
];

/** Containers that hold several formats: RIFF, ISO media, Matroska. */
function container(head: Buffer): FileKind | undefined {
  const latin = head.toString('latin1', 0, 64);
  if (latin.startsWith('RIFF')) {
    const type = latin.slice(8, 12);
    if (type === 'AVI ') return video('AVI');
    if (type === 'WAVE') return { what: 'audio (WAV)', group: 'media' };
    return undefined;
  }
  const box = latin.slice(4, 8);
  if (box === 'ftyp') {
    const brand = latin.slice(8, 12);
    if (/^avi[fs]/.test(brand) || /^avi[fs]/m.test(latin.slice(16, 32))) return undefined; // AVIF is read
    return BRANDS.find(([pattern]) => pattern.test(brand))?.[1];
  }
  if (['moov', 'mdat', 'wide', 'skip'].includes(box)) return video('QuickTime');
  if (head.subarray(0, 4).toString('hex') === '1a45dfa3')
    return video(head.toString('latin1', 0, 256).includes('webm') ? 'WebM' : 'Matroska');
  return undefined;
}

function textKind(head: Buffer): FileKind | undefined {
  const wide = wideEncoding(head);
  if (wide !== undefined) return { what: `text in ${wide}`, group: 'text', cure: 'Save the file as UTF-8.' };
  const text = head.toString('utf8').replace(/^\ufeff/, '');
  // biome-ignore lint/suspicious/noControlCharactersInRegex: these are what text does not have
  if (/[\x00-\x08\x0e-\x1a\x1c-\x1f]/.test(text) || wrongShare(text) > 0.02) return undefined;
  const start = text.trimStart();
  if (/^(<!--[\s\S]*?-->\s*)?<(!doctype html|html|head|body|title|meta|script|center|h1)\b/i.test(start)) {
    const words = start
      .replace(/<(style|script)[\s\S]*?(<\/\1>|$)/gi, ' ')
      .replace(/<[^>]*>/g, ' ')
      .replace(/\s+/g, ' ')
      .trim();
    const says = words === '' ? '' : `: it says ${shown(words.slice(0, MOST_SHOWN - 4))}`;
    return {
      what: `an HTML page${says}`,
      group: 'download',
      cure: 'The download probably failed: download the file again.',
    };
  }
  if (/^(<\?xml[\s\S]*?\?>\s*)?(<!--[\s\S]*?-->\s*)*(<!DOCTYPE svg[\s\S]*?>\s*)?<svg\b/i.test(start))
    return { what: 'an SVG drawing', group: 'picture', cure: 'It is not read: convert it to PNG.' };
  if (/^<\?xml|^<(Error|error|rss|feed)\b/.test(start)) {
    const cure = 'The download probably failed: download the file again.';
    return { what: `an XML text that begins with ${shown(start.slice(0, 60))}`, group: 'download', cure };
  }
  if (/^[{[]/.test(start)) return { what: `JSON text that begins with ${shown(start.slice(0, 60))}`, group: 'text' };
  return { what: `text that begins with ${shown(start.slice(0, 60))}`, group: 'text' };
}

/** Share of characters that were no UTF-8. */
function wrongShare(text: string): number {
  return (text.match(/\ufffd/g)?.length ?? 0) / Math.max(1, text.length);
}

/** Whether bytes begin as a picture of a format that is read. */
export function beginsAsPicture(bytes: Uint8Array): boolean {
  const head = Buffer.from(bytes.buffer, bytes.byteOffset, Math.min(bytes.length, 32)).toString('latin1');
  if (PICTURE_STARTS.some((start) => head.startsWith(start))) return true;
  if (head.startsWith('RIFF')) return head.startsWith('WEBP', 8);
  if (head.startsWith('BM')) return head.startsWith('\0\0\0\0', 6);
  return head.startsWith('ftyp', 4) && /avi[fs]/.test(head.slice(8));
}

/** JPEG, PNG, GIF, TIFF; WebP, BMP and AVIF have other bytes in between. */
const PICTURE_STARTS = ['\xff\xd8\xff', '\x89PNG', 'GIF87a', 'GIF89a', 'II*\0', 'II+\0', 'MM\0*', 'MM\0+'];
