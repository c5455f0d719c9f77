/** Every flag of `train`, grouped by the headings of its help. */
import { CONFIG_FLAGS, type Flag, flagsOf } from '@minicpm-finetune/run';
import { INPUT_FLAGS } from './input-flags.js';
import { OFFICIAL_FLAGS } from './official-flags.js';

export const TRAIN_FLAGS: readonly Flag[] = flagsOf({
  input: INPUT_FLAGS,
  ...CONFIG_FLAGS,
  official: OFFICIAL_FLAGS,
});
