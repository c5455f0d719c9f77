import { createHash } from 'node:crypto';
import { mkdtempSync, readFileSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { UserError } from '@minicpm-finetune/run';
import { describe, expect, it } from 'vitest';
import { decodeImage } from '../../src/image/decode.js';

const FOLDER = join(import.meta.dirname, '../fixtures/pictures');
const { pictures } = JSON.parse(readFileSync(join(FOLDER, 'expected.json'), 'utf8')) as {
  pictures: { file: string; size?: [number, number]; sha256?: string; error?: true }[];
};
const readable = pictures.filter(({ error }) => !error);
const broken = pictures.filter(({ error }) => error);
const OPTIONS = { maxImagePixels: 1_000_000 };

function sha256(data: Uint8Array): string {
  return createHash('sha256').update(data).digest('hex');
}

function temporary(name: string, content: string | Uint8Array): string {
  const path = join(mkdtempSync(join(tmpdir(), 'decode-')), name);
  writeFileSync(path, content);
  return path;
}

describe('decodeImage', () => {
  it.each(readable)('gives what Pillow gives: $file', async ({ file, size, sha256: expected }) => {
    const image = await decodeImage(join(FOLDER, file), OPTIONS);
    expect([image.width, image.height]).toEqual(size);
    expect(image.data.length).toBe(size![0] * size![1] * 3);
    expect(sha256(image.data)).toBe(expected);
  });

  it('takes the bytes of a file as well', async () => {
    const image = await decodeImage(readFileSync(join(FOLDER, 'rgb.png')), OPTIONS);
    expect(sha256(image.data)).toBe(pictures.find(({ file }) => file === 'rgb.png')!.sha256);
  });

  it.each(['animation.gif', 'animation.webp'])('says that only the first frame of %s is used', async (file) => {
    const notices: string[] = [];
    await decodeImage(join(FOLDER, file), { ...OPTIONS, notice: (message) => notices.push(message) });
    expect(notices).toEqual([expect.stringContaining('2 frames')]);
  });

  it.each(broken)('refuses the cut file $file', async ({ file }) => {
    const error: unknown = await decodeImage(join(FOLDER, file), OPTIONS).catch((e: unknown) => e);
    expect(error).toBeInstanceOf(UserError);
    expect((error as UserError).message).toMatch(/^Expected .* but received /);
    expect((error as UserError).cure).toBeTruthy();
  });

  it('refuses what is not there', async () => {
    await expect(decodeImage('/nowhere/a.png', OPTIONS)).rejects.toThrow('/nowhere/a.png" but received no such file');
    await expect(decodeImage(FOLDER, OPTIONS)).rejects.toThrow('but received a folder');
  });

  it('refuses what is not a picture', async () => {
    await expect(decodeImage(temporary('empty.png', ''), OPTIONS)).rejects.toThrow('received an empty file');
    await expect(decodeImage(temporary('text.jpg', 'not a picture'), OPTIONS)).rejects.toThrow(
      'received text that begins with "not a picture"',
    );
    const svg = '<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"></svg>';
    await expect(decodeImage(temporary('drawing.svg', svg), OPTIONS)).rejects.toThrow('but received an SVG drawing');
    await expect(decodeImage(temporary('a.bmp', `BM${'x'.repeat(40)}`), OPTIONS)).rejects.toThrow(UserError);
  });

  it('refuses run-length compressed bitmaps by name', async () => {
    const bytes = Uint8Array.from(readFileSync(join(FOLDER, 'gray8.bmp')));
    bytes[30] = 1;
    await expect(decodeImage(bytes, OPTIONS)).rejects.toThrow('compression type 1');
  });

  it.each(['rgb.png', 'rgb24.bmp', 'plain.gif'])('refuses %s when it has more pixels than allowed', async (file) => {
    const error: unknown = await decodeImage(join(FOLDER, file), { maxImagePixels: 390 }).catch((e: unknown) => e);
    expect(error).toMatchObject({ flag: '--max_image_pixels' });
    expect((error as Error).message).toContain('at most 390 pixels but received 23x17 = 391');
  });
});
