/** The encoder flags that check-data and render share. */

import type { Flag } from '@minicpm-finetune/run';
import type { GivenValues } from '../../config/flags.js';
import type { EncoderDataFlags, EncoderModelFlags, EncoderSetup } from '../../data/encoder.js';
import { type CommandIO, flagValue } from '../cli-command.js';
import { modelFolder } from './model-flag.js';

/**
 * How the flags of a command (those of `train` of the same names) say that records are encoded. A model of the hub is downloaded without its
 * weights; `stderr` shows that. Throws UserError.
 */
export async function encoderFromFlags(
  given: GivenValues,
  flags: readonly Flag[],
  io: CommandIO,
): Promise<EncoderSetup> {
  const { encoderSetup } = await import('../../data/encoder.js');
  const value = <T>(name: string): T => flagValue<T>(given, flags.find((flag) => flag.name === name)!);
  const model: EncoderModelFlags = {
    llm_type: value('llm_type'),
    max_slice_nums: value('max_slice_nums'),
    scale_resolution: value('scale_resolution'),
  };
  const data: EncoderDataFlags = {
    model_max_length: value('model_max_length'),
    overlong: value('overlong'),
    compat: value('compat'),
    allow_special_text: value('allow_special_text'),
    max_image_pixels: value('max_image_pixels'),
  };
  return encoderSetup(await modelFolder(given, flags, 'model_name_or_path', io, false), model, data);
}
