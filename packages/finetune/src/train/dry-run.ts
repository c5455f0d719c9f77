/**
 * All that a start checks, without a training. For `--dry_run`: the functions are those of a start, in its order, with what its
 * preflight remembers. The output folder is not touched, nothing is downloaded, and weights are mapped, not read.
 */
import { existsSync } from 'node:fs';
import { MiniCPMV } from '@minicpm-finetune/minicpm-v';
import { readConfig, requireCheckpoint } from '@minicpm-finetune/processor';
import { counted, derive, type RunConfig } from '@minicpm-finetune/run';
import { Dataset } from '../data/dataset.js';
import { unusedByModel } from '../data/encoder.js';
import type { Preflight } from '../data/preflight.js';
import { startEngine } from '../engine/machine.js';
import { localModel, requireRepoId } from '../hub/hub.js';
import { soloRanks } from '../parallel/ranks.js';
import type { Reporter } from '../report/reporter.js';
import { describeMemory, estimateRun, type Room, roomOf } from './estimate/check.js';
import type { Estimate } from './estimate/estimate.js';
import { decodedBeside, openData, type RunData, refusePictures } from './open-data.js';
import { checkWeights } from './open-model.js';
import { checkOutput, refuseTakenResult } from './output-folder.js';
import { adapterOf, describePlan, planTraining, readingNotices } from './plan.js';
import { compareBase, finishedRun, type Start, startOf } from './resume.js';
import { describeFinished } from './saving.js';

export interface DryRunOptions {
  /** Processes of the run. */
  readonly worldSize?: number;
  readonly reporter: Reporter;
  /** Is told what the run would take, and of how much. */
  readonly onMemory?: (memory: { readonly estimate: Estimate; readonly device: string; readonly room: Room }) => void;
}

/**
 * Checks model, data, adapter, checkpoint, device and output folder of a run. Returns what it would do, a line each.
 *
 * @throws UserError as `train` does before its first step
 */
export async function dryRun(config: RunConfig, options: DryRunOptions): Promise<string[]> {
  const { worldSize = 1, reporter } = options;
  startEngine(config.engine);
  const output = checkOutput(config);
  const finished = finishedRun(config, output, worldSize);
  if (finished !== null) return [describeFinished(config, finished.steps)];
  const start = { ...startOf(config, worldSize), output };
  const { model_name_or_path: named, cache_dir: cacheDir } = config.model;
  if (existsSync(named)) requireCheckpoint(named, { flag: '--model_name_or_path', adapterFlag: '--lora_weight_path' });
  else requireRepoId(named, '--model_name_or_path');
  const folder = localModel(named, cacheDir);
  if (folder !== null) return await checkStart(config, folder, start, { ...options, worldSize });
  reporter.notice(`there is no folder ${named}: a start would download the model of that name from the hub.`);
  await openFiles(config, reporter);
  return [`notice: layers, patterns, records and memory are not checked: ${named} is not on this machine.`];
}

/** With a model that is here. */
async function checkStart(
  config: RunConfig,
  folder: string,
  start: Start,
  { worldSize, reporter, onMemory }: DryRunOptions & { readonly worldSize: number },
): Promise<string[]> {
  const { checkpoint, output, state } = start;
  refuseTakenResult(config, output, folder);
  if (checkpoint !== null) compareBase(checkpoint, folder, config);
  const ranks = { ...soloRanks(), size: worldSize }; // rank 0's part, which looks at all records
  const data = await openData({ config, folder, checkpoint, reporter, ranks });
  refusePictures(config, output, data);
  await data.train.close();
  await data.evaluation?.close();
  const derived = derive(config, data.sampler.unitsPerEpoch, worldSize);
  const read = readConfig(folder);
  const model = new MiniCPMV(read);
  try {
    const plan = planTraining(config, model, adapterOf(config, checkpoint?.folder ?? null));
    const said = [...readingNotices(config, read), ...unusedByModel(config.data, read), decodedBeside(data)];
    for (const line of said) if (line !== null) reporter.notice(line);
    if (localModel(config.model.model_name_or_path, config.model.cache_dir, true) === null)
      reporter.notice(`${folder} has no weights: a start would download them from the hub.`);
    else checkWeights(config, model, { folder, resumeFrom: checkpoint?.folder ?? null, reporter });
    const resumeFrom = checkpoint?.folder ?? null;
    const estimated = estimateRun({ config, folder, data, state, derived, resumeFrom, worldSize });
    if (estimated !== null) {
      const { likely: estimate, device } = estimated;
      onMemory?.({ estimate, device, room: roomOf(device, worldSize) });
    }
    const memory = estimated === null ? [] : describeMemory(estimated, worldSize);
    return [...derived.lines, ...dataLines(data), ...describePlan(plan), ...memory];
  } finally {
    model.dispose();
  }
}

function dataLines({ train, known, evaluation, knownEvaluation }: RunData): string[] {
  const lines = [`training data: ${describeRecords(train, known)}`, ...badLines(train, known)];
  if (evaluation === null || knownEvaluation === null) return lines;
  return [
    ...lines,
    `evaluation data: ${describeRecords(evaluation, knownEvaluation)}`,
    ...badLines(evaluation, knownEvaluation),
  ];
}

/** Records and their lengths. */
function describeRecords({ length: records }: Dataset, { lengths, bad }: Preflight): string {
  let [least, most, sum] = [Number.POSITIVE_INFINITY, 0, 0];
  for (const [i, length] of lengths.entries()) {
    if (bad.has(i)) continue;
    least = Math.min(least, length);
    most = Math.max(most, length);
    sum += length;
  }
  const mean = Math.round(sum / (records - bad.size));
  return `${counted(records, 'record')}, ${least} to ${most} tokens in each, ${mean} on average`;
}

/** Records that are left out. */
function badLines(dataset: Dataset, { bad }: Preflight): string[] {
  const [first] = bad.keys();
  if (first === undefined) return [];
  const { file, record } = dataset.place(first);
  return [`bad records, left out: ${bad.size}, the first: record ${record} of ${file}`];
}

/** The data files alone, where the tokenizer is not here. */
async function openFiles({ data }: RunConfig, reporter: Reporter): Promise<void> {
  for (const flag of ['data_path', 'eval_data_path'] as const) {
    if (data[flag].length === 0) continue;
    const dataset = await Dataset.open(data[flag], (message) => reporter.notice(message), `--${flag}`);
    await dataset.close();
  }
}
