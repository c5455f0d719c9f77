/** The messages and formats of the chosen language. Components that call these follow a change of it. */
import { settings } from '../shell/settings.svelte.js';
import { chinese } from './chinese/index.js';
import { english } from './english/index.js';
import { Format } from './format.js';
import type { Language, TableOf } from './table.js';

export type Messages = TableOf<typeof english>;

const TABLES: Readonly<Record<Language, Messages>> = { en: english, zh: chinese };

const FORMATS = {
  en: new Format('en', english.common.chart.noValue, english.common.notFinite),
  zh: new Format('zh', chinese.common.chart.noValue, chinese.common.notFinite),
};

/** The messages. */
export const t = (): Messages => TABLES[settings.language];

/** The formats of numbers, sizes and times. */
export const format = (): Format => FORMATS[settings.language];
