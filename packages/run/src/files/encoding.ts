/**
 * Whether bytes are UTF-8 text. Where they stop being it, and which other encoding they are in. UTF-16 and UTF-32 are
 * known by their byte order mark or their zero bytes; the older encodings by trying them: the one whose text consists of
 * common characters is named, and where several do as well, all of them.
 */
import { isUtf8 } from 'node:buffer';
import { closeSync, openSync, readSync } from 'node:fs';

/** The first place where bytes are not UTF-8 text. */
export interface EncodingMistake {
  /** Bytes before it. */
  readonly offset: number;
  /** 1-based. */
  readonly line: number;
  /** 1-based byte in that line. */
  readonly column: number;
  /** The byte itself. */
  readonly byte: number;
  /** The encoding, or several that it may be; undefined where it is none that is known. */
  readonly encoding: string | undefined;
}

const CHUNK_BYTES = 1 << 20;
/** Bytes from which the encoding is guessed. */
const SAMPLE_BYTES = 1 << 16;

/** The first place where `bytes` are not UTF-8, or undefined: they are. */
export function findEncodingMistake(bytes: Uint8Array): EncodingMistake | undefined {
  const wide = wideEncoding(bytes);
  if (wide !== undefined) return wideMistake(bytes, wide);
  if (isUtf8(bytes)) return undefined;
  const { offset } = firstWrong(bytes, true);
  const before = bytes.subarray(0, offset);
  const start = before.lastIndexOf(0x0a) + 1;
  const encoding = nameEncoding(bytes.subarray(start, start + SAMPLE_BYTES));
  return { offset, line: 1 + countLines(before), column: offset - start + 1, byte: bytes[offset]!, encoding };
}

/** The same of a file of any size. */
export function findEncodingMistakeIn(file: string): EncodingMistake | undefined {
  const fd = openSync(file, 'r');
  try {
    let [position, line, lineStart] = [0, 1, 0];
    let carried = Buffer.alloc(0);
    for (;;) {
      const buffer = Buffer.alloc(CHUNK_BYTES);
      const count = readSync(fd, buffer, 0, CHUNK_BYTES, position + carried.length);
      const bytes = Buffer.concat([carried, buffer.subarray(0, count)]);
      const wide = position === 0 ? wideEncoding(bytes) : undefined;
      if (wide !== undefined) return wideMistake(bytes, wide);
      const { offset, complete } = isUtf8(bytes)
        ? { offset: -1, complete: bytes.length }
        : firstWrong(bytes, count === 0);
      const known = bytes.subarray(0, offset === -1 ? complete : offset);
      const newline = known.lastIndexOf(0x0a);
      line += countLines(known);
      if (newline !== -1) lineStart = position + newline + 1;
      if (offset !== -1) {
        const at = position + offset;
        const encoding = nameEncoding(sampleOf(fd, Math.max(lineStart, at - SAMPLE_BYTES / 2)));
        return { offset: at, line, column: at - lineStart + 1, byte: bytes[offset]!, encoding };
      }
      if (count === 0) return undefined;
      carried = Buffer.from(bytes.subarray(complete));
      position += complete;
    }
  } finally {
    closeSync(fd);
  }
}

function sampleOf(fd: number, start: number): Uint8Array {
  const sample = Buffer.alloc(SAMPLE_BYTES);
  return sample.subarray(0, readSync(fd, sample, 0, SAMPLE_BYTES, start));
}

function countLines(bytes: Uint8Array): number {
  let count = 0;
  for (let at = bytes.indexOf(0x0a); at !== -1; at = bytes.indexOf(0x0a, at + 1)) count++;
  return count;
}

/** Offset of the first wrong byte (-1: none), and the bytes of whole characters. `last`: nothing follows. */
function firstWrong(bytes: Uint8Array, last: boolean): { offset: number; complete: number } {
  let at = 0;
  while (at < bytes.length) {
    if (bytes[at]! < 0x80) {
      at++;
      continue;
    }
    const length = sequenceLength(bytes, at);
    if (length === 0) return { offset: at, complete: at };
    if (at + length > bytes.length) return { offset: last ? at : -1, complete: at };
    at += length;
  }
  return { offset: -1, complete: at };
}

/** Bytes of the character at `at`, those after the end of `bytes` included; 0: it is not UTF-8. */
function sequenceLength(bytes: Uint8Array, at: number): number {
  const head = bytes[at]!;
  const length = head < 0xc2 ? 0 : head < 0xe0 ? 2 : head < 0xf0 ? 3 : head < 0xf5 ? 4 : 0;
  for (let i = 1; i < length && at + i < bytes.length; i++) {
    const byte = bytes[at + i]!;
    const low = i > 1 ? 0x80 : head === 0xe0 ? 0xa0 : head === 0xf0 ? 0x90 : 0x80;
    const high = i > 1 ? 0xbf : head === 0xed ? 0x9f : head === 0xf4 ? 0x8f : 0xbf;
    if (byte < low || byte > high) return 0;
  }
  return length;
}

/** The mistake of a text in UTF-16 or UTF-32: the first byte that no text in UTF-8 has. */
function wideMistake(bytes: Uint8Array, encoding: string): EncodingMistake {
  const offset = Math.max(
    0,
    bytes.findIndex((byte) => byte === 0 || byte >= 0xfe),
  );
  return { offset, line: 1, column: offset + 1, byte: bytes[offset]!, encoding };
}

/** UTF-16 or UTF-32, by byte order mark or by zero bytes, which JSON and YAML never have; undefined: neither. */
export function wideEncoding(bytes: Uint8Array): string | undefined {
  const head = bytes.subarray(0, 4096);
  const mark = Buffer.from(head.subarray(0, 4)).toString('hex');
  if (mark === 'fffe0000' || mark === '0000feff') return `UTF-32 (${mark.startsWith('f') ? 'LE' : 'BE'})`;
  if (mark.startsWith('fffe')) return 'UTF-16 (LE)';
  if (mark.startsWith('feff')) return 'UTF-16 (BE)';
  const zeros = [0, 0, 0, 0];
  for (const [i, byte] of head.entries()) if (byte === 0) zeros[i % 4]!++;
  const [a, b, c, d] = zeros as [number, number, number, number];
  const quarter = head.length / 4;
  const all = (count: number): boolean => count >= 0.9 * Math.floor(quarter) && count > 0;
  if (all(c) && all(d) && a < c) return 'UTF-32 (LE, without byte order mark)';
  if (all(a) && all(b) && d < a) return 'UTF-32 (BE, without byte order mark)';
  const [even, odd] = [a + c, b + d];
  if (even + odd < Math.max(2, head.length / 20)) return undefined;
  if (odd > 0 && even <= odd / 5) return 'UTF-16 (LE, without byte order mark)';
  if (even > 0 && odd <= even / 5) return 'UTF-16 (BE, without byte order mark)';
  return undefined;
}

const KANA = /[\u3041-\u3096\u30a1-\u30fa\u30fc]/u;
const COMMON_HAN =
  '的一是不了在人有我他这中来上大为和国地到以说时要就出会可也你对生能而子那得于着下自之年过发后作里用道行所然家种事成方多经么去法学如都同现当没动面起看定天分还进好小部其些主样理心她本前开但因只从想实日军者意无力它与长把机十民第公此已工使情明性知全三又关点正业外将两高间由问很最重并物手应战向头文体政美相见被利什二等产或新己制身果加西月话合回特代内信表化老给世位次度门任常先海通教儿原东声提立及比员解水名真论处走义各入几口认条平系气题活尔更别打女变四神总何电数安少报才结反受目太量再感建务做接必场件计管期市直德资命山金指统区保至队形社便空决治展科基书非则听白却界达光放强即像难且权思象完设式色路记品住告类求据程北边死张该交规万取格望觉术共确传师观清今切院让识候带导争运图片红黄蓝绿黑答请描述哪';
const COMMON_TRADITIONAL =
  '這個們來為國會說時對學後過發經動麼現沒還進樣實從無與長機關點業將兩間問應戰體頭見產東聲員論處義條氣題爾變總電數報結務場計資許統區隊決馬書則聽達強難權設記類據該規萬張領確傳師觀讓識帶導爭運圖顏紅黃藍綠請哪';
const COMMON_JAPANESE = '日本人大一国会年中画像表示名前色赤青何物写真質問答東京語文字';
const COMMON_HANGUL =
  '이다는을가에의하고지로도한기사를은나어니그아시서리들자인있해대것정수보일게부라장전구제여주스무상면여과신동생만거없오마내모안원소성경적우인요조비문유간국미물세화선방분입식공용습합음답질색무엇';

/** Encodings that are tried, with the share of a text's characters that are common ones there. */
const CANDIDATES: readonly (readonly [label: string, name: string, isCommon: (character: string) => boolean])[] = [
  ['shift_jis', 'Shift-JIS', (c) => KANA.test(c) || COMMON_JAPANESE.includes(c)],
  ['euc-jp', 'EUC-JP', (c) => KANA.test(c) || COMMON_JAPANESE.includes(c)],
  ['gb18030', 'GBK (GB18030)', (c) => COMMON_HAN.includes(c)],
  ['big5', 'Big5', (c) => COMMON_TRADITIONAL.includes(c) || COMMON_HAN.includes(c)],
  ['euc-kr', 'EUC-KR', (c) => COMMON_HANGUL.includes(c)],
];

/** The name of the encoding of bytes that are not UTF-8. */
function nameEncoding(bytes: Uint8Array): string | undefined {
  const scores = [...CANDIDATES.map((one) => scoreOf(bytes, ...one)), latin(bytes), cyrillic(bytes)]
    .filter(({ score }) => score > 0.2)
    .sort((x, y) => y.score - x.score);
  const [best, second] = scores;
  if (best === undefined) return undefined;
  if (second === undefined || best.score >= second.score + 0.15) return best.name;
  return scores
    .filter(({ score }) => score > best.score - 0.15)
    .map(({ name }) => name)
    .join(' or ');
}

interface Score {
  readonly name: string;
  readonly score: number;
}

function scoreOf(bytes: Uint8Array, label: string, name: string, isCommon: (character: string) => boolean): Score {
  const text = decoded(bytes, label);
  const others =
    text === undefined ? [] : [...text].filter((c) => c > '\x7f' && !/[\p{P}\p{S}\p{Z}\uff00-\uff5e]/u.test(c));
  return { name, score: others.length === 0 ? 0 : others.filter(isCommon).length / others.length };
}

/** The text, or undefined if the bytes are none; a character cut off at the end does not count. */
function decoded(bytes: Uint8Array, label: string): string | undefined {
  for (const cut of [0, 1, 2, 3]) {
    try {
      return new TextDecoder(label, { fatal: true }).decode(bytes.subarray(0, bytes.length - cut));
    } catch {
      if (bytes.length < SAMPLE_BYTES) return undefined;
    }
  }
  return undefined;
}

/** Runs of bytes above ASCII: how many of one byte, and of how many. */
function highRuns(bytes: Uint8Array): { single: number; all: number } {
  const runs =
    Buffer.from(bytes)
      .toString('latin1')
      .match(/[\x80-\xff]+/g) ?? [];
  return { single: runs.filter((run) => run.length === 1).length, all: runs.length };
}

/** Letters of western Europe stand alone between ASCII letters. */
function latin(bytes: Uint8Array): Score {
  const high =
    Buffer.from(bytes)
      .toString('latin1')
      .match(/[\x80-\xff]/g) ?? [];
  const common = high.filter((c) =>
    /[\xe0-\xef\xf1-\xf6\xf8-\xfd\xc0\xc4\xc5\xc7\xc9\xd6\xd8\xdc\xdf\x80\x91-\x94\x96\x97\xb0\xab\xbb]/.test(c),
  );
  const { single, all } = highRuns(bytes);
  const beside =
    Buffer.from(bytes)
      .toString('latin1')
      .match(/[A-Za-z][\x80-\xff]|[\x80-\xff](?=[A-Za-z .,;:!?"'])/g)?.length ?? 0;
  const share = high.length === 0 ? 0 : (common.length / high.length) * Math.min(1, beside / high.length);
  return { name: 'Latin-1 (Windows-1252)', score: all === 0 ? 0 : share * (single / all) };
}

/** Cyrillic text is made of runs of letters, most of them small. */
function cyrillic(bytes: Uint8Array): Score {
  const text = decoded(bytes, 'windows-1251');
  const others = [...(text ?? '')].filter((c) => c > '\x7f');
  const { single, all } = highRuns(bytes);
  const share = others.filter((c) => /[а-яё]/u.test(c)).length / Math.max(1, others.length);
  return { name: 'Windows-1251', score: all === 0 || share < 0.8 ? 0 : share * (1 - single / all) };
}
