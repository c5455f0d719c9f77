/** All messages in Chinese. A missing or surplus key does not compile. */
import type { english } from '../english/index.js';
import type { TableOf } from '../table.js';
import { common } from './common.js';
import { compare } from './compare.js';
import { run } from './run.js';
import { runs } from './runs.js';

export const chinese: TableOf<typeof english> = { common, compare, run, runs };
