/** All messages in Chinese. A missing or surplus key does not compile. */
import type { english } from '../english/index.js';
import type { TableOf } from '../table.js';
import { chat } from './chat.js';
import { checkpoints } from './checkpoints.js';
import { common } from './common.js';
import { compare } from './compare.js';
import { data } from './data.js';
import { machine } from './machine.js';
import { newRun } from './new-run.js';
import { run } from './run.js';
import { runs } from './runs.js';

export const chinese: TableOf<typeof english> = {
  chat,
  checkpoints,
  common,
  compare,
  data,
  machine,
  newRun,
  run,
  runs,
};
