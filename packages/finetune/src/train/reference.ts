/**
 * The reference: the model as it was before the first step. Either it is computed beside the training
 * (engine/live-reference.ts), or the log-probabilities of all answers are computed once, before the first step, and remembered in the
 * user's cache folder by the content of data and weights.
 */
import { join } from 'node:path';
import { ADAPTER_FILE, describeBase, setLoraTraining } from '@minicpm-finetune/minicpm-v';
import { cacheFolder, contentOfFile, formatBytes, type RunConfig } from '@minicpm-finetune/run';
import { yieldToEventLoop } from '@minicpm-finetune/torch';
import type { Dataset } from '../data/dataset.js';
import { Loader } from '../data/loader.js';
import { memoryKey } from '../data/memory.js';
import type { Preflight } from '../data/preflight.js';
import { type ReferenceEntry, ReferenceFile, ReferenceLog } from '../data/reference-log.js';
import type { StepSource } from '../data/sampler.js';
import { collateAll, disposeBatch } from '../engine/collate.js';
import { StartReference, startOfTrained } from '../engine/live-reference.js';
import { answerLogProbs } from '../engine/preference.js';
import type { VisionCache } from '../engine/vision-cache.js';
import { agree, attempted, exchangeLists, firstOfMachine } from '../parallel/agree.js';
import type { Ranks } from '../parallel/ranks.js';
import type { Sharding } from '../parallel/sharding.js';
import { asTask, hashingTask, type Reporter, SILENT } from '../report/reporter.js';
import type { RunLog } from '../report/run-log.js';
import { confer } from './confer.js';
import { badRecordPolicy, loaderThreads, type RunData } from './open-data.js';
import { prepareModel, type TrainingModel } from './open-model.js';
import { adapterOf, referenceIsBase } from './plan.js';

/**
 * The reference beside a model that was just opened, ready for training or resumed.
 *
 * @param folder of the base
 * @param resumed the model is not as it was before the first step: the start is opened again
 */
export function openLiveReference(
  { config, folder, resumed }: { readonly config: RunConfig; readonly folder: string; readonly resumed: boolean },
  training: TrainingModel,
  reporter: Reporter,
): StartReference {
  const first = resumed ? prepareModel(config, folder, SILENT, null) : training;
  const start = startOfTrained(first.trainable, referenceIsBase(config));
  if (resumed) first.model.dispose();
  const live = new StartReference(training.model, training.trainable, start, referenceIsBase(config));
  const whole = live.nbytes > 0 ? `, with a copy of what else trains (${formatBytes(live.nbytes)})` : '';
  reporter.notice(
    referenceIsBase(config)
      ? `The reference is the base with the adapters off${whole}.`
      : `The reference is a copy of what trains as it was before the first step (${formatBytes(live.nbytes)}).`,
  );
  return live;
}

/** Log-probabilities under the reference that are computed once. */
export interface ReferenceLogs {
  readonly train: OpenLog;
  readonly evaluation: OpenLog | null;
}

interface OpenLog {
  readonly dataset: Dataset;
  readonly log: ReferenceLog;
  /** Of rank 0. */
  readonly file: ReferenceFile | null;
}

export interface LogsOptions {
  readonly config: RunConfig;
  /** Of the base. */
  readonly folder: string;
  readonly data: RunData;
  readonly ranks: Ranks;
  readonly reporter: Reporter;
}

/** What was computed by earlier starts, as far as it still holds. Collective: rank 0 reads for all. */
export async function openReferenceLogs(options: LogsOptions): Promise<ReferenceLogs> {
  const { config, folder, data, ranks, reporter } = options;
  const weights = await firstOfMachine(ranks, 'weights of the reference', () => weightsOf(config, folder, reporter));
  const { encoder } = data;
  const compared = { ...encoder, preference: encoder.preference === 'kto' ? 'kto' : 'dpo' } as const;
  const open = async (dataset: Dataset, known: Preflight): Promise<OpenLog> => {
    const log = new ReferenceLog(dataset);
    const file =
      ranks.rank === 0
        ? new ReferenceFile(join(cacheFolder(), 'reference'), memoryKey(dataset, compared, weights), known)
        : null;
    await agree(ranks, 'log-probabilities of the reference', () => file?.read(log));
    share(ranks, log, ranks.rank === 0 ? log.entries() : []);
    return { dataset, log, file };
  };
  const logs = {
    train: await open(data.train, data.known),
    evaluation: data.evaluation && (await open(data.evaluation, data.knownEvaluation!)),
  };
  const all = [logs.train, logs.evaluation].flatMap((one) => one ?? []);
  const records = all.reduce((sum, { dataset }) => sum + dataset.length, 0);
  const missing = all.reduce((sum, { log }) => sum + log.missing().length, 0);
  reporter.notice(
    `The reference is the model as it is before the first step: its log-probabilities are computed once (${records - missing} of ${records} records are known already).`,
  );
  return logs;
}

/** What the weights of the reference are known by, and the type in which it computes. */
function weightsOf(config: RunConfig, folder: string, reporter: Reporter): string {
  using hashing = hashingTask(reporter);
  const base = describeBase(folder, hashing.update).fingerprint;
  const from = adapterOf(config, null);
  const adapter = from === null ? null : contentOfFile(join(from, ADAPTER_FILE)).sha256;
  const { q_lora: quantized, q_lora_type: type } = config.lora;
  return JSON.stringify(['reference', base, adapter, config.precision.dtype, quantized ? type : null]);
}

const NUMBERS = 5;
const LOW = 0xffff_ffffn;

/** All ranks add the entries of each. Collective. */
function share({ group }: Ranks, log: ReferenceLog, own: readonly ReferenceEntry[]): ReferenceEntry[] {
  const flat = own.flatMap(({ index, content, logProbs }) => [
    index,
    Number(content >> 32n),
    Number(content & LOW),
    ...logProbs,
  ]);
  const all = exchangeLists(group, flat, 'log-probabilities of the reference').flatMap((numbers) =>
    Array.from({ length: numbers.length / NUMBERS }, (_, i): ReferenceEntry => {
      const [index, high, low, first, second] = numbers.subarray(NUMBERS * i, NUMBERS * (i + 1));
      const content = (BigInt(high!) << 32n) | BigInt(low!);
      return { index: index!, content, logProbs: [first!, second!] };
    }),
  );
  for (const entry of all) log.add(entry);
  return all;
}

export const isComplete = ({ train, evaluation }: ReferenceLogs): boolean =>
  [train, evaluation].every((one) => one === null || one.log.missing().length === 0);

/** The parts of a run that compute. */
interface Computing {
  readonly config: RunConfig;
  readonly ranks: Ranks;
  readonly log: RunLog;
  readonly data: RunData;
  readonly training: TrainingModel;
  readonly vision: VisionCache | null;
  readonly sharding: Sharding | null;
}

/** Computes what is missing, with the model as it is: it has to be as before the first step. Collective. */
export async function computeReference(run: Computing, logs: ReferenceLogs): Promise<void> {
  setLoraTraining(run.training.model, false);
  try {
    for (const one of [logs.train, logs.evaluation]) if (one !== null) await computeLog(run, one);
  } finally {
    setLoraTraining(run.training.model, true);
  }
}

async function computeLog(run: Computing, { dataset, log, file }: OpenLog): Promise<void> {
  const { config, data, ranks, training, vision, sharding } = run;
  const { reporter } = run.log;
  const missing = log.missing();
  if (missing.length === 0) return;
  const { rounds, ...sampler } = passOver(missing, config.batch.per_device_eval_batch_size, ranks);
  const notice = (message: string): void => reporter.notice(message);
  const loader = await agree(
    ranks,
    'data of the reference',
    () =>
      Loader.open({
        ...{ dataset, sampler, encoder: data.encoder, startStep: 0, endStep: rounds, notice },
        ...{ threads: loaderThreads(config, ranks), prefetchFactor: config.loader.dataloader_prefetch_factor },
        badRecords: badRecordPolicy(config),
      }),
    (own) => own.close(),
  );
  const task = { label: 'Computing the reference', total: missing.length, unit: 'records' };
  try {
    await asTask(reporter, task, async (update) => {
      const micros = loader[Symbol.asyncIterator]();
      let done = 0;
      for (let round = 0; round < rounds; round++) {
        const own = await attempted(async () => (await micros.next()).value!);
        const { value: micro } = confer(run, { label: 'next batch of the reference', bad: loader.bad }, own, []);
        const [batch] = collateAll([micro], training.device);
        const logProbs = answerLogProbs(training.model, batch!, { vision, sharding }) ?? [];
        if (batch) disposeBatch(batch);
        const entries = logProbs.map(([first, second], i) => ({
          ...{ index: micro.indices[i]!, content: micro.contents[i]! },
          logProbs: [first, second] as const,
        }));
        const all = share(ranks, log, entries);
        file?.append(all);
        done += all.length;
        update(done);
        await yieldToEventLoop();
      }
    });
  } finally {
    await loader.close();
  }
}

/** The rounds of a pass over some records, dealt over ranks. */
function passOver(records: readonly number[], size: number, ranks: Ranks): StepSource & { readonly rounds: number } {
  const part = (at: number): number[] => records.slice(at * size, (at + 1) * size);
  const rounds = Math.ceil(records.length / size / ranks.size);
  const from = (round: number): number => Math.min(records.length, round * ranks.size * size);
  return {
    rounds,
    plan: (step) => ({ step, epoch: 0, position: from(step), batches: [part(step * ranks.size + ranks.rank)] }),
    recordsIn: (step) => from(step + 1) - from(step),
  };
}
