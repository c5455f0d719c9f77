/**
 * Traces and saves a step with a non-finite loss or gradient. The folder names where it began and can repeat the step.
 *
 *     nonfinite/step-<n>/
 *       report.json                where it began, loss, gradient norm, records
 *       records.json               the step's records, as a data file
 *       batch-<i>.safetensors      the tensors of each micro-batch: ids, positions, labels, pictures
 *       rng_state.safetensors      the random states before the step, by device
 *       run.json                   the configuration
 *       model/                     the weights or the adapter before the step (if the run ends)
 */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { ImageSource } from '@minicpm-finetune/processor';
import { RUN_FILES, UserError } from '@minicpm-finetune/run';
import {
  fromTypedArray,
  noGrad,
  ops,
  type RandomState,
  scope,
  type Tensor,
  withRandomState,
  writeSafetensors,
} from '@minicpm-finetune/torch';
import type { MicroBatch } from '../data/loader.js';
import { collate, collateAll, disposeBatch } from '../engine/collate.js';
import { HEAD } from '../engine/micro-batch.js';
import { lossAndGradients, type StepResult } from '../engine/step.js';
import { type Run, stepOptions } from './run.js';

/** The origin of the first value that is not finite. */
export interface NonfiniteOrigin {
  /** Its kind: a module's output, the loss, or a gradient of a module's parameters. */
  readonly what: 'output' | 'loss' | 'gradient';
  /** Module path, such as `llm.model.layers.3`. */
  readonly module: string;
  readonly microBatch: number;
  /** Names of the module's parameters, or gradients, that are not finite. */
  readonly parameters: readonly string[];
}

/**
 * After a step that was not finite: float16 lowers its scale; else the run ends, or leaves the step out, as asked. `random` is the random
 * state before the step. Throws a UserError when the run ends.
 */
export async function handleNonfinite(
  run: Run,
  result: StepResult,
  micros: readonly MicroBatch[],
  { scaleHelps, random }: { scaleHelps: boolean; random: RandomState },
): Promise<void> {
  run.state.skippedSteps++;
  if (scaleHelps && Number.isFinite(result.loss)) return;
  const ends = run.config.precision.on_nonfinite === 'stop';
  const step = micros[0]!.step + 1;
  const finding = findNonfinite(run, micros, random);
  const records = micros.flatMap((micro) => micro.indices).join(', ');
  const what = `the loss was ${result.loss} and the gradient norm ${result.gradNorm} at step ${step} (records ${records}); ${describe(finding)}`;
  const folder =
    ends || run.state.skippedSteps === 1
      ? await saveStep(run, result, micros, { random, finding, withModel: ends })
      : null;
  const where = folder === null ? '' : ` The step is in ${folder}.`;
  if (!ends) {
    run.log.warn('nonfinite', `The step was skipped: ${what}.${where}`, step);
    return;
  }
  run.log.event({ event: 'stop', reason: 'nonfinite', step });
  throw new UserError(`Expected a finite loss and gradient but ${what}.`, {
    cure: `Lower --learning_rate, set --max_grad_norm, or skip such steps with --on_nonfinite skip.${where}`,
  });
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
 * must be those of the step. The random state is left as it was.
 */
function findNonfinite(run: Run, micros: readonly MicroBatch[], random: RandomState): NonfiniteOrigin | null {
  const found: NonfiniteOrigin[] = [];
  let microBatch = -1;
  const note = (what: NonfiniteOrigin['what'], module: string, parameters: readonly string[]): void => {
    if (found.length === 0) found.push({ what, module, microBatch, parameters });
  };
  withRandomState([run.training.device], () => {
    random.restore();
    const batches = collateAll(micros, run.training.device);
    const { dispose } = lossAndGradients(run.training.model, batches, {
      ...stepOptions(run),
      watch: {
        plan: (plan) => {
          microBatch++;
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
  });
  return found[0] ?? null;
}

/** Writes the folder and returns it relative to the run folder; null, with a warning, if that fails. */
async function saveStep(
  run: Run,
  result: StepResult,
  micros: readonly MicroBatch[],
  found: { random: RandomState; finding: NonfiniteOrigin | null; withModel: boolean },
): Promise<string | null> {
  const { random, finding, withModel } = found;
  const { config, data, training, log, output } = run;
  const step = micros[0]!.step + 1;
  const name = join(RUN_FILES.nonfinite, `step-${step}`);
  try {
    const indices = micros.map((micro) => micro.indices);
    const places = indices.map((own) => own.map((index) => ({ index, ...data.train.place(index) })));
    const { loss, gradNorm } = result;
    const numbers = { loss: String(loss), grad_norm: String(gradNorm), loss_scale: stepOptions(run).lossScale ?? null };
    const records = await recordsOf(run, indices.flat());
    output.own.putFolder(name, (folder) => {
      const write = (file: string, value: unknown): void =>
        writeFileSync(join(folder, file), `${JSON.stringify(value, null, 2)}\n`);
      write('report.json', { step, ...numbers, first: finding, micro_batches: places });
      write('records.json', records);
      write(RUN_FILES.config, config);
      writeSafetensors(join(folder, 'rng_state.safetensors'), random.tensors);
      for (const [i, micro] of micros.entries()) saveBatch(join(folder, `batch-${i}.safetensors`), micro);
      if (withModel) training.save(join(folder, 'model'));
    });
    return name;
  } catch (error) {
    log.warn(
      'write_failed',
      `THE STEP WAS NOT SAVED in ${join(output.own.folder, name)}: ${(error as Error).message}`,
      step,
    );
    return null;
  }
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

function saveBatch(path: string, { samples }: MicroBatch): void {
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
