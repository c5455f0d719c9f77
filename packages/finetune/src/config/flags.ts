/** Values of flags as they were given, and where. What a flag is stands in the tables (`FlagSpec` of the package `run`). */
import type { Source } from '@minicpm-finetune/run';

/** A value as given, after validation. */
export interface Given {
  value: unknown;
  source: Source;
}

/** Values by flag name. Only what a user gave; no defaults. */
export type GivenValues = ReadonlyMap<string, Given>;
