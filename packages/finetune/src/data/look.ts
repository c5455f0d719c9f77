/**
 * A quick look at a record without decoding pictures. Finds everything that can be wrong or measured that way. For the
 * preflight of a run; encoding finds the rest (a picture that is cut off) when the record's turn comes.
 */
import {
  chatTemplate,
  checkRecord,
  decodeImage,
  type ImageSource,
  PILLOW_MAX_PIXELS,
  planSlices,
} from '@minicpm-finetune/processor';
import sharp from 'sharp';
import type { Encoder } from './encoder.js';
import { type DataRecord, imagesOf } from './record.js';

/** Marks around each picture. */
const TOKENS_PER_PICTURE = 2;
/** Header and end of a turn. */
const TOKENS_PER_TURN = 5;

/** The record's length in tokens, within a few of the true one. Throws UserError as encoding would. */
export async function look(record: DataRecord, encoder: Encoder): Promise<number> {
  const { setup, tokenizer } = encoder;
  const template = chatTemplate(setup.llmType, tokenizer);
  checkRecord(record, { ...setup, tokenizer });
  let tokens = record.conversations[0]?.role === 'system' ? 0 : (await tokenizer.encode(template.begin)).length;
  for (const { content } of record.conversations) {
    tokens += TOKENS_PER_TURN + (await tokenizer.encode(content, { plain: true })).length;
  }
  for (const source of imagesOf(record)) {
    const [width, height] = await imageSize(source, setup.maxImagePixels ?? PILLOW_MAX_PIXELS);
    const grid = setup.sliceConfig ? planSlices([width, height], setup.sliceConfig).grid : null;
    tokens += (1 + (grid ? grid[0] * grid[1] : 0)) * (setup.queryNum + TOKENS_PER_PICTURE);
  }
  return tokens;
}

/** Size in pixels from the file's header; what has no readable header, or is too large, is left to the decoder and its messages. */
async function imageSize(source: ImageSource, maxImagePixels: number): Promise<[width: number, height: number]> {
  const header = await sharp(source)
    .metadata()
    .catch(() => undefined);
  if (header && header.width * header.height <= maxImagePixels) return [header.width, header.height];
  const { width, height } = await decodeImage(source, { maxImagePixels });
  return [width, height];
}
