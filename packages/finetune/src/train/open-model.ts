/**
 * Opens the model of a run, ready for training. Weights are loaded, adapters applied, trained parameters marked, and
 * the way of saving chosen.
 */
import { existsSync } from 'node:fs';
import { basename, join } from 'node:path';
import {
  ADAPTER_FILE,
  type AdapterPlace,
  type AppliedLora,
  adapterFileParameters,
  adapterPlaces,
  applyLora,
  type BaseFingerprint,
  type BaseModel,
  baseFingerprint,
  checkpointTensors,
  describeBase,
  loadAdapter,
  loadWeights,
  MAX_SHARD_BYTES,
  MiniCPMV,
  moveTo,
  openCheckpoint,
  quantizeLayers,
  setLoraTraining,
  sideFiles,
  trainableParameters,
  type WeightSource,
  writeAdapterFiles,
  writeCheckpointFiles,
} from '@minicpm-finetune/minicpm-v';
import { readConfig } from '@minicpm-finetune/processor';
import { formatBytes, type RunConfig } from '@minicpm-finetune/run';
import type { Parameter, Tensor } from '@minicpm-finetune/torch';
import type { SavedModel } from '../checkpoint/model-files.js';
import { readingOf, unusedByModel } from '../data/encoder.js';
import { type DeviceName, deviceNamed } from '../engine/machine.js';
import { tuneFully } from '../engine/trainables.js';
import { isOffloaded } from '../parallel/offload.js';
import { hashingTask, type Reporter } from '../report/reporter.js';
import { adapterOf, loraOptions, planTraining, readingNotices } from './plan.js';

export interface TrainingModel {
  /** On its device, but for weights that are offloaded: those come to it (parallel/sharding.ts). */
  readonly model: MiniCPMV;
  /** Its device. */
  readonly device: DeviceName;
  /** Trained parameters, by full name. */
  readonly trainable: ReadonlyMap<string, Parameter>;
  readonly trainableNumbers: number;
  readonly totalNumbers: number;
  /** Bytes of its tensors in files. */
  readonly savedBytes: number;
  /** What was said of weights, adapters and slices, for the run's record. */
  readonly notices: readonly string[];
  /** Where adapters are; null: none. */
  readonly places: readonly AdapterPlace[] | null;
  /** How the whole model, or the adapter, is saved. */
  readonly saved: SavedModel;
}

/** Adapters: those in the folder `from`, or new ones. */
function putAdapters(model: MiniCPMV, config: RunConfig, base: BaseModel, from: string | null): PutAdapters {
  if (from === null)
    return { ...applyLora(model, loraOptions(config, model), { seed: config.seeds.seed }), notices: [] };
  const fingerprint: BaseFingerprint = (format) =>
    format === 2 ? base.fingerprint : baseFingerprint(base.folder, format);
  return loadAdapter(from, model, { fingerprint, trainable: true, dropout: config.lora.lora_dropout });
}

interface PutAdapters extends AppliedLora {
  readonly notices: readonly string[];
}

/**
 * Quantizes the frozen weights under the adapters and reports the saving. Runs after the adapters are applied: modules
 * trained in full must stay unquantized.
 */
function quantize(model: MiniCPMV, type: RunConfig['lora']['q_lora_type'], reporter: Reporter): string {
  const { tensors, bytesBefore, bytesAfter, layerBytes } = quantizeLayers(model, type);
  const notice =
    `q_lora: ${tensors} linear weights of the language model are kept in ${type}, ${formatBytes(bytesAfter)} instead of ` +
    `${formatBytes(bytesBefore)}; each layer is computed again in the backward pass, with its ${formatBytes(layerBytes)} of ` +
    'dequantized weights freed behind it.';
  reporter.notice(notice);
  return notice;
}

/**
 * Loads the model in `folder` and marks what trains. `resumeFrom` is a checkpoint folder whose weights or adapter replace the start.
 */
export function prepareModel(
  config: RunConfig,
  folder: string,
  reporter: Reporter,
  resumeFrom: string | null,
): TrainingModel {
  const { dtype } = config.precision;
  const read = readConfig(folder);
  const batchSize = config.model.vision_batch_size ?? read.vision.batchSize;
  const model = new MiniCPMV({ ...readingOf(read, config), vision: { ...read.vision, batchSize } });
  const { use_lora: useLora } = config.lora;
  const from = adapterOf(config, resumeFrom);
  planTraining(config, model, from); // what cannot work is refused before the weights are read
  const full = resumeFrom !== null && !config.lora.use_lora ? resumeFrom : folder;
  const task = reporter.task('Loading weights', undefined, 'bytes');
  let bytes = 0;
  const loaded = loadWeights(model, full, {
    dtype,
    onProgress: (done) => {
      bytes = done.bytes;
      task.update(bytes, `${done.tensors}/${done.of} tensors`);
    },
  });
  task.finish(bytes);
  // what is saved beside the weights comes from the base: the checkpoint may be removed, and holds files of the run
  const source = full === folder ? loaded : { folder, tensors: openCheckpoint(folder), carried: loaded.carried };
  const base = useLora ? baseOf(config, folder, reporter) : null;
  const applied = base && putAdapters(model, config, base, from);
  if (applied !== null) setLoraTraining(model, true);
  else tuneFully(model, { tuneVision: config.trainables.tune_vision, tuneLlm: config.trainables.tune_llm });
  const trainable = trainableParameters(model);
  const said = [
    ...readingNotices(config, read),
    ...unusedByModel(config.data, read),
    ...(applied?.notices ?? []),
  ].filter((line) => line !== null);
  for (const line of said) reporter.notice(line);
  const notices = [...said, ...(config.lora.q_lora ? [quantize(model, config.lora.q_lora_type, reporter)] : [])];
  const device = deviceNamed(config.engine.device);
  if (device !== 'cpu' && !isOffloaded(config.engine.offload_params, device)) moveTo(model, device);
  const saved = applied === null ? new Map(model.namedParameters()) : trainable;
  return {
    model,
    device,
    trainable,
    trainableNumbers: count(trainable.values()),
    totalNumbers: count([...model.namedParameters()].map(([, parameter]) => parameter)),
    notices,
    places: applied && adapterPlaces(model, applied.targets),
    savedBytes: [...saved.values()].reduce((sum, { data }) => sum + data.nbytes, 0),
    saved: base === null || applied === null ? savedWeights(model, source) : savedAdapter(model, applied, base),
  };
}

function savedWeights(model: MiniCPMV, source: WeightSource): SavedModel {
  return {
    stem: 'model',
    maxShardBytes: MAX_SHARD_BYTES,
    tensors: () => checkpointTensors(model, source),
    writeOthers: (folder) => writeCheckpointFiles(model, folder, { source }),
  };
}

function savedAdapter(model: MiniCPMV, applied: AppliedLora, base: BaseModel): SavedModel {
  const tensors = (): Map<string, Tensor> =>
    new Map([...adapterFileParameters(model, applied)].map(([name, parameter]) => [name, parameter.data]));
  return {
    stem: basename(ADAPTER_FILE, '.safetensors'),
    maxShardBytes: Number.POSITIVE_INFINITY, // PEFT reads one file
    tensors,
    writeOthers: (folder) => writeAdapterFiles(folder, model, applied, base),
  };
}

interface NamedWeights {
  /** Of the model. */
  readonly folder: string;
  readonly resumeFrom: string | null;
  readonly reporter: Reporter;
}

/** Checks names, shapes and types of a run's weights, and its adapter, as `prepareModel` does. The weights are mapped from their files, not read. */
export function checkWeights(config: RunConfig, model: MiniCPMV, { folder, resumeFrom, reporter }: NamedWeights): void {
  loadWeights(model, config.lora.use_lora ? folder : (resumeFrom ?? folder));
  const from = adapterOf(config, resumeFrom);
  if (from === null) return;
  const { notices } = putAdapters(model, config, baseOf(config, folder, reporter), from);
  for (const line of notices) reporter.notice(line);
}

/** The base of the adapters, by its content. */
function baseOf({ model: { model_name_or_path: named } }: RunConfig, folder: string, reporter: Reporter): BaseModel {
  using hashing = hashingTask(reporter);
  const described = describeBase(folder, hashing.update);
  return named === folder ? described : { ...described, path: named }; // a hub id is the same on other machines
}

function count(parameters: Iterable<Parameter>): number {
  let total = 0;
  for (const { shape } of parameters) total += shape.reduce((product, size) => product * size, 1);
  return total;
}

/** Names of the files that the trained model will have, as far as they are known before it is there. */
export function resultNames(config: RunConfig, folder: string): string[] {
  if (config.lora.use_lora) return ['adapter_config.json', 'adapter_model.safetensors', 'minicpm_manifest.json'];
  return ['config.json', 'model.safetensors', 'model.safetensors.index.json', ...sideFiles(folder)];
}

/** Whether a checkpoint folder holds what this run would save. */
export function holdsModel(folder: string, config: RunConfig): boolean {
  return existsSync(join(folder, config.lora.use_lora ? 'adapter_config.json' : 'config.json'));
}
