/** Opens the data of a run: datasets, order and loaders. */
import { join } from 'node:path';
import { RUN_FILES, type RunConfig } from '@minicpm-finetune/run';
import { Dataset } from '../data/dataset.js';
import { type EncoderSetup, encoderSetup } from '../data/encoder.js';
import { Loader, type MicroBatch } from '../data/loader.js';
import { preflight } from '../data/preflight.js';
import { Sampler } from '../data/sampler.js';
import type { Reporter } from '../report/reporter.js';

export interface RunData {
  readonly train: Dataset;
  readonly evaluation: Dataset | null;
  readonly encoder: EncoderSetup;
  readonly sampler: Sampler;
}

/** Opens the data files and looks at every record, for the model in `folder`. Throws UserErrors naming file and record. */
export async function openData(config: RunConfig, folder: string, reporter: Reporter): Promise<RunData> {
  const notice = (message: string): void => reporter.notice(message);
  const encoder = encoderSetup(folder, config.model, config.data);
  const train = await Dataset.open(config.data.data_path, notice);
  const evaluation =
    config.data.eval_data_path.length > 0 ? await Dataset.open(config.data.eval_data_path, notice) : null;
  const badRecords = { onBadRecord: config.data.on_bad_record, maxBadFraction: config.data.max_bad_fraction };
  const look = { encoder, badRecords, threads: null, reporter };
  const lengths = await preflight({ ...look, dataset: train });
  if (evaluation) await preflight({ ...look, dataset: evaluation });
  const sampler = trainingOrder(config, train.sizes, lengths);
  return { train, evaluation, encoder, sampler };
}

/** Which records of the training data make up which step. `lengths` are those of all records, in tokens. */
function trainingOrder(config: RunConfig, sizes: readonly number[], lengths: Uint32Array): Sampler {
  const { data_weights: weights, model_max_length: capacity } = config.data;
  const { packing, group_by_length: grouped, dataloader_drop_last: dropLast } = config.batch;
  const order = {
    sizes,
    ...(weights === null ? {} : { weights }),
    seed: config.seeds.data_seed,
    shuffle: true,
    batchSize: config.batch.per_device_train_batch_size,
    accumulation: config.batch.gradient_accumulation_steps,
  };
  if (!packing) return new Sampler({ ...order, dropLast, ...(grouped ? { lengths } : {}) });
  const { max_steps: maxSteps, num_train_epochs: wanted } = config.schedule;
  const { stepsPerEpoch } = new Sampler({ ...order, packing: { lengths, capacity } });
  const epochs = Math.max(1, Math.ceil(maxSteps > 0 ? maxSteps / stepsPerEpoch : wanted));
  return new Sampler({ ...order, packing: { lengths, capacity, epochs } });
}

/** A loader of the training data from one step to another. */
export function openLoader(
  config: RunConfig,
  data: RunData,
  steps: { start: number; end: number; knownBad: number[] },
  reporter: Reporter,
): Promise<Loader> {
  return Loader.open({
    dataset: data.train,
    sampler: data.sampler,
    encoder: data.encoder,
    startStep: steps.start,
    endStep: steps.end,
    threads: config.loader.dataloader_num_workers,
    prefetchFactor: config.loader.dataloader_prefetch_factor,
    badRecords: {
      onBadRecord: config.data.on_bad_record,
      maxBadFraction: config.data.max_bad_fraction,
      reportFile: join(config.output.output_dir, RUN_FILES.badRecords),
    },
    knownBad: steps.knownBad,
    notice: (message) => reporter.notice(message),
  });
}

/** A loader that goes once through a data set in its own order. */
export function openPass(
  config: RunConfig,
  data: RunData,
  dataset: Dataset,
  batchSize: number,
  reporter: Reporter,
): Promise<Loader> {
  const sampler = new Sampler({ sizes: dataset.sizes, seed: 0, shuffle: false, batchSize });
  return Loader.open({
    dataset,
    sampler,
    encoder: data.encoder,
    startStep: 0,
    endStep: sampler.stepsPerEpoch,
    threads: config.loader.dataloader_num_workers,
    prefetchFactor: config.loader.dataloader_prefetch_factor,
    badRecords: {
      onBadRecord: config.data.on_bad_record,
      maxBadFraction: config.data.max_bad_fraction,
      reportFile: undefined,
    },
    notice: (message) => reporter.notice(message),
  });
}

/** The micro-batches of one optimizer step at a time. */
export async function* optimizerSteps(loader: Loader): AsyncGenerator<MicroBatch[]> {
  let micros: MicroBatch[] = [];
  for await (const micro of loader) {
    micros.push(micro);
    if (micros.length < micro.micros) continue;
    yield micros;
    micros = [];
  }
}
