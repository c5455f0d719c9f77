/** All Chinese messages by their English templates. */
import type { Messages } from '../translator.js';
import { ADAPTERS } from './adapters.js';
import { ANSWERS } from './answers.js';
import { CLI } from './cli.js';
import { CONFIG } from './config.js';
import { DASHBOARD } from './dashboard.js';
import { DATA } from './data.js';
import { ESTIMATE } from './estimate.js';
import { EXPORT } from './export.js';
import { FILES } from './files.js';
import { GENERAL } from './general.js';
import { HUB } from './hub.js';
import { LAUNCH } from './launch.js';
import { LIBTORCH } from './libtorch.js';
import { MODEL } from './model.js';
import { PICTURES } from './pictures.js';
import { PREFERENCE } from './preference.js';
import { RECORDS } from './records.js';
import { REPORTS } from './reports.js';
import { RUN_FOLDER } from './run-folder.js';
import { SAME_DATA } from './same-data.js';
import { SERVE } from './serve.js';
import { TRAINING } from './training.js';
import { UI } from './ui.js';
import { VIDEOS } from './videos.js';

/** The topics, each with its templates; a template is in one of them. */
export const CHINESE_TOPICS: Readonly<Record<string, Messages>> = {
  general: GENERAL,
  cli: CLI,
  answers: ANSWERS,
  reports: REPORTS,
  config: CONFIG,
  data: DATA,
  records: RECORDS,
  pictures: PICTURES,
  videos: VIDEOS,
  model: MODEL,
  hub: HUB,
  training: TRAINING,
  preference: PREFERENCE,
  estimate: ESTIMATE,
  sameData: SAME_DATA,
  launch: LAUNCH,
  libtorch: LIBTORCH,
  files: FILES,
  adapters: ADAPTERS,
  runFolder: RUN_FOLDER,
  export: EXPORT,
  serve: SERVE,
  ui: UI,
  dashboard: DASHBOARD,
};
