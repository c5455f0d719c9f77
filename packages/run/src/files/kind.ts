/**
 * What a file is, by its first bytes and never by its name. For errors about a file that is something else than its
 * place says: a download that is an error page, a Git LFS pointer, a photo in a format that is not read.
 */
import { closeSync, openSync, readSync } from 'node:fs';
import { MOST_SHOWN, shown } from '../shown.js';
import { wideEncoding } from './encoding.js';

export interface FileKind {
  /** With its article, for "but received …". */
  readonly what: string;
  /** Picture: a picture in a format that is not read. */
  readonly group: 'download' | 'picture' | 'document' | 'media' | 'archive' | 'weights' | 'data' | 'text' | 'empty';
  /** What to do about it, where that does not depend on what was expected. */
  readonly cure?: string;
}

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

const video = (name: string): FileKind => ({ what: `a video (${name})`, group: 'media' });
const picture = (name: string): FileKind => ({
  what: `a ${name} picture`,
  group: 'picture',
  cure: 'It is not read: convert it to PNG.',
});
const archive = (name: string, command: string): FileKind => ({
  what: `a ${name} file`,
  group: 'archive',
  cure: `Unpack it first (${command}).`,
});
const PICKLE: FileKind = {
  what: 'a Python pickle, which can run code when it is opened',
  group: 'weights',
  cure: 'Convert it with save_pretrained(…, safe_serialization=True) of transformers.',
};

/** First bytes as latin1 text. */
const SIGNATURES: readonly (readonly [pattern: RegExp, kind: FileKind])[] = [
  [/^%PDF-/, { what: 'a PDF document', group: 'document', cure: 'Convert its pages to PNG pictures, for instance with pdftoppm -png.' }],
  [/^%!PS/, { what: 'a PostScript document', group: 'document', cure: 'Convert it to PNG.' }],
  [/^P[1-7]\s/, picture('PPM (Netpbm)')],
  [/^P[Ff]\s/, picture('PFM (Netpbm)')],
  [/^(\x00\x00\x00\x0cjP  |\xff\x4f\xff\x51)/, picture('JPEG 2000')],
  [/^(\xff\x0a|\x00\x00\x00\x0cJXL )/, picture('JPEG XL')],
  [/^\x00\x00\x01\x00[\x01-\x40]\x00/, picture('ICO (icon)')],
  [/^\x00\x00\x02\x00[\x01-\x40]\x00/, picture('CUR (cursor)')],
  [/^icns/, picture('ICNS (icon)')],
  [/^8BPS/, picture('Photoshop (PSD)')],
  [/^gimp xcf/, picture('GIMP (XCF)')],
  [/^#\?(RADIANCE|RGBE)/, picture('Radiance HDR')],
  [/^\x76\x2f\x31\x01/, picture('OpenEXR')],
  [/^DDS /, picture('DDS')],
  [/^qoif/, picture('QOI')],
  [/^\x0a[\x00-\x05][\x00\x01][\x01\x02\x04\x08]/, picture('PCX')],
  [/^II\xbc\x01/, picture('JPEG XR')],
  [/^(SIMPLE  =)/, picture('FITS')],
  [/^(FLV\x01)/, video('FLV')],
  [/^\x00\x00\x01[\xba\xb3]/, video('MPEG')],
  [/^0&\xb2\x75\x8e\x66\xcf/, video('WMV')],
  [/^OggS/, { what: 'audio or video (Ogg)', group: 'media' }],
  [/^(ID3|\xff[\xfb\xf3\xf2])/, { what: 'audio (MP3)', group: 'media' }],
  [/^fLaC/, { what: 'audio (FLAC)', group: 'media' }],
  [/^PK\x03\x04[\s\S]{26}[^\n]{0,200}\.?(?:archive\/)?data\.pkl/, PICKLE],
  [/^PK(\x03\x04|\x05\x06)/, archive('zip', 'unzip')],
  [/^\x1f\x8b/, archive('gzip', 'gunzip')],
  [/^\x28\xb5\x2f\xfd/, archive('Zstandard', 'unzstd')],
  [/^\xfd7zXZ/, archive('xz', 'unxz')],
  [/^BZh[1-9]/, archive('bzip2', 'bunzip2')],
  [/^7z\xbc\xaf/, archive('7-Zip', '7z x')],
  [/^Rar!/, archive('RAR', 'unrar x')],
  [/^\x04\x22\x4d\x18/, archive('LZ4', 'unlz4')],
  [/^[\s\S]{257}ustar/, archive('tar', 'tar -xf')],
  [/^PAR1/, { what: 'a parquet file', group: 'data' }],
  [/^ARROW1|^\xff\xff\xff\xff[\s\S]{4}\x10\x00/, { what: 'an Arrow file', group: 'data', cure: 'Write it as parquet or JSON, with to_parquet or to_json of datasets.' }],
  [/^SQLite format 3/, { what: 'an SQLite database', group: 'data' }],
  [/^\x89HDF\r\n/, { what: 'an HDF5 file', group: 'data' }],
  [/^\x93NUMPY/, { what: 'a NumPy array', group: 'data' }],
  [/^Obj\x01/, { what: 'an Avro file', group: 'data' }],
  [/^GGUF/, { what: 'a GGUF file of llama.cpp', group: 'weights', cure: 'Give the folder of the checkpoint in safetensors that it was made from.' }],
  [/^\x80[\x02-\x05][}\]c(\x8a\x95]/, PICKLE],
  [/^[\s\S]{6}\x00\x00\{"/, { what: 'a safetensors file', group: 'weights' }],
  [/^\xd0\xcf\x11\xe0/, { what: 'an old Microsoft Office document', group: 'document', cure: 'Save it in an open format.' }],
  [/^\x7fELF|^MZ/, { what: 'a program', group: 'data' }],
  [/^[\s\S]{128}DICM/, picture('DICOM')],
];

function signature(head: Buffer): FileKind | undefined {
  const latin = head.toString('latin1', 0, 512);
  return SIGNATURES.find(([pattern]) => pattern.test(latin))?.[1] ?? (isTga(head) ? picture('TGA') : undefined);
}

/** A TGA file has no first bytes of its own: all fields of its header have to be in their limits. */
function isTga(head: Buffer): boolean {
  if (head.length < 18) return false;
  const [map, type, depth] = [head[1]!, head[2]!, head[16]!];
  if (map > 1 || ![1, 2, 3, 9, 10, 11].includes(type) || ![8, 15, 16, 24, 32].includes(depth)) return false;
  const colours = [0, 15, 16, 24, 32].includes(head[7]!) && (map === 1) === (head[7]! > 0);
  return colours && head.readUInt16LE(12) > 0 && head.readUInt16LE(14) > 0 && (head[17]! & 0xc0) === 0;
}

function textKind(head: Buffer): FileKind | undefined {
  const wide = wideEncoding(head);
  if (wide !== undefined) return { what: `text in ${wide}`, group: 'text', cure: 'Save the file as UTF-8.' };
  const text = head.toString('utf8').replace(/^\ufeff/, '');
  // biome-ignore lint/suspicious/noControlCharactersInRegex: these are what text does not have
  if (/[\x00-\x08\x0e-\x1a\x1c-\x1f]/.test(text) || wrongShare(text) > 0.02) return undefined;
  const start = text.trimStart();
  if (/^(<!--[\s\S]*?-->\s*)?<(!doctype html|html|head|body|title|meta|script|center|h1)\b/i.test(start)) {
    const words = start.replace(/<(style|script)[\s\S]*?(<\/\1>|$)/gi, ' ').replace(/<[^>]*>/g, ' ').replace(/\s+/g, ' ').trim();
    const says = words === '' ? '' : `: it says ${shown(words.slice(0, MOST_SHOWN - 4))}`;
    return { what: `an HTML page${says}`, group: 'download', cure: 'The download probably failed: download the file again.' };
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
  return PICTURES.test(head);
}

/** JPEG, PNG, GIF, WebP, BMP, TIFF, AVIF. */
const PICTURES =
  /^(\xff\xd8\xff|\x89PNG|GIF8[79]a|RIFF[\s\S]{4}WEBP|BM[\s\S]{4}\x00\x00\x00\x00|II[\x2a\x2b]\x00|MM\x00[\x2a\x2b]|[\s\S]{4}ftyp(avi[fs]|[\s\S]{8,16}avi[fs]))/;
