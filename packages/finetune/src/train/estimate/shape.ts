/** The size of a micro-batch. What a configuration allows at most, or what the data have. */
import { countTokens, type ModelConfig } from '@minicpm-finetune/processor';
import type { RunConfig } from '@minicpm-finetune/run';
import { sliceOf } from '../../data/encoder.js';

/** A picture or slice in patches. */
interface Grid {
  readonly rows: number;
  readonly cols: number;
}

export interface BatchShape {
  readonly sequences: readonly { readonly tokens: number; readonly pictures: readonly Grid[] }[];
}

/** Tokens of a micro-batch. */
export const tokensOf = ({ sequences }: BatchShape): number => sequences.reduce((all, { tokens }) => all + tokens, 0);

/** Pictures and slices of a micro-batch. */
export const picturesOf = ({ sequences }: BatchShape): number =>
  sequences.reduce((all, { pictures }) => all + pictures.length, 0);

/**
 * The largest micro-batch of a configuration: sequences of model_max_length tokens, each with `images` pictures cut into as many slices as
 * the settings allow and the tokens have room for.
 */
export function largestShape(config: RunConfig, read: ModelConfig, images: number): BatchShape {
  const sequence = {
    tokens: config.data.model_max_length,
    pictures: gridsOf(config, read, config.data.model_max_length, images),
  };
  return { sequences: Array.from({ length: config.batch.per_device_train_batch_size }, () => sequence) };
}

/** A micro-batch of `tokens` tokens in `records` records with `images` pictures each. */
export function shapeOf(config: RunConfig, read: ModelConfig, tokens: readonly number[], images: number): BatchShape {
  return { sequences: tokens.map((count) => ({ tokens: count, pictures: gridsOf(config, read, count, images) })) };
}

function gridsOf(config: RunConfig, read: ModelConfig, tokens: number, images: number): Grid[] {
  const { maxSliceNums, scaleResolution, patchSize, multiple } = sliceOf(read, config.model);
  const side = Math.max(1, Math.round(scaleResolution / multiple)) * (multiple / patchSize);
  const grid = { rows: side, cols: side };
  const each = read.sliceMode && maxSliceNums > 1 ? maxSliceNums + 1 : 1;
  const room = Math.floor((tokens - 1) / (countTokens(read.pictureTokens, grid) + 2)); // each between two marks
  return Array.from({ length: Math.max(0, Math.min(images * each, room)) }, () => grid);
}
