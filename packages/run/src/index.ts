/** The contract between a trainer and observers of a run. Configuration, events, run folder, and user errors. */

export { DEVICE } from './config/computing.js';
export * from './config/config.js';
export { OFFICIAL_LORA_TARGETS } from './config/learning.js';
export { INTERVALS, METRIC_NAMES } from './config/observing.js';
export * from './config/spec.js';
export * from './derive.js';
export * from './describe-event.js';
export * from './display-width.js';
export * from './event-log.js';
export * from './events.js';
export * from './file-memory.js';
export * from './folder.js';
export * from './format.js';
export * from './language.js';
export * from './lock.js';
export * from './median.js';
export { ENGLISH, labelled, type Messages, type Say } from './messages/translator.js';
export * from './nearest-name.js';
export * from './schedule.js';
export * from './user-error.js';
