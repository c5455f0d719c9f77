/** All messages in English, one group for each screen. */
import { common } from './common.js';
import { compare } from './compare.js';
import { run } from './run.js';
import { runs } from './runs.js';

export const english = { common, compare, run, runs };
