/**
 * Traces and saves a step with a non-finite loss or gradient. The folder names where it began and can repeat the step. All ranks trace it
 * together; rank 0 writes the micro-batches of all of them, in the order in which one rank alone would take them.
 *
 *     nonfinite/step-<n>/
 *       report.json                where it began, loss, gradient norm, records
 *       records.json               the step's records, as a data file
 *       batch-<i>.safetensors      the tensors of each micro-batch: ids, positions, labels, pictures
 *       run.json                   the configuration; with the step's number it decides all random numbers
 *       model/                     the weights or the adapter before the step (if the run ends)
 */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { EncodedSample, ImageSource } from '@minicpm-finetune/processor';
import { RUN_FILES, type RunConfig, UserError } from '@minicpm-finetune/run';
import { fromTypedArray, noGrad, ops, scope, type Tensor, writeSafetensors } from '@minicpm-finetune/torch';
import { EncodePool } from '../data/encode-pool.js';
import type { MicroBatch } from '../data/loader.js';
import { collate, collateAll, disposeBatch } from '../engine/collate.js';
import { HEAD } from '../engine/micro-batch.js';
import { lossAndGradients, type StepResult } from '../engine/step.js';
import { agree, attempt, exchangeTexts, settle } from '../parallel/agree.js';
import { type Run, stepOptions } from './run.js';
import { saveModel } from './saving.js';

/** The origin of the first value that is not finite. */
export interface NonfiniteOrigin {
  /** Its kind: a module's output, the loss, or a gradient of a module's parameters. */
  readonly what: 'output' | 'loss' | 'gradient';
  /** Module path, such as `llm.model.layers.3`. */
  readonly module: string;
  /** Of the step, over all ranks: the first of rank 1 comes after the first of rank 0. */
  readonly microBatch: number;
  /** Names of the module's parameters, or gradients, that are not finite. */
  readonly parameters: readonly string[];
}

/** Records of a micro-batch, and their samples where this rank has them. */
interface Part {
  readonly indices: readonly number[];
  readonly samples: readonly EncodedSample[] | null;
}

/** What is known of a step with something that is not finite. */
interface Finding {
  readonly first: NonfiniteOrigin | null;
  /** The micro-batches of all ranks. */
  readonly parts: readonly Part[];
}

/**
 * After a step that was not finite: float16 lowers its scale; else the run ends, or leaves the step out, as asked. Collective.
 *
 * @throws UserError when the run ends
 */
export async function handleNonfinite(
  run: Run,
  result: StepResult,
  micros: readonly MicroBatch[],
  { scaleHelps }: { readonly scaleHelps: boolean },
): Promise<void> {
  run.state.skippedSteps++;
  if (scaleHelps && Number.isFinite(result.loss)) return;
  const ends = run.config.precision.on_nonfinite === 'stop';
  const step = micros[0]!.step + 1;
  const finding = joined(run, micros, findNonfinite(run, micros));
  const records = finding.parts.flatMap(({ indices }) => indices).join(', ');
  const what = `the loss was ${result.loss} and the gradient norm ${result.gradNorm} at step ${step} (records ${records}); ${describe(finding.first)}`;
  const folder =
    ends || run.state.skippedSteps === 1 ? await saveStep(run, result, { step, finding, withModel: ends }) : null;
  const where = folder === null ? '' : ` The step is in ${folder}.`;
  if (!ends) {
    if (run.ranks.rank === 0) run.log.warn('nonfinite', `The step was skipped: ${what}.${where}`, step);
    return;
  }
  run.log.event({ event: 'stop', reason: 'nonfinite', step });
  throw new UserError(`Expected a finite loss and gradient but ${what}.`, {
    cure: `Lower --learning_rate, set --max_grad_norm, or skip such steps with --on_nonfinite skip.${where}`,
  });
}

/** What all ranks found. */
function joined({ ranks }: Run, micros: readonly MicroBatch[], own: NonfiniteOrigin | null): Finding {
  const said = JSON.stringify({ own, indices: micros.map(({ indices }) => indices) });
  const all = exchangeTexts(ranks.group, said, 'step that is not finite').map(
    (text) => JSON.parse(text) as { own: NonfiniteOrigin | null; indices: number[][] },
  );
  const parts = micros.flatMap((micro, i) =>
    all.map(({ indices }, rank) => ({ indices: indices[i]!, samples: rank === ranks.rank ? micro.samples : null })),
  );
  const found = all.flatMap(({ own: one }) => (one === null ? [] : [one]));
  return { first: found.sort((a, b) => a.microBatch - b.microBatch)[0] ?? null, parts };
}

function describe(finding: NonfiniteOrigin | null): string {
  if (finding === null) return 'every value is finite when computed again, only the norm of all gradients is not';
  const { what, module, microBatch, parameters } = finding;
  const which = what === 'loss' ? 'the loss' : what === 'output' ? 'the output' : 'a gradient';
  const owned =
    parameters.length === 0
      ? ''
      : `, where ${parameters.join(', ')} ${what === 'output' ? 'is not finite, too' : 'has it'}`;
  return `the first value that was not finite is ${which} of ${module} in micro-batch ${microBatch}${owned}`;
}

const allFinite = (tensor: Tensor): boolean => scope(() => noGrad(() => ops.all(ops.isfinite(tensor)).item() === 1));

/**
 * Computes the step again, with the random numbers it had, and looks at every module's output, the loss and every gradient. The parameters
 * must be those of the step.
 */
function findNonfinite(run: Run, micros: readonly MicroBatch[]): NonfiniteOrigin | null {
  const found: NonfiniteOrigin[] = [];
  const { rank, size } = run.ranks;
  const present = micros.flatMap(({ samples }, i) => (samples.length > 0 ? [i * size + rank] : []));
  let [microBatch, planned] = [-1, 0];
  const note = (what: NonfiniteOrigin['what'], module: string, parameters: readonly string[]): void => {
    if (found.length === 0) found.push({ what, module, microBatch, parameters });
  };
  const batches = collateAll(micros, run.training.device);
  const { dispose } = lossAndGradients(run.training.model, batches, {
    ...stepOptions(run),
    watch: {
      plan: (plan) => {
        microBatch = present[planned++]!;
        return plan.map((node) => ({
          ...node,
          forward: (...inputs) => {
            const output = node.forward(...inputs);
            if (found.length > 0 || allFinite(output)) return output;
            const bad = [...node.parameters].filter(([, { data }]) => !allFinite(data));
            note(
              'output',
              node.name,
              bad.map(([name]) => name),
            );
            return output;
          },
        }));
      },
      loss: (sum) => {
        if (!allFinite(sum)) note('loss', HEAD, []);
      },
      gradients: (gradients, module) => {
        if (found.length > 0) return;
        const bad = [...gradients].filter(([, gradient]) => !allFinite(gradient));
        if (bad.length > 0)
          note(
            'gradient',
            module,
            bad.map(([name]) => name),
          );
      },
    },
  });
  dispose();
  return found[0] ?? null;
}

/** Writes the folder and returns it relative to the run folder; null, with a warning, if that fails. Collective. */
async function saveStep(
  run: Run,
  result: StepResult,
  { step, finding, withModel }: { readonly step: number; readonly finding: Finding; readonly withModel: boolean },
): Promise<string | null> {
  const { config, data, log, output, ranks } = run;
  const name = join(RUN_FILES.nonfinite, `step-${step}`);
  const { loss, gradNorm } = result;
  const numbers = { loss: String(loss), grad_norm: String(gradNorm), loss_scale: stepOptions(run).lossScale ?? null };
  const report = async (): Promise<StepFiles> => ({
    report: {
      step,
      ...numbers,
      first: finding.first,
      micro_batches: finding.parts.map(({ indices }) =>
        indices.map((index) => ({ index, ...data.train.place(index) })),
      ),
    },
    records: await recordsOf(
      run,
      finding.parts.flatMap(({ indices }) => indices),
    ),
    batches: await samplesOf(run, finding.parts),
  });
  try {
    const files = await agree(ranks, 'records of the step', () => (ranks.rank === 0 ? report() : null));
    putTogether(run, name, (folder) => writeStep(folder, files!, config), withModel);
    return name;
  } catch (error) {
    const message = `THE STEP WAS NOT SAVED in ${join(output.own.folder, name)}: ${(error as Error).message}`;
    if (ranks.rank === 0) log.warn('write_failed', message, step);
    return null;
  }
}

/** What the folder of a step holds, beside its configuration. */
interface StepFiles {
  readonly report: object;
  readonly records: readonly object[];
  readonly batches: readonly (readonly EncodedSample[])[];
}

function writeStep(folder: string, { report, records, batches }: StepFiles, config: RunConfig): void {
  const write = (file: string, value: unknown): void =>
    writeFileSync(join(folder, file), `${JSON.stringify(value, null, 2)}\n`);
  write('report.json', report);
  write('records.json', records);
  write(RUN_FILES.config, config);
  for (const [i, samples] of batches.entries()) saveBatch(join(folder, `batch-${i}.safetensors`), samples);
}

/** Makes a folder of the run: rank 0 writes its files, and all ranks the model. Throws on all ranks if anything fails. */
function putTogether(run: Run, name: string, write: (folder: string) => void, withModel: boolean): void {
  const { ranks, output } = run;
  const label = `files of ${name}`;
  let reached = false;
  const fill = (folder: string, own: () => void): void => {
    reached = true;
    settle(ranks, label, attempt(own));
    if (withModel) saveModel(run, join(folder, 'model'));
  };
  const done = attempt(() =>
    ranks.rank === 0
      ? output.own.putFolder(name, (folder) => fill(folder, () => write(folder)))
      : fill(output.own.folder, () => {}),
  );
  if (!reached) settle(ranks, label, done); // the folder could not be made
  settle(ranks, `folder ${name}`, done);
}

/** The samples of all parts: those of other ranks are encoded here again. */
async function samplesOf({ data }: Run, parts: readonly Part[]): Promise<(readonly EncodedSample[])[]> {
  const setup = { dataset: data.train.index, encoder: data.encoder };
  const pool = await EncodePool.open('sample', setup, 0, () => {});
  try {
    const all: (readonly EncodedSample[])[] = [];
    for (const { indices, samples } of parts) all.push(samples ?? (await encoded(pool, indices)));
    return all;
  } finally {
    await pool.close();
  }
}

async function encoded(pool: EncodePool<'sample'>, indices: readonly number[]): Promise<EncodedSample[]> {
  const samples: EncodedSample[] = [];
  for (const index of indices) {
    const outcome = await pool.run(index);
    if (!outcome.ok) throw UserError.fromData(outcome.error);
    if (outcome.value.sample !== null) samples.push(outcome.value.sample);
  }
  return samples;
}

/** Records in the seed format, images as absolute paths or data: URLs. */
async function recordsOf({ data }: Run, indices: readonly number[]): Promise<object[]> {
  const url = (image: ImageSource): string =>
    typeof image === 'string' ? image : `data:image/png;base64,${Buffer.from(image).toString('base64')}`;
  const records: object[] = [];
  for (const index of indices) {
    const { id = String(index), image, conversations } = await data.train.read(index);
    if (image === undefined) records.push({ id, conversations });
    else if (typeof image === 'string' || image instanceof Uint8Array)
      records.push({ id, image: url(image), conversations });
    else {
      const images = Object.entries(image).map(([name, one]) => [name, url(one)]);
      records.push({ id, image: Object.fromEntries(images), conversations });
    }
  }
  return records;
}

function saveBatch(path: string, samples: readonly EncodedSample[]): void {
  if (samples.length === 0) return;
  const batch = collate(samples);
  scope(() => {
    const { inputIds, positionIds, pictures } = batch.inputs;
    const tensors = new Map([
      ['input_ids', inputIds],
      ['position_ids', positionIds],
      ['labels', fromTypedArray(batch.labels, inputIds.shape)],
    ]);
    for (const [b, own] of pictures.entries())
      for (const [k, { pixels }] of own.entries()) tensors.set(`pictures.${b}.${k}`, pixels);
    writeSafetensors(path, tensors);
  });
  disposeBatch(batch);
}
