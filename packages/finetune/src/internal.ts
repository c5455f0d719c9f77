/**
 * Training parts for this repository's private packages. Single steps, the optimizer, the meter. Not a public
 * interface: it may change in any version.
 */
export { type Measurement, StepMeter } from './cli/bench/meter.js';
export { resolveConfig } from './config/resolve.js';
export { type Batch, collate, disposeBatch, pack, type Sequence } from './engine/collate.js';
export { denseRows } from './engine/gradients.js';
export { StartReference, startOfTrained } from './engine/live-reference.js';
export { lossSum } from './engine/loss.js';
export { type DeviceName, startEngine } from './engine/machine.js';
export { matmulSpeed } from './engine/matmul.js';
export { evaluateBatch, headOf } from './engine/micro-batch.js';
export { Optimizer, optimizerSettings, withoutDecay } from './engine/optimizer.js';
export { PreferenceStep } from './engine/preference.js';
export { NO_REWARDS, type PreferenceOptions } from './engine/preference-loss.js';
export { type Gradients, lossAndGradients, type StepResult, trainStep } from './engine/step.js';
export { tracedGroup } from './engine/traced-group.js';
export { tuneFully } from './engine/trainables.js';
export { VisionCache } from './engine/vision-cache.js';
export { SHARED_GPUS, visibleGpus } from './launch/gpus.js';
export { launch } from './launch/launcher.js';
export { asMember } from './launch/member.js';
export { placeFromEnvironment } from './launch/place.js';
export { type Ranks, soloRanks } from './parallel/ranks.js';
export { Sharding, type Stage } from './parallel/sharding.js';
export { Progress } from './report/progress.js';
export { SILENT } from './report/reporter.js';
export { prepareModel } from './train/open-model.js';
