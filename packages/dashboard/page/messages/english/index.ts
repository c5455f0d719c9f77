/** All messages in English, one group for each screen. */
import { common } from './common.js';
import { run } from './run.js';
import { runs } from './runs.js';

export const english = { common, run, runs };
