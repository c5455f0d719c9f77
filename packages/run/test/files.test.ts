/** Files that users give: encodings, JSON mistakes, kinds by their first bytes, paths that differ. */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import {
  didYouMean,
  fileKind,
  findEncodingMistake,
  findEncodingMistakeIn,
  isSameFile,
  parseJson,
  pathCure,
  readText,
  SimilarPaths,
  shown,
  shownNames,
  UserError,
} from '../src/index.js';

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'run-files-'));
});
afterAll(() => rmSync(folder, { recursive: true }));

function refusal(run: () => unknown): UserError {
  try {
    run();
  } catch (error) {
    if (error instanceof UserError) return error;
    throw error;
  }
  throw new Error('nothing was refused');
}

const hex = (text: string): Buffer => Buffer.from(text.replace(/\s/g, ''), 'hex');
const utf16 = (text: string): Buffer => Buffer.from(text, 'utf16le');

describe('encodings', () => {
  const around = (bytes: Buffer): Buffer => Buffer.concat([Buffer.from('[\n {"a": "'), bytes, Buffer.from('"}]\n')]);
  it.each([
    ['Shift-JIS', hex('955c 82cc 89e6 919c'), 0x95],
    ['GBK (GB18030)', hex('d5e2 d5c5 cdbc c6ac'), 0xd5],
    ['Big5', hex('b36f b169 b9cf a4f9'), 0xb3],
    ['EUC-JP', hex('a4b3 a4ce c9bd'), 0xa4],
    ['EUC-KR', hex('c0cc b1d7 b8b2 bfa1'), 0xc0],
    ['Latin-1 (Windows-1252)', Buffer.from('déjà vu, café', 'latin1'), 0xe9],
    ['Windows-1251', hex('d7f2 ee20 edE0 20ea e0f0 f2e8 edea e5'), 0xd7],
  ])('%s is named, with line and first wrong byte', (name, bytes, byte) => {
    expect(findEncodingMistake(around(bytes))).toMatchObject({ line: 2, byte, encoding: name });
  });

  it.each([
    ['UTF-16 (LE, without byte order mark)', utf16('[{"a": "一这"}]')],
    ['UTF-16 (BE, without byte order mark)', utf16('[{"a": "这"}]').swap16()],
    ['UTF-16 (LE)', utf16('\ufeff[{"a": 1}]')],
    ['UTF-16 (BE)', utf16('\ufeff[{"a": 1}]').swap16()],
    ['UTF-32 (LE, without byte order mark)', Buffer.from([...'[{"a":1}]'].flatMap((c) => [c.charCodeAt(0), 0, 0, 0]))],
    ['UTF-32 (BE)', Buffer.from([0, 0, 0xfe, 0xff, 0, 0, 0, 0x5b])],
  ])('%s is named', (name, bytes) => {
    expect(findEncodingMistake(bytes)?.encoding).toBe(name);
  });

  it('reads UTF-8 with and without byte order mark, and cut off in a character says where', () => {
    const file = join(folder, 'text');
    writeFileSync(file, '\ufeff{"汉": "🎉"}');
    expect(readText(file, 'a file')).toBe('{"汉": "🎉"}');
    writeFileSync(file, Buffer.from('ab汉').subarray(0, 4));
    expect(refusal(() => readText(file, 'a file')).message).toContain('0xe6 (line 1, byte 3 of the line)');
  });

  it('finds a wrong byte anywhere in a large file, also across its reading blocks', () => {
    const file = join(folder, 'large');
    const text = Buffer.from('汉\n'.repeat(400_000)); // 1.6 MB; a character lies across the block border
    writeFileSync(file, text);
    expect(findEncodingMistakeIn(file)).toBeUndefined();
    text[4 * 300_000 + 1] = 0x41;
    writeFileSync(file, text);
    expect(findEncodingMistakeIn(file)).toMatchObject({ offset: 1_200_000, line: 300_001, column: 1, byte: 0xe6 });
  });
});

describe('JSON', () => {
  it.each([
    ['{"a": 1，"b": 2}', '"，" (U+FF0C), a full-width comma: JSON wants , (line 1, column 8)'],
    ['{"a"：1}', '"：" (U+FF1A), a full-width colon: JSON wants : (line 1, column 5)'],
    ['[\n1】', '"】" (U+3011), a full-width bracket: JSON wants ] (line 2, column 2)'],
    ['{“a”: 1}', '"“" (U+201C), a curly quotation mark: JSON wants " (line 1, column 2)'],
    ['［1]', '"［" (U+FF3B), a full-width bracket: JSON wants [ (line 1, column 1)'],
    ['[１]', '"１" (U+FF11), a full-width character: JSON wants 1 (line 1, column 2)'],
    ['{\u00a0"a": 1}', '"\\u00a0" (U+00A0), a no-break space, which cannot be seen'],
    ['[1,\u200b2]', '"\\u200b" (U+200B), a zero width space, which cannot be seen'],
    ['[1,\u30002]', '"\\u3000" (U+3000), an ideographic (full-width) space, which cannot be seen'],
    ['[1,\ufeff2]', '"\\ufeff" (U+FEFF), a byte order mark (zero width no-break space), which cannot be seen'],
    ['[1,\u20282]', '"\\u2028" (U+2028), a line separator, which cannot be seen'],
    ['[🎉]', '"🎉" (U+1F389) (line 1, column 2)'],
  ])('%j: the whole character', (text, message) => {
    expect(refusal(() => parseJson(text, { what: 'a record' })).message).toContain(`received ${message}`);
  });

  it('names a closing quote of another kind', () => {
    const { cure } = refusal(() => parseJson('{"a": "What?”, "b": 1}', { what: 'a record' }));
    expect(cure).toContain('does not end at "”" (U+201D)');
  });

  it('goes to any depth without the call stack, and knows what JSON.parse knows', () => {
    const deep = '['.repeat(200_000);
    expect(refusal(() => parseJson(`${deep}x`, { what: 'a record' })).message).toContain('column 200001');
    expect(parseJson('[1]', { what: 'a record' })).toEqual([1]);
  });

  it('reads NaN and Infinity as null where that is asked for', () => {
    let said = 0;
    const source = { what: 'a record', onNaN: () => said++ };
    expect(parseJson('{"a": NaN, "b": [-Infinity, "NaN"]}', source)).toEqual({ a: null, b: [null, 'NaN'] });
    expect(said).toBe(1);
    expect(refusal(() => parseJson('{"a": NaN, b}', source)).message).toContain('"NaN, b}"');
    expect(refusal(() => parseJson('[NaN]', { what: 'a record' })).message).toContain('"NaN]"');
  });
});

describe('values in messages', () => {
  it('have at most 80 characters, whatever their length and depth', () => {
    let deep: unknown = 'x';
    for (let i = 0; i < 100_000; i++) deep = i % 2 ? [deep] : { key: deep };
    for (const value of [
      '汉'.repeat(1e6),
      deep,
      [...'a'.repeat(5000)],
      { ['k'.repeat(9999)]: 1 },
      '\u200b'.repeat(500),
    ])
      expect(shown(value).length).toBeLessThan(120);
    expect(shown(new Uint8Array(9))).toBe('9 bytes');
    expect(shownNames(Array.from({ length: 500 }, (_, i) => `name ${i}`)).length).toBeLessThan(120);
  });

  it('show what cannot be seen', () => {
    expect(shown('a\u00a0b\u200b\n')).toBe('"a\\u00a0b\\u200b\\n"');
    expect(new UserError('No.', { file: 'a.json ' }).format()).toContain('at: "a.json "');
  });
});

describe('kinds of files by their first bytes', () => {
  const latin = (text: string): Buffer => Buffer.concat([Buffer.from(text, 'latin1'), Buffer.alloc(40, 1)]);
  const box = (brand: string): Buffer => latin(`\0\0\0\x18ftyp${brand}\0\0\0\0`);
  it.each([
    ['an HTML page: it says "Not Found"', Buffer.from('<!DOCTYPE html><title>Not Found</title>')],
    ['a Git LFS pointer', Buffer.from('version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n')],
    ['an SVG drawing', Buffer.from('<?xml version="1.0"?>\n<svg xmlns="x"/>')],
    ['JSON text', Buffer.from('{"error": "not found"}')],
    ['a photo of a phone in HEIC', box('heic')],
    ['a JPEG 2000 picture', latin('\0\0\0\x0cjP  \r\n\x87\n')],
    ['a PPM (Netpbm) picture', latin('P6\n2 2\n255\n')],
    ['a ICO (icon) picture', latin('\0\0\x01\0\x01\0')],
    ['a TGA picture', hex('000002 0000000000 00000000 0200 0200 1800 ffffff')],
    ['a JPEG XL picture', latin('\xff\x0a')],
    ['a Photoshop (PSD) picture', latin('8BPS')],
    ['a PDF document', latin('%PDF-1.7')],
    ['a video (MP4)', box('isom')],
    ['a video (WebM)', latin('\x1a\x45\xdf\xa3....webm')],
    ['a video (AVI)', latin('RIFF....AVI ')],
    ['a zip file', latin('PK\x03\x04')],
    ['a gzip file', latin('\x1f\x8b\x08')],
    ['a parquet file', latin('PAR1')],
    ['a GGUF file of llama.cpp', latin('GGUF')],
    ['a Python pickle', latin('\x80\x02}q')],
    ['an empty file', Buffer.alloc(0)],
    ['a file of zero bytes only', Buffer.alloc(9)],
    ['text in UTF-16 (LE)', utf16('\ufeffhello')],
  ])('%s', (what, bytes) => {
    expect(fileKind(bytes)?.what).toContain(what);
  });

  it('are none for pictures that are read', () => {
    for (const start of [
      '\xff\xd8\xff\xe0',
      '\x89PNG\r\n\x1a\n',
      'GIF89a',
      'RIFF\x10\0\0\0WEBPVP8 ',
      'BM\x10\0\0\0\0\0\0\0',
      'II*\0\x08\0\0\0',
    ])
      expect(fileKind(latin(start))).toBeUndefined();
    expect(fileKind(box('avif'))).toBeUndefined();
  });
});

describe('paths that differ', () => {
  beforeAll(() => {
    mkdirSync(join(folder, 'images'));
    for (const name of ['a.png', 'b c.png', 'caf\u00e9.png']) writeFileSync(join(folder, 'images', name), 'x');
  });
  const find = (path: string) => new SimilarPaths().find(path, [folder]);

  it.each([
    ['images/a.png ', 'images/a.png', 'ends in a space'],
    ['images/a.png\n', 'images/a.png', 'ends in a line break'],
    ['\timages/a.png', 'images/a.png', 'starts with white space'],
    ['"images/a.png"', 'images/a.png', 'in quotes'],
    ['images/\u200ba.png', 'images/a.png', 'cannot be seen'],
    ['file://images/a.png', 'images/a.png', 'starts with file:'],
    ['IMAGES/A.PNG', 'images/a.png', 'upper and lower case'],
    ['C:\\data\\images\\a.png', 'images/a.png', 'Windows path'],
    ['\\\\server\\share\\images\\a.png', 'images/a.png', 'Windows path'],
    ['images\\A.png ', 'images/a.png', 'ends in a space, the path has \\ for /, upper and lower case'],
  ])('%j is asked about', (written, meant, difference) => {
    const found = find(written)!;
    expect(found.written).toBe(meant);
    expect(isSameFile(found)).toBe(false);
    expect(didYouMean(found)).toContain(difference);
    expect(pathCure(written, 'x', [folder])).toMatch(/^Did you mean images\/a\.png \(/);
  });

  it.each([
    ['images\\a.png', 'a.png'],
    ['images/b%20c.png', 'b c.png'],
    ['images%2Fb%20c.png', 'b c.png'],
    ['images/cafe\u0301.png', 'caf\u00e9.png'],
    ['images\\caf%C3%A9.png', 'caf\u00e9.png'],
  ])('%j is the same file', (written, name) => {
    const found = find(written)!;
    expect([found.path, isSameFile(found)]).toEqual([join(folder, 'images', name), true]);
  });

  it('are none where nothing is there', () => {
    for (const path of ['images/z.png', '', '\0', '%', '%E0%A4%A', 'a'.repeat(1e6), '../'.repeat(300)])
      expect(find(path)?.differences ?? []).toEqual([]);
    expect(pathCure('D:\\x\\y.png', 'x', [folder])).toContain('a Windows path with the drive letter D:');
    expect(pathCure('\\\\nas\\x\\y.png', 'x', [folder])).toContain('a Windows path of a server');
  });
});
