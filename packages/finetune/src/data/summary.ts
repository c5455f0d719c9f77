/**
 * What check-data reports about one record. Its length, its supervised tokens, slices, frames, and oddities.
 * Numbers only, so that no pixels travel between threads.
 */
import { type EncodedSample, type EncodeNotice, foreignPicture } from '@minicpm-finetune/processor';
import { shown } from '@minicpm-finetune/run';
import type { Encoder } from './encoder.js';
import { type ImageGrid, shownMedia } from './image-grids.js';
import { type DataRecord, nameOfTurn } from './record.js';

export interface RecordSummary {
  /** Tokens of the whole record, nothing cut off. */
  readonly tokens: number;
  /** Tokens that the model learns to produce. */
  readonly supervised: number;
  /** Of two answers: tokens of each, and of the longer one with its prompt. */
  readonly answers?: { readonly lengths: readonly [number, number]; readonly longest: number };
  /** Slices of each image beside its overview; empty for a text-only record. */
  readonly slices: readonly number[];
  /** Frames of each video. */
  readonly frames: readonly number[];
  /** Allowed but probably unintended. */
  readonly warnings: readonly string[];
}

/** Encodes a record without a limit on its length, and again within the limit if it is longer. Throws UserError as training would. */
export async function summarize(
  record: DataRecord,
  encoder: Encoder,
  stranger?: DataRecord,
): Promise<{ value: RecordSummary; notices: readonly EncodeNotice[] }> {
  const pixels = encoder.setup.compat === 'official';
  const whole = await encoder.encode(
    record,
    { maxLength: Number.MAX_SAFE_INTEGER, overlong: 'error', pixels },
    stranger,
  );
  const sample = whole.sample!;
  const tokens = sample.inputIds.length;
  const fitted = tokens > encoder.setup.maxLength ? await encoder.encode(record, { pixels }, stranger) : whole;
  const { images, videos } = shownMedia(sample, encoder.tokenizer);
  const value = {
    tokens,
    supervised: countSupervised(sample.labels),
    slices: images.map(({ grid }) => slicesOf(grid)),
    frames: videos.map((video) => video.frames.length),
    warnings: [...warnings(record), ...promptWarnings(record, sample)],
  };
  return { value: { ...value, ...answersOf(sample) }, notices: fitted.notices };
}

function answersOf({ answers, labels }: EncodedSample): Pick<RecordSummary, 'answers'> {
  if (answers === undefined) return {};
  const { first, shared } = answers;
  const parts = [labels.subarray(0, first), labels.subarray(first)] as const;
  const longest = Math.max(first, shared + labels.length - first);
  return { answers: { lengths: [countSupervised(parts[0]), countSupervised(parts[1])], longest } };
}

function promptWarnings({ rejected, image }: DataRecord, { answers }: EncodedSample): string[] {
  if (rejected === undefined || rejected.image !== image || answers === undefined || answers.shared > 0) return [];
  return ['The prompts of the two answers differ: each is computed with its own, and the pictures twice.'];
}

const slicesOf = (grid: ImageGrid): number => (grid ? grid.columns * grid.rows : 0);

function countSupervised(labels: Int32Array): number {
  let count = 0;
  for (const label of labels) if (label !== -100) count++;
  return count;
}

/** The replacement character: what stands there was lost before. */
const LOST = '\uFFFD';

function warnings(record: DataRecord): string[] {
  return record.conversations.flatMap(({ role, content }, index) => {
    const turn = nameOfTurn(record, index);
    const found: string[] = [];
    if (role === 'assistant' && content.trim() === '')
      found.push(`The answer in ${turn} is empty: the model learns to say nothing there.`);
    const lost = content.indexOf(LOST);
    if (lost !== -1)
      found.push(
        `The text of ${turn} has the replacement character U+FFFD as character ${lost + 1}: what stood there was lost when the file was written.`,
      );
    const picture = role === 'user' ? undefined : foreignPicture(content);
    if (picture !== undefined)
      found.push(`The text of ${turn} (${role}) names a picture, ${shown(picture.written)}, and is read as text.`);
    return found;
  });
}
