/** Opens the data of a run: datasets, order and loaders. */
import { join } from 'node:path';
import { RUN_FILES, type RunConfig, UserError } from '@minicpm-finetune/run';
import { type RecordsState, readRecords } from '../checkpoint/records.js';
import { type BadRecordPolicy, BadRecords } from '../data/bad-records.js';
import { Dataset } from '../data/dataset.js';
import { DecodeAhead } from '../data/decode-ahead.js';
import { defaultThreads } from '../data/encode-pool.js';
import { type EncoderSetup, encoderSetup } from '../data/encoder.js';
import { UNKNOWN } from '../data/identity.js';
import { Loader, type MicroBatch } from '../data/loader.js';
import { Memory } from '../data/memory.js';
import { lookedAtElsewhere, type Preflight, preflight } from '../data/preflight.js';
import { fixedRecords } from '../data/question.js';
import { dealPass, Sampler } from '../data/sampler.js';
import { agree, exchangeLists, exchangeTexts } from '../parallel/agree.js';
import type { Ranks } from '../parallel/ranks.js';
import type { Reporter } from '../report/reporter.js';
import { refuseShown } from './kept-files.js';
import type { Checkpoint } from './resume.js';
import { compareRecords } from './same-data.js';

export interface RunData {
  readonly train: Dataset;
  readonly evaluation: Dataset | null;
  readonly encoder: EncoderSetup;
  readonly sampler: Sampler;
  /** Of the training data. Complete on rank 0; the others know the lengths, and what they used. */
  readonly records: RecordsState;
  /** Records that this rank has used since the ranks told one another which (`shareUsed`). */
  usedSince: number[];
  /** What the preflight found out. */
  readonly known: Preflight;
  readonly knownEvaluation: Preflight | null;
}

/** What the data of a run are opened with. */
export interface OpenDataOptions {
  readonly config: RunConfig;
  /** Of the model. */
  readonly folder: string;
  readonly checkpoint: Checkpoint | null;
  readonly reporter: Reporter;
  readonly ranks: Ranks;
}

/**
 * Opens the data files and looks at every record, on one rank of each machine. For a resumed run rank 0 compares the data with those of the
 * checkpoint, whose order they keep. Collective.
 *
 * @throws UserErrors naming file and record
 */
export async function openData(options: OpenDataOptions): Promise<RunData> {
  const { config, folder, reporter, ranks } = options;
  const notice = (message: string): void => reporter.notice(message);
  const { encoder, train, evaluation } = await agree(ranks, 'data files', async () => ({
    encoder: encoderSetup(folder, config.model, config.data, config.preference.preference),
    train: await Dataset.open(config.data.data_path, notice),
    evaluation:
      config.data.eval_data_path.length > 0
        ? await Dataset.open(config.data.eval_data_path, notice, '--eval_data_path')
        : null,
  }));
  requireSameData(ranks, '--data_path', train);
  if (evaluation !== null) requireSameData(ranks, '--eval_data_path', evaluation);
  const looked = await agree(ranks, 'records', () =>
    ranks.localRank === 0 ? lookAtRecords({ ...options, encoder, train, evaluation }) : elsewhere(train, evaluation),
  );
  const own = await agree(ranks, 'records of the checkpoint', () =>
    ranks.rank === 0 ? recordsOf(options, { train, encoder, known: looked.known }) : unused(train, looked.known),
  );
  const [lengths] = exchangeLists(ranks.group, ranks.rank === 0 ? own.lengths : [], 'lengths of records');
  const records = { ...own, lengths: ranks.rank === 0 ? own.lengths : Uint32Array.from(lengths!) };
  const sampler = trainingOrder(config, train.sizes, records.lengths, ranks);
  return { train, evaluation, encoder, sampler, records, usedSince: [], ...looked };
}

/** All ranks train on the same records: a difference is the error of all of them. */
function requireSameData(ranks: Ranks, flag: string, { length, fingerprint }: Dataset): void {
  const own = `${length} records of SHA-256 ${fingerprint.slice(0, 12)}… on ${ranks.host}`;
  const all = exchangeTexts(ranks.group, JSON.stringify([fingerprint, own]), `records of ${flag}`);
  const [first, ...others] = all.map((text) => JSON.parse(text) as [string, string]);
  const other = others.findIndex(([theirs]) => theirs !== first![0]);
  if (other === -1) return;
  throw new UserError(
    `Expected one content for ${flag} on all ranks but rank 0 has ${first![1]} and rank ${other + 1} has ${others[other]![1]}.`,
    { flag, cure: 'Give all machines the same data files in the same order.' },
  );
}

type Looked = Pick<RunData, 'known' | 'knownEvaluation'>;

async function lookAtRecords({
  config,
  reporter,
  encoder,
  train,
  evaluation,
}: OpenDataOptions & Pick<RunData, 'encoder' | 'train' | 'evaluation'>): Promise<Looked> {
  const badRecords = badRecordPolicy(config);
  const memory = new Memory({ notice: (message) => reporter.notice(message) });
  const mode = config.data.preflight;
  const look = { encoder, purpose: 'training', mode, badRecords, threads: null, memory, reporter } as const;
  const known = await preflight({ ...look, dataset: train });
  const knownEvaluation = evaluation && (await preflight({ ...look, dataset: evaluation }));
  const asked = evaluation === null ? 0 : config.eval.eval_generate;
  if (evaluation && asked > 0) {
    const indices = Uint32Array.from(fixedRecords(evaluation.length, asked));
    await preflight({ ...look, dataset: evaluation, purpose: 'question', indices });
  }
  return { known, knownEvaluation };
}

const elsewhere = (train: Dataset, evaluation: Dataset | null): Looked => ({
  known: lookedAtElsewhere(train.length),
  knownEvaluation: evaluation && lookedAtElsewhere(evaluation.length),
});

/** Records no step has used. */
function unused({ sizes, length }: Dataset, { texts, stamps, lengths }: Preflight): RecordsState {
  return { sizes, texts, stamps, lengths, used: new BigUint64Array(length) };
}

/** What is known of the training data, with what a checkpoint knows of them. */
async function recordsOf(
  { config, checkpoint, reporter }: OpenDataOptions,
  { train, encoder, known }: Pick<RunData, 'train' | 'encoder' | 'known'>,
): Promise<RecordsState> {
  const fresh = unused(train, known);
  if (checkpoint === null || config.save.resume_anyway) return fresh;
  const before = readRecords(checkpoint.folder);
  if (before === null) {
    compareFingerprints(checkpoint, train);
    return fresh;
  }
  await compareRecords({ dataset: train, encoder, now: known, before, failed: checkpoint.failedRecord, reporter });
  return { ...fresh, lengths: before.lengths, used: before.used };
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
export function markUsed(data: RunData, micros: readonly MicroBatch[]): void {
  for (const { indices, contents } of micros) {
    for (const [i, index] of indices.entries()) {
      markRecord(data, index, contents[i]!);
      data.usedSince.push(index);
    }
  }
}

function markRecord({ records, known }: RunData, index: number, content: bigint): void {
  records.used[index] = content;
  known.contents[index] = content; // decoded, so the next start need not
}

const LOW = 0xffff_ffffn;

/** All ranks learn which records the others have used. Collective. */
export function shareUsed(data: RunData, { group }: Ranks): void {
  const { used } = data.records;
  const own = data.usedSince.flatMap((index) => [index, Number(used[index]! >> 32n), Number(used[index]! & LOW)]);
  data.usedSince = [];
  for (const numbers of exchangeLists(group, own, 'used records')) {
    for (let i = 0; i < numbers.length; i += 3)
      markRecord(data, numbers[i]!, (BigInt(numbers[i + 1]!) << 32n) | BigInt(numbers[i + 2]!));
  }
}

/** Which records of the training data make up which step. `lengths` are those of all records, in tokens. */
function trainingOrder(
  config: RunConfig,
  sizes: readonly number[],
  lengths: Uint32Array,
  { rank, size }: Ranks,
): Sampler {
  const { data_weights: weights, model_max_length: capacity } = config.data;
  const { packing, group_by_length: grouped, dataloader_drop_last: dropLast } = config.batch;
  const order = {
    sizes,
    ...(weights === null ? {} : { weights }),
    seed: config.seeds.data_seed,
    shuffle: true,
    batchSize: config.batch.per_device_train_batch_size,
    accumulation: config.batch.gradient_accumulation_steps,
    rank,
    worldSize: size,
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
  ranks: Ranks,
): Promise<Loader> {
  const reportFile = ranks.rank === 0 ? join(config.output.output_dir, RUN_FILES.badRecords) : undefined;
  return Loader.open({
    dataset: data.train,
    sampler: data.sampler,
    encoder: data.encoder,
    startStep: steps.start,
    endStep: steps.end,
    threads: loaderThreads(config, ranks),
    prefetchFactor: config.loader.dataloader_prefetch_factor,
    badRecords: { ...badRecordPolicy(config), reportFile },
    knownBad: steps.knownBad,
    notice: (message) => reporter.notice(message),
    onWait: (index, step) => ranks.at(`step ${step + 1}, ${placeOf(data.train, index)}`),
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
export function openAhead(
  config: RunConfig,
  data: RunData,
  loader: Loader,
  { start, end }: { start: number; end: number },
  reporter: Reporter,
): DecodeAhead[] {
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
      new DecodeAhead({ dataset: evaluation, encoder, contents: knownEvaluation.contents, order: all, onBad }),
    );
  }
  if (count(known.contents) > 0) {
    const onBad = (index: number, error: UserError): void => loader.bad.add(index, error);
    started.push(new DecodeAhead({ dataset: train, encoder, contents: known.contents, order, onBad }));
  }
  return started;
}

function count(contents: BigUint64Array): number {
  let sum = 0;
  for (const content of contents) if (content === UNKNOWN) sum++;
  return sum;
}

/** The records of the steps of one epoch from `start` on, and what comes before them in the next one. */
function comingRecords(sampler: Sampler, start: number, end: number): Uint32Array {
  const { epoch, position } = sampler.plan(start);
  const order = sampler.order(epoch);
  const last = sampler.plan(end - 1);
  if (last.epoch === epoch) return order.slice(position, last.position + sampler.recordsIn(end - 1));
  return Uint32Array.from([...order.subarray(position), ...order.subarray(0, position)]);
}

export function badRecordPolicy({ data }: RunConfig): BadRecordPolicy {
  return { onBadRecord: data.on_bad_record, maxBadFraction: data.max_bad_fraction, reportFile: undefined };
}

/** The record that a rank waits for. */
function placeOf(dataset: Dataset, index: number): string {
  const { file, record } = dataset.place(index);
  return `record ${record} of ${file}`;
}

/** Data threads of one rank: those of a machine share its cores. */
export function loaderThreads({ loader }: RunConfig, { localSize }: Ranks): number {
  return loader.dataloader_num_workers ?? defaultThreads(undefined, localSize);
}

export interface PassOptions extends Omit<OpenDataOptions, 'folder' | 'checkpoint'> {
  readonly data: RunData;
}

/** A loader of this rank's part of a data set, which all ranks go through once together, in its own order. */
export function openPass(dataset: Dataset, { config, data, reporter, ranks }: PassOptions): Promise<Loader> {
  const batchSize = config.batch.per_device_eval_batch_size;
  const whole = new Sampler({ sizes: dataset.sizes, seed: 0, shuffle: false, batchSize });
  const { rounds, ...sampler } = dealPass(whole, ranks.rank, ranks.size);
  return Loader.open({
    dataset,
    sampler,
    encoder: data.encoder,
    startStep: 0,
    endStep: rounds,
    threads: loaderThreads(config, ranks),
    prefetchFactor: config.loader.dataloader_prefetch_factor,
    badRecords: badRecordPolicy(config),
    notice: (message) => reporter.notice(message),
    onWait: (index) => ranks.at(`evaluation, ${placeOf(dataset, index)}`),
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
