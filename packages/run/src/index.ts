/** The contract between a trainer and observers of a run. Configuration, events, run folder, and user errors. */

export { coerce } from './config/coerce.js';
export { DEVICE } from './config/computing.js';
export * from './config/config.js';
export { DERIVED_FLAGS, type DerivedValue, derivedValue } from './config/derived.js';
export { OFFICIAL_LORA_TARGETS } from './config/learning.js';
export { INTERVALS, METRIC_NAMES } from './config/observing.js';
export { PREFERENCE_METRICS, type PreferenceLoss } from './config/preference.js';
export { nameAt, placeOf, type Source } from './config/source.js';
export * from './config/spec.js';
export * from './derive.js';
export * from './describe-event.js';
export * from './disk-space.js';
export * from './display-width.js';
export * from './event-log.js';
export * from './events.js';
export * from './file-content.js';
export * from './file-memory.js';
export { unseenName } from './files/characters.js';
export { findEncodingMistake, findEncodingMistakeIn, wideEncoding } from './files/encoding.js';
export * from './files/json.js';
export { excerpt, findJsonMistake, type JsonMistake } from './files/json-mistake.js';
export * from './files/kind.js';
export * from './files/similar-path.js';
export * from './files/text.js';
export * from './folder.js';
export * from './format.js';
export * from './language.js';
export * from './lock.js';
export {
  isGone as isHolderGone,
  type LockHolder,
  processOf as runningProcess,
  self as thisProcess,
} from './lock-holder.js';
export * from './median.js';
export { ENGLISH, labelled, type Messages, type Say } from './messages/translator.js';
export * from './nearest-name.js';
export * from './outtypes.js';
export * from './own-files.js';
export * from './schedule.js';
export { escapeUnseen, MOST_SHOWN, shown, shownNames, shownPath } from './shown.js';
export * from './steps.js';
export * from './tf-record.js';
export * from './user-error.js';
