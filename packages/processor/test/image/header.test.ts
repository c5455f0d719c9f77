/** Sizes by headers: the decoder's, for whole files; and what is left to the decoder. */
import { mkdtempSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import sharp from 'sharp';
import { describe, expect, it } from 'vitest';
import { measureHeader, measureImage } from '../../src/index.js';

const OPTIONS = { maxImagePixels: 1e6 };
const folder = mkdtempSync(join(tmpdir(), 'header-'));

async function noise(width: number, height: number): Promise<ReturnType<typeof sharp>> {
  const raw = Uint8Array.from({ length: width * height * 3 }, (_, i) => (i * 7919) % 251);
  return sharp(raw, { raw: { width, height, channels: 3 } });
}

type Make = (image: ReturnType<typeof sharp>) => ReturnType<typeof sharp>;
const FORMATS: readonly (readonly [name: string, make: Make])[] = [
  ['jpeg', (image) => image.jpeg()],
  ['progressive jpeg', (image) => image.jpeg({ progressive: true })],
  [
    'jpeg with a long profile',
    (image) => image.withMetadata({ exif: { IFD0: { Copyright: 'x'.repeat(20_000) } } }).jpeg(),
  ],
  ['jpeg turned by EXIF', (image) => image.withMetadata({ orientation: 6 }).jpeg()],
  ['gray jpeg', (image) => image.greyscale().jpeg()],
  ['png', (image) => image.png()],
  ['gray png', (image) => image.greyscale().png()],
  ['gif', (image) => image.gif()],
  ['webp', (image) => image.webp()],
  ['lossless webp', (image) => image.webp({ lossless: true })],
  ['webp with alpha', (image) => image.ensureAlpha(0.5).webp()],
  ['tiff', (image) => image.tiff()],
  ['turned tiff', (image) => image.withMetadata({ orientation: 6 }).tiff()],
  ['avif', (image) => image.avif()],
];

describe('the size by the header', () => {
  it.each(FORMATS)('is the decoded size: %s', async (name, make) => {
    for (const [width, height] of [
      [37, 90],
      [200, 14],
    ] as const) {
      const bytes = await make(await noise(width, height)).toBuffer();
      const path = join(folder, `${name} ${width}`);
      writeFileSync(path, bytes);
      const size = await measureImage(path, OPTIONS);
      expect(await measureHeader(path, OPTIONS)).toEqual(size);
      expect(await measureHeader(new Uint8Array(bytes), OPTIONS)).toEqual(size);
    }
  });

  it.each(FORMATS.filter(([name]) => !/tiff|avif/.test(name)))(
    'is refused for a file that is cut off as decoding refuses it: %s',
    async (name, make) => {
      const bytes = await make(await noise(64, 64)).toBuffer();
      for (const share of [0.3, 0.7, 0.98]) {
        const path = join(folder, `${name} cut`);
        writeFileSync(path, bytes.subarray(0, Math.floor(bytes.length * share)));
        const failure = (work: Promise<unknown>): Promise<unknown> =>
          work.then(
            (size) => size,
            (error: Error) => error.message,
          );
        expect(await failure(measureHeader(path, OPTIONS))).toEqual(await failure(measureImage(path, OPTIONS)));
      }
    },
  );

  it('refuses what the decoder refuses by its name or size', async () => {
    const svg = Buffer.from(
      '<svg xmlns="http://www.w3.org/2000/svg" width="40" height="40"><rect width="9" height="9"/></svg>',
    );
    await expect(measureHeader(new Uint8Array(svg), OPTIONS)).rejects.toThrow(/svg/i);
    await expect(measureHeader(new Uint8Array(Buffer.from('no picture')), OPTIONS)).rejects.toThrow(
      /text that begins with "no picture"/,
    );
    await expect(measureHeader(new Uint8Array(0), OPTIONS)).rejects.toThrow(/empty file/);
    await expect(measureHeader(join(folder, 'nowhere'), OPTIONS)).rejects.toThrow(/no such file/);
    await expect(measureHeader(folder, OPTIONS)).rejects.toThrow(/a folder/);
    const large = await (await noise(1200, 1000)).jpeg().toBuffer();
    await expect(measureHeader(new Uint8Array(large), OPTIONS)).rejects.toThrow(
      /at most 1000000 pixels but received 1200x1000/,
    );
  });
});
