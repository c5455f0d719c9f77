/** Opens the data of a run: datasets, order and loaders. */
import { join } from 'node:path';
import { type RunConfig, UserError } from '@minicpm-finetune/run';
import { type RecordsState, readRecords } from '../checkpoint/records.js';
import { Dataset } from '../data/dataset.js';
import { type EncoderSetup, encoderSetup } from '../data/encoder.js';
import { Loader, type MicroBatch } from '../data/loader.js';
import { preflight } from '../data/preflight.js';
import { fixedRecords } from '../data/question.js';
import { Sampler } from '../data/sampler.js';
import type { Reporter } from '../report/reporter.js';
import type { Checkpoint } from './resume.js';
import { compareRecords } from './same-data.js';

const BAD_RECORDS_FILE = 'bad_records.jsonl';

export interface RunData {
  readonly train: Dataset;
  readonly evaluation: Dataset | null;
  readonly encoder: EncoderSetup;
  readonly sampler: Sampler;
  /** Of the training data. */
  readonly records: RecordsState;
}

/**
 * Opens the data files and looks at every record, for the model in `folder`. For a resumed run the data are compared with those of the
 * checkpoint, whose order they keep. Throws UserErrors naming file and record.
 */
export async function openData(
  config: RunConfig,
  folder: string,
  checkpoint: Checkpoint | null,
  reporter: Reporter,
): Promise<RunData> {
  const notice = (message: string): void => reporter.notice(message);
  const encoder = encoderSetup(folder, config.model, config.data);
  const train = await Dataset.open(config.data.data_path, notice);
  const evaluation =
    config.data.eval_data_path.length > 0 ? await Dataset.open(config.data.eval_data_path, notice) : null;
  const badRecords = { onBadRecord: config.data.on_bad_record, maxBadFraction: config.data.max_bad_fraction };
  const look = { encoder, purpose: 'training', mode: 'quick', badRecords, threads: null, reporter } as const;
  const { texts, stamps, lengths, bad } = await preflight({ ...look, dataset: train });
  if (evaluation) await preflight({ ...look, dataset: evaluation });
  const asked = evaluation === null ? 0 : config.eval.eval_generate;
  if (evaluation && asked > 0) {
    const indices = Uint32Array.from(fixedRecords(evaluation.length, asked));
    await preflight({ ...look, dataset: evaluation, purpose: 'question', indices });
  }
  const fresh = { sizes: train.sizes, texts, stamps, lengths, used: new BigUint64Array(train.length) };
  const before = config.save.resume_anyway || checkpoint === null ? null : readRecords(checkpoint.folder);
  if (before !== null) {
    const failed = checkpoint?.failedRecord ?? null;
    await compareRecords({ dataset: train, encoder, now: { texts, stamps, bad }, before, failed, reporter });
  } else if (checkpoint !== null && !config.save.resume_anyway) compareFingerprints(checkpoint, train);
  const records = before === null ? fresh : { ...fresh, lengths: before.lengths, used: before.used };
  const sampler = trainingOrder(config, train.sizes, records.lengths);
  return { train, evaluation, encoder, sampler, records };
}

/** For checkpoints of earlier versions, which know of the data as a whole only. */
function compareFingerprints(checkpoint: Checkpoint, { fingerprint, files }: Dataset): void {
  if (checkpoint.fingerprint === fingerprint) return;
  throw new UserError(
    `Expected the data the checkpoint was trained on for --data_path but received ${files.map(({ index }) => index.path).join(', ')} with another content.`,
    {
      file: files[0]!.index.path,
      flag: '--data_path',
      cure: 'Give the same data files in the same order, or --resume_anyway true to continue with other data.',
    },
  );
}

/** Remembers which records a step has used, and the pictures they had. */
export function markUsed({ records: { used } }: RunData, micros: readonly MicroBatch[]): void {
  for (const { indices, contents } of micros) for (const [i, index] of indices.entries()) used[index] = contents[i]!;
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
      reportFile: join(config.output.output_dir, BAD_RECORDS_FILE),
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
