import sharp from 'sharp';
import { describe, expect, it } from 'vitest';
import { drawSvg } from '../src/pictures/svg.js';
import { cellsOf, rowsOf, screenOf } from '../src/pictures/terminal.js';

const texts = (text: string, columns = 20): string[] => rowsOf(text, columns).map((row) => row.text);

describe('screens of a terminal', () => {
  it('keep lines, overwrite after a carriage return and clear', () => {
    expect(texts('one\r\ntwo')).toEqual(['one', 'two']);
    expect(texts('step 1\r\u001b[2Kstep 22\r\u001b[2Kdone\n')).toEqual(['done', '']);
    expect(texts('\u001b[1;32mgreen\u001b[0m')).toEqual(['green']);
    expect(texts('cut in a code\u001b[2')).toEqual(['cut in a code']);
  });

  it('wrap long lines and remember where they began', () => {
    expect(rowsOf('$ abcdefgh', 6)).toEqual([
      { text: '$ abcd', line: '$ abcd' },
      { text: 'efgh', line: '$ abcd' },
    ]);
  });

  it('give Chinese characters two cells', () => {
    expect(cellsOf('a数字')).toBe(5);
    expect(texts('数字数', 5)).toEqual(['数字', '数']);
  });

  it('end in the last rows that show something', () => {
    expect(screenOf('1\n2\n3\n\n', 20, 2).map((row) => row.text)).toEqual(['2', '3']);
  });
});

describe('the picture', () => {
  it('is an SVG that shows the last screen without animation', async () => {
    const png = await sharp({ create: { width: 2, height: 2, channels: 3, background: 'white' } })
      .png()
      .toBuffer();
    const screens = [screenOf('first', 20, 2), screenOf('$ last <&>', 20, 2)];
    const answered = [{ png, answer: '7', right: true }];
    const svg = drawSvg({ screens, columns: 20, height: 2, title: 'digits read', caption: 'digits', answered });
    expect(svg).toContain('<title>digits read</title>');
    expect(svg).toContain('$ last &lt;&amp;&gt;');
    expect(svg.match(/<g id="s0" opacity="0">/)).not.toBeNull();
    expect(svg.match(/<g id="s1">/)).not.toBeNull();
    const { width, height } = await sharp(Buffer.from(svg)).metadata();
    expect([width, height]).toEqual([204, 184]);
  });
});
