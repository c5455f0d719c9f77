/**
 * The chosen frames of a video as RGB pictures. They come one after the other: no more than a few of them are in memory at once.
 */
import { shownPath, UserError } from '@minicpm-finetune/run';
import { decodeImage } from '../image/decode.js';
import type { RgbImage } from '../image/resize.js';
import type { OpenClip } from './clip.js';
import { type Decoding, decode, type VideoLimits } from './ffmpeg.js';

/**
 * Decodes the frames at `indices`, which ascend and may repeat.
 * @param limits of a video that a stranger sent; aborted, its reason is thrown
 * @throws UserError for a video that is damaged or ends before one of them
 */
export async function* readFrames(
  clip: OpenClip,
  indices: readonly number[],
  maxImagePixels: number,
  limits?: VideoLimits,
): AsyncGenerator<RgbImage> {
  if (clip.files !== null) {
    for (const index of indices) yield await decodeImage(clip.files[index]!, { maxImagePixels });
    return;
  }
  const different = [...new Set(indices)];
  let at = 0;
  let shown = 0;
  for await (const frame of framesOfFile(clip, different, maxImagePixels, limits)) {
    for (; indices[at] === different[shown]; at++) yield frame;
    shown++;
  }
}

async function* framesOfFile(
  clip: OpenClip,
  indices: readonly number[],
  maxImagePixels: number,
  limits: VideoLimits | undefined,
): AsyncGenerator<RgbImage> {
  const { width, height } = clip;
  const path = clip.source as string;
  const decoding = decode(path, indices, limits, maxImagePixels);
  let read = 0;
  try {
    for await (const data of inPieces(decoding.bytes, width * height * 3)) {
      if (read < indices.length) yield { data, width, height };
      read++;
    }
    await finish(decoding, path, indices, read);
  } finally {
    decoding.stop();
  }
}

async function finish(decoding: Decoding, path: string, indices: readonly number[], read: number): Promise<void> {
  const { code, complaint } = await decoding.ended;
  if (code === 0 && read === indices.length) return;
  const said = complaint === undefined ? '' : `: ${complaint}`;
  const where = read < indices.length ? `frame ${indices[read]}` : 'its end';
  throw new UserError(
    `Expected a readable video in ${shownPath(path)} but received one that is damaged at ${where}${said}.`,
    {
      cure: 'Repair or replace the file (ffmpeg -i OLD NEW often repairs one), or remove the record.',
    },
  );
}

/** Bytes in pieces of one size; a rest is dropped. */
async function* inPieces(chunks: AsyncIterable<Buffer>, size: number): AsyncGenerator<Uint8Array> {
  let piece = new Uint8Array(size);
  let filled = 0;
  for await (const chunk of chunks) {
    for (let from = 0; from < chunk.length; ) {
      const count = Math.min(size - filled, chunk.length - from);
      piece.set(chunk.subarray(from, from + count), filled);
      filled += count;
      from += count;
      if (filled < size) continue;
      yield piece;
      piece = new Uint8Array(size);
      filled = 0;
    }
  }
}
