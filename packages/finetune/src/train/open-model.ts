/**
 * Opens the model of a run, ready for training. Weights are loaded, adapters applied, trained parameters marked, and
 * the way of saving chosen.
 */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import {
  type AdapterPlace,
  type AppliedLora,
  adapterPlaces,
  applyLora,
  type BaseFingerprint,
  type BaseModel,
  baseFingerprint,
  describeBase,
  loadAdapter,
  loadWeights,
  MiniCPMV,
  moveTo,
  openCheckpoint,
  quantizeLayers,
  saveAdapter,
  saveCheckpoint,
  setLoraTraining,
  sideFiles,
  trainableParameters,
} from '@minicpm-finetune/minicpm-v';
import { readConfig, withSlice } from '@minicpm-finetune/processor';
import { formatBytes, type RunConfig, UserError } from '@minicpm-finetune/run';
import type { Parameter } from '@minicpm-finetune/torch';
import { sliceOf } from '../data/encoder.js';
import { bestDevice, type DeviceName } from '../engine/machine.js';
import { tuneFully } from '../engine/trainables.js';
import { hashingTask, type Reporter } from '../report/reporter.js';
import { loraOptions, planTraining, slicesNotice } from './plan.js';

export interface TrainingModel {
  readonly model: MiniCPMV;
  /** Its device. */
  readonly device: DeviceName;
  /** Trained parameters, by full name. */
  readonly trainable: ReadonlyMap<string, Parameter>;
  readonly trainableNumbers: number;
  readonly totalNumbers: number;
  /** Bytes that `save` writes. */
  readonly savedBytes: number;
  /** What was said of weights, adapters and slices, for the run's record. */
  readonly notices: readonly string[];
  /** Where adapters are; null: none. */
  readonly places: readonly AdapterPlace[] | null;
  /** Writes the whole checkpoint, or the adapter. */
  save(folder: string): void;
}

/** Where a training computes. */
function trainingDevice({ engine: { device } }: RunConfig): DeviceName {
  return device === 'auto' ? bestDevice() : device;
}

/** Adapters: those in the folder `from`, or new ones. */
function putAdapters(model: MiniCPMV, config: RunConfig, base: BaseModel, from: string | null): PutAdapters {
  if (from === null) return { ...applyLora(model, loraOptions(config), { seed: config.seeds.seed }), notices: [] };
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
  if (tensors === 0) {
    throw new UserError('Expected frozen linear weights in the language model for --q_lora but received none.', {
      flag: '--q_lora',
      cure: 'All of them are in --lora_modules_to_save, and trained whole: name fewer modules there, or leave out --q_lora.',
    });
  }
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
  const sliced = withSlice(read, sliceOf(read, config.model));
  const model = new MiniCPMV({ ...sliced, vision: { ...read.vision, batchSize } });
  const { use_lora: useLora, lora_weight_path: continued } = config.lora;
  const from = useLora ? (resumeFrom ?? continued) : null;
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
  if (trainable.size === 0) {
    throw new UserError('Expected something to train but received flags that freeze everything.', {
      cure: 'Give --tune_vision true, --tune_llm true or --use_lora true.',
    });
  }
  const said = [slicesNotice(config, read), ...(applied?.notices ?? [])].filter((line) => line !== null);
  for (const line of said) reporter.notice(line);
  const notices = [...said, ...(config.lora.q_lora ? [quantize(model, config.lora.q_lora_type, reporter)] : [])];
  const device = trainingDevice(config);
  if (device !== 'cpu') moveTo(model, device);
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
    save: (target) =>
      base === null || applied === null
        ? saveCheckpoint(model, target, { source })
        : saveAdapter(target, model, applied, base),
  };
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
