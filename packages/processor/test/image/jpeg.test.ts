/** The walk through a JPEG file: it knows whole files by their data, and never calls one whole that the decoder refuses. */
import sharp, { type Sharp } from 'sharp';
import { beforeAll, describe, expect, it } from 'vitest';
import { decodeImage, measureImage } from '../../src/image/decode.js';
import { wholeJpegSize } from '../../src/image/jpeg.js';

const OPTIONS = { maxImagePixels: 1_000_000 };

/** Numbers that look random and are the same at every run. */
function numbers(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state * 1103515245 + 12345) % 2 ** 31;
    return state / 2 ** 31;
  };
}

function picture(width: number, height: number): Sharp {
  const random = numbers(width * height);
  const data = Uint8Array.from({ length: width * height * 3 }, (_, i) => 128 + 90 * Math.sin(i / 97) + 30 * random());
  return sharp(data, { raw: { width, height, channels: 3 } });
}

const files = new Map<string, Buffer>();
beforeAll(async () => {
  for (const [name, image] of [
    ['4:2:0', picture(61, 47).jpeg({ quality: 90 })],
    ['4:4:4', picture(40, 33).jpeg({ quality: 100, chromaSubsampling: '4:4:4' })],
    ['gray', picture(50, 21).grayscale().jpeg({ quality: 70 })],
    ['standard tables', picture(64, 64).jpeg({ quality: 60, optimiseCoding: false })],
    [
      'with a profile and EXIF',
      picture(24, 24)
        .keepMetadata()
        .withExif({ IFD0: { Artist: 'x' } })
        .jpeg(),
    ],
    ['one pixel', picture(1, 1).jpeg()],
  ] as const)
    files.set(name, await image.toBuffer());
});

describe('wholeJpegSize', () => {
  it('gives the size of whole files', async () => {
    for (const [name, bytes] of files) {
      const { width, height } = await sharp(bytes).metadata();
      expect(wholeJpegSize(bytes), name).toMatchObject({ width, height });
    }
  });

  it('says nothing of a file that is cut off, anywhere', () => {
    for (const [name, bytes] of files)
      for (let length = 0; length < bytes.length; length += 3)
        expect(wholeJpegSize(bytes.subarray(0, length)), `${name}, ${length} bytes`).toBeNull();
  });

  it('says nothing of progressive files and other formats', async () => {
    expect(wholeJpegSize(await picture(32, 32).jpeg({ progressive: true }).toBuffer())).toBeNull();
    expect(wholeJpegSize(await picture(32, 32).png().toBuffer())).toBeNull();
    expect(wholeJpegSize(new Uint8Array(0))).toBeNull();
  });

  it('calls nothing whole that the decoder refuses', async () => {
    const random = numbers(7);
    let [whole, refused] = [0, 0];
    for (const bytes of files.values()) {
      for (let round = 0; round < 250; round++) {
        const damaged = Buffer.from(bytes);
        for (let n = 1 + Math.floor(3 * random()); n > 0; n--)
          damaged[Math.floor(random() ** (round % 2 ? 1 : 3) * damaged.length)] = Math.floor(256 * random());
        const size = wholeJpegSize(damaged);
        if (size === null) refused++;
        else if (size.width * size.height <= OPTIONS.maxImagePixels) {
          whole++;
          expect(await decodeImage(damaged, OPTIONS)).toMatchObject({ width: size.width, height: size.height });
        }
      }
    }
    expect(Math.min(whole, refused)).toBeGreaterThan(100); // both happen
  });
});

describe('measureImage', () => {
  it('agrees with decodeImage on whole and damaged files', async () => {
    const all = [
      ...files.values(),
      await picture(30, 20).png().toBuffer(),
      await picture(30, 20).jpeg({ progressive: true }).toBuffer(),
    ];
    for (const bytes of all) {
      const { width, height } = await decodeImage(bytes, OPTIONS);
      expect(await measureImage(bytes, OPTIONS)).toEqual({ width, height });
      await expect(measureImage(bytes.subarray(0, bytes.length - 20), OPTIONS)).rejects.toThrow(/broken/);
      await expect(measureImage(bytes, { maxImagePixels: width * height - 1 })).rejects.toThrow(/at most/);
    }
  });
});
