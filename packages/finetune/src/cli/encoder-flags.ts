/** What check-data and render share: from flags to how records are encoded. */

import { expected } from '@minicpm-finetune/run';
import type { EncoderDataFlags, EncoderModelFlags, EncoderSetup } from '../data/encoder.js';
import { flagValue } from './cli-command.js';
import type { Flag, GivenValues } from './flags.js';

/** The value of a flag that has to be given. Throws UserError if it is not. */
export function requiredValue<T>(given: GivenValues, flags: readonly Flag[], name: string): T {
  const flag = flags.find((candidate) => candidate.name === name)!;
  if (given.has(name)) return flagValue<T>(given, flag);
  throw expected('a value', `--${name}`, undefined, {
    flag: `--${name}`,
    cure: `${flag.help} Give it as --${name} <${flag.placeholder}>.`,
  });
}

/** How the flags of a command (those of `train` of the same names) say that records are encoded. Throws UserError. */
export async function encoderFromFlags(given: GivenValues, flags: readonly Flag[]): Promise<EncoderSetup> {
  const { encoderSetup } = await import('../data/encoder.js');
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
  return encoderSetup(requiredValue(given, flags, 'model_name_or_path'), model, data);
}
