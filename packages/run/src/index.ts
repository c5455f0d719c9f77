/** The contract between trainer and observers of a run: configuration, events, run folder, and the user's errors. */

export * from './config.js';
export * from './derive.js';
export * from './describe-event.js';
export * from './event-log.js';
export * from './events.js';
export * from './folder.js';
export * from './format.js';
export * from './median.js';
export * from './nearest-name.js';
export * from './schedule.js';
export * from './user-error.js';
