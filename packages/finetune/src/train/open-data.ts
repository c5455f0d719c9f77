/** Opens the data of a run: datasets, order and loaders. */
import { join } from 'node:path';
import { RUN_FILES, type RunConfig, UserError } from '@minicpm-finetune/run';
import { type RecordsState, readRecords } from '../checkpoint/records.js';
import { type BadRecordPolicy, BadRecords } from '../data/bad-records.js';
import { Dataset } from '../data/dataset.js';
import { DecodeAhead } from '../data/decode-ahead.js';
import { type EncoderSetup, encoderSetup } from '../data/encoder.js';
import { UNKNOWN } from '../data/identity.js';
import { Loader, type MicroBatch } from '../data/loader.js';
import { Memory } from '../data/memory.js';
import { type Preflight, preflight } from '../data/preflight.js';
import { fixedRecords } from '../data/question.js';
import { Sampler } from '../data/sampler.js';
import type { Reporter } from '../report/reporter.js';
import { refuseShown } from './kept-files.js';
import type { Checkpoint } from './resume.js';
import { compareRecords } from './same-data.js';

export interface RunData {
  readonly train: Dataset;
  readonly evaluation: Dataset | null;
  readonly encoder: EncoderSetup;
  readonly sampler: Sampler;
  /** Of the training data. */
  readonly records: RecordsState;
  /** What the preflight found out. */
  readonly known: Preflight;
  readonly knownEvaluation: Preflight | null;
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
    config.data.eval_data_path.length > 0
      ? await Dataset.open(config.data.eval_data_path, notice, '--eval_data_path')
      : null;
  const badRecords = badRecordPolicy(config);
  const memory = new Memory({ notice });
  const mode = config.data.preflight;
  const look = { encoder, purpose: 'training', mode, badRecords, threads: null, memory, reporter } as const;
  const known = await preflight({ ...look, dataset: train });
  const knownEvaluation = evaluation && (await preflight({ ...look, dataset: evaluation }));
  const asked = evaluation === null ? 0 : config.eval.eval_generate;
  if (evaluation && asked > 0) {
    const indices = Uint32Array.from(fixedRecords(evaluation.length, asked));
    await preflight({ ...look, dataset: evaluation, purpose: 'question', indices });
  }
  const { texts, stamps, lengths, bad } = known;
  const fresh = { sizes: train.sizes, texts, stamps, lengths, used: new BigUint64Array(train.length) };
  const before = config.save.resume_anyway || checkpoint === null ? null : readRecords(checkpoint.folder);
  if (before !== null) {
    const failed = checkpoint?.failedRecord ?? null;
    await compareRecords({ dataset: train, encoder, now: { texts, stamps, bad }, before, failed, reporter });
  } else if (checkpoint !== null && !config.save.resume_anyway) compareFingerprints(checkpoint, train);
  const records = before === null ? fresh : { ...fresh, lengths: before.lengths, used: before.used };
  const sampler = trainingOrder(config, train.sizes, records.lengths);
  return { train, evaluation, encoder, sampler, records, known, knownEvaluation };
}

/** No picture of the data goes with an earlier run in the output folder. @throws UserError */
export function refusePictures(
  config: RunConfig,
  { earlier }: { readonly earlier: readonly string[] },
  { train, known, evaluation, knownEvaluation }: RunData,
): void {
  refuseShown(config, earlier, { dataset: train, known });
  if (evaluation !== null && knownEvaluation !== null)
    refuseShown(config, earlier, { dataset: evaluation, known: knownEvaluation });
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
export function markUsed({ records, known }: RunData, micros: readonly MicroBatch[]): void {
  for (const { indices, contents } of micros) {
    for (const [i, index] of indices.entries()) {
      records.used[index] = contents[i]!;
      known.contents[index] = contents[i]!; // decoded, so the next start need not
    }
  }
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
    badRecords: { ...badRecordPolicy(config), reportFile: join(config.output.output_dir, RUN_FILES.badRecords) },
    knownBad: steps.knownBad,
    notice: (message) => reporter.notice(message),
  });
}

/** Says how many pictures the preflight has not decoded; null: none. */
export function decodedBeside({ known, knownEvaluation }: RunData): string | null {
  const left = count(known.contents) + (knownEvaluation === null ? 0 : count(knownEvaluation.contents));
  if (left === 0) return null;
  return `The pictures of ${left} records are decoded beside the training; --preflight full decodes them before the first step.`;
}

/**
 * Decodes beside the training what the preflight has not decoded: evaluation data first, then the records of the steps from `start` on, in
 * their order. None if nothing is left to decode, or --dataloader_num_workers 0 wants no threads.
 */
export async function openAhead(
  config: RunConfig,
  data: RunData,
  loader: Loader,
  { start, end }: { start: number; end: number },
  reporter: Reporter,
): Promise<DecodeAhead[]> {
  if (config.loader.dataloader_num_workers === 0 || start === end) return [];
  const { evaluation, knownEvaluation, train, known, encoder } = data;
  const order = comingRecords(data.sampler, start, end);
  const notice = decodedBeside(data);
  if (notice === null) return [];
  reporter.notice(notice);
  const started: DecodeAhead[] = [];
  if (evaluation !== null && knownEvaluation !== null && count(knownEvaluation.contents) > 0) {
    const bad = new BadRecords(badRecordPolicy(config), evaluation.length);
    const onBad = (index: number, error: UserError): void => bad.add(index, error);
    const all = Uint32Array.from({ length: evaluation.length }, (_, i) => i);
    started.push(
      await DecodeAhead.start({ dataset: evaluation, encoder, contents: knownEvaluation.contents, order: all, onBad }),
    );
  }
  if (count(known.contents) > 0) {
    const onBad = (index: number, error: UserError): void => loader.bad.add(index, error);
    started.push(await DecodeAhead.start({ dataset: train, encoder, contents: known.contents, order, onBad }));
  }
  return started;
}

function count(contents: BigUint64Array): number {
  return contents.reduce((sum, content) => sum + (content === UNKNOWN ? 1 : 0), 0);
}

/** The records of the steps of one epoch from `start` on, and what comes before them in the next one. */
function comingRecords(sampler: Sampler, start: number, end: number): Uint32Array {
  const { epoch, position } = sampler.plan(start);
  const order = sampler.order(epoch);
  const last = sampler.plan(end - 1);
  if (last.epoch === epoch) return order.slice(position, last.position + sampler.recordsIn(end - 1));
  return Uint32Array.from([...order.subarray(position), ...order.subarray(0, position)]);
}

function badRecordPolicy({ data }: RunConfig): BadRecordPolicy {
  return { onBadRecord: data.on_bad_record, maxBadFraction: data.max_bad_fraction, reportFile: undefined };
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
    badRecords: badRecordPolicy(config),
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
