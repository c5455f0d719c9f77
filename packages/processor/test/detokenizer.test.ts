import { describe, expect, it } from 'vitest';
import { tokenizerFolder, VERSION_NAMES } from '../../minicpm-v/test/support/tiny.js';
import { strip } from '../src/chat/python.js';
import { Detokenizer } from '../src/detokenizer.js';
import { Tokenizer } from '../src/tokenizer.js';

const TEXTS = [
  'Hello, world.',
  '  \n leading and trailing space \n\n',
  'two  spaces,\ttabs\tand\n\nlines',
  '你好，世界！图片里是一只猫。',
  'emoji 👩‍👩‍👧 🇫🇷 and é combining e\u0301',
  'עברית العربية ไทย',
  '<box>1 2 3 4</box> in answers',
  '�',
];

async function stream(tokenizer: Tokenizer, ids: readonly number[]): Promise<string[]> {
  const text = new Detokenizer(tokenizer);
  const pieces: string[] = [];
  for (const id of ids) pieces.push(await text.push(id));
  return [...pieces, await text.end()];
}

for (const version of VERSION_NAMES) {
  describe(version, () => {
    const tokenizer = Tokenizer.load(tokenizerFolder(version));

    it('gives whole characters, together the text stripped at both ends', async () => {
      for (const text of TEXTS) {
        const ids = await tokenizer.encode(text);
        const pieces = await stream(tokenizer, ids);
        expect(pieces.join('')).toBe(strip(await tokenizer.decode(ids)));
        for (const piece of pieces) {
          expect(piece).not.toMatch(/[\ud800-\udfff]/u); // no half of a surrogate pair
          if (!text.includes('�')) expect(piece).not.toContain('�');
        }
      }
    });

    it('continues a text: white space between them is the answer’s', async () => {
      const ids = await tokenizer.encode('one two  three four');
      for (let cut = 1; cut < ids.length; cut++) {
        const before = ids.slice(0, cut);
        const text = new Detokenizer(tokenizer, before);
        let rest = '';
        for (const id of ids.slice(cut)) rest += await text.push(id);
        rest += await text.end();
        expect((await tokenizer.decode(before)) + rest).toBe(await tokenizer.decode(ids));
      }
    });

    it('gives text as soon as it is certain', async () => {
      const ids = await tokenizer.encode('one two three four five six');
      const pieces = await stream(tokenizer, ids);
      expect(pieces.filter((piece) => piece !== '').length).toBeGreaterThan(5);
      expect(pieces.at(-1)).toBe('');
    });

    it('shows what remains of a character that never became whole', async () => {
      const ids = await tokenizer.encode('a🦜');
      const pieces = await stream(tokenizer, ids.slice(0, -1));
      expect(pieces.slice(0, -1).join('')).toBe('a');
      expect(pieces.at(-1)).toMatch(/^�+$/);
    });

    it('agrees with decoding everything at once for any ids', async () => {
      let state = 7;
      for (let round = 0; round < 60; round++) {
        const ids = Array.from({ length: 24 }, () => {
          state = (Math.imul(state, 1103515245) + 12345) >>> 0;
          return (state >>> 8) % tokenizer.size;
        });
        expect((await stream(tokenizer, ids)).join('')).toBe(strip(await tokenizer.decode(ids)));
      }
    });
  });
}
