/**
 * Text as pixels. Printable ASCII is drawn with letters of our own, so that it is readable on a machine without fonts;
 * other characters with the machine's fonts, or, where these lack one, by their numbers.
 */
import sharp, { type CreateText } from 'sharp';
import { GLYPH, glyphRows, hasGlyph } from './bitmap-font.js';

/** White text on nothing. */
export interface Label {
  /** RGBA, row by row. Shape: (height, width, 4). */
  readonly data: Uint8Array;
  readonly width: number;
  readonly height: number;
}

/** Pixels of the sheet for a pixel of a letter. */
const SCALE = 2;
/** Width of a letter, and height of a line. */
export const LETTER = { width: (GLYPH.width + 1) * SCALE, height: (GLYPH.height + 2) * SCALE } as const;
/** Of the machine's fonts, so that they are about as large as the letters here. */
const DPI = 100;

/** A text whose lines are at most `width` pixels long, if a line of one letter is. */
export async function drawLabel(text: string, width: number): Promise<Label> {
  if ([...text].every(hasGlyph)) return drawLetters(text, width);
  return (await drawWithFonts(text, width)) ?? drawLetters(escaped(text), width);
}

/** Characters of a text that this machine cannot draw: they are written by their numbers. */
export async function undrawable(text: string): Promise<string[]> {
  const found: string[] = [];
  for (const character of new Set(text)) if (!hasGlyph(character) && !(await hasFont(character))) found.push(character);
  return found;
}

const escaped = (text: string): string =>
  [...text].map((one) => (hasGlyph(one) ? one : `\\u{${one.codePointAt(0)!.toString(16)}}`)).join('');

/** The text in lines, at spaces where that is possible. */
function wrap(text: string, letters: number): string[] {
  const lines: string[] = [];
  for (let rest = text; rest !== ''; ) {
    const space = rest.length <= letters ? rest.length : rest.lastIndexOf(' ', letters);
    const end = space > 0 ? space : letters;
    lines.push(rest.slice(0, end));
    rest = rest.slice(end).trimStart();
  }
  return lines;
}

function drawLetters(text: string, width: number): Label {
  const lines = wrap(text, Math.max(1, Math.floor(width / LETTER.width)));
  const columns = Math.max(...lines.map((line) => line.length)) * LETTER.width;
  const label = {
    data: new Uint8Array(columns * lines.length * LETTER.height * 4),
    width: columns,
    height: lines.length * LETTER.height,
  };
  lines.forEach((line, y) => {
    for (const [x, character] of [...line].entries()) drawGlyph(label, character, x * LETTER.width, y * LETTER.height);
  });
  return label;
}

function drawGlyph({ data, width }: Label, character: string, left: number, top: number): void {
  glyphRows(character).forEach((bits, row) => {
    for (let column = 0; column < GLYPH.width; column++) {
      if ((bits & (1 << (GLYPH.width - 1 - column))) === 0) continue;
      for (let dy = 0; dy < SCALE; dy++) {
        const at = ((top + row * SCALE + dy) * width + left + column * SCALE) * 4;
        data.fill(255, at, at + 4 * SCALE);
      }
    }
  });
}

/** Null if a character has no font. */
async function drawWithFonts(text: string, width: number): Promise<Label | null> {
  if ((await undrawable(text)).length > 0) return null;
  const markup = `<span foreground="white">${text.replace(/[&<>]/g, (one) => `&#${one.charCodeAt(0)};`)}</span>`;
  const drawn = await raw({ text: markup, rgba: true, width, wrap: 'word-char' });
  return drawn === null ? null : { data: drawn.data, width: drawn.info.width, height: drawn.info.height };
}

type Raw = Awaited<ReturnType<typeof raw>>;

/** Null: nothing can be drawn, as on a machine without any font. */
async function raw(text: Omit<CreateText, 'font' | 'dpi'>) {
  try {
    return await sharp({ text: { ...text, font: 'sans', dpi: DPI } })
      .raw()
      .toBuffer({ resolveWithObject: true });
  } catch {
    return null;
  }
}

/** Characters that no font has: what is drawn for them is a box with their number. */
const UNKNOWN = { short: '\ue7f3', long: '\u{10fff3}' } as const;
const known = new Map<string, Promise<boolean>>();

/** Whether a font of this machine has a character: what is drawn for it does not have the frame of an unknown one. */
function hasFont(character: string): Promise<boolean> {
  const before = known.get(character);
  if (before !== undefined) return before;
  const found = compareFrames(character);
  known.set(character, found);
  return found;
}

async function compareFrames(character: string): Promise<boolean> {
  if (/\s|\p{C}/u.test(character)) return false; // draws nothing by itself
  const unknown = character.codePointAt(0)! > 0xffff ? UNKNOWN.long : UNKNOWN.short;
  const [own, box] = [await raw({ text: character }), await raw({ text: unknown })];
  return own !== null && box !== null && frameOf(own) !== frameOf(box);
}

/** Size and outermost pixels of an image. */
function frameOf({ data, info: { width, height, channels } }: NonNullable<Raw>): string {
  const row = width * channels;
  const sides = Array.from({ length: height }, (_, y) => [data[y * row], data[(y + 1) * row - channels]]);
  return [width, height, data.subarray(0, row).toString('hex'), data.subarray(-row).toString('hex'), sides].join(' ');
}
