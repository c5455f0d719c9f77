/**
 * Parity of training: gradients, groups, trajectories. Also which parameters have no gradient or a zero one;
 * trajectories of full and LoRA fine-tuning.
 */
import type { MiniCPMV } from '@minicpm-finetune/minicpm-v';
import { makeSchedule } from '@minicpm-finetune/run';
import { type Group, type Parameter, scope, soloGroup, type Tensor, type TensorSource } from '@minicpm-finetune/torch';
import {
  type Batch,
  denseRows,
  disposeBatch,
  evaluateBatch,
  type Gradients,
  lossAndGradients,
  Optimizer,
  Sharding,
  type StepResult,
  trainStep,
  withoutDecay,
} from 'minicpm-finetune/internal';
import type { ReferenceCase, ReferenceFolder } from './models-folder.js';
import { asIn, LOSS } from './models-forward.js';
import { ABSOLUTE, allowance, angle, directed, norm, RELATIVE } from './models-gradients.js';
import { largest, maxDifference, nameDifference, type Report } from './models-report.js';

const COSINE = 1e-5;
const TRAJECTORY = 1e-4;
/** The reference gives a batch without pictures a zero picture. */
const STEP = { maxGradNorm: 1, recompute: false, perMicroBatch: false, zeroPicture: true };

/** Names of the reference (PEFT's, for LoRA) as the model has them. */
export function ownName(name: string): string {
  return name
    .replace(/^base_model\.model\./, '')
    .replace('.modules_to_save.default', '')
    .replace(/\.(lora_[AB])\.default\./, '.$1.');
}

const required = (gradients: Gradients, name: string): Tensor => {
  const gradient = gradients.gradients.get(name);
  if (gradient === undefined) throw new Error(`Expected a gradient for ${name} but there is none`);
  return gradient;
};

/** Makes all parameters train, but for the fixed ones. */
export function trainAll(model: MiniCPMV): void {
  for (const [name, parameter] of model.namedParameters())
    parameter.data.requiresGrad = !model.fixedParameters.has(name);
}

function trainable(model: MiniCPMV): Map<string, Parameter> {
  return new Map([...model.namedParameters()].filter(([, parameter]) => parameter.requiresGrad));
}

/** Compares gradients with those in a file. */
export function checkGradients(report: Report, check: string, expected: TensorSource, gradients: Gradients): void {
  const names = [...expected.infos.keys()];
  report.check(`${check}/names`, 0, () => nameDifference(gradients.gradients.keys(), names.map(ownName)));
  const compare = (measure: (actual: Tensor, expected: Tensor) => number, only: boolean) => (): number =>
    largest(
      names.map((name) =>
        scope(() => {
          const own = ownName(name);
          const whole = expected.tensor(name);
          const rows = gradients.rows.get(own);
          const found = required(gradients, own);
          const compared = [rows ? denseRows(found, rows, whole.size(0)) : found, whole];
          const [actual, wanted] = compared.map((x) => (only ? directed(own, x) : x));
          return actual && wanted ? measure(actual, wanted) : 0;
        }),
      ),
    );
  report.check(`${check}/cosine`, COSINE, compare(angle, true));
  report.check(`${check}/allowance`, 1, compare(allowance, false));
}

/** Compares the norm of every gradient, and of all together. */
export function checkNorms(
  report: Report,
  check: string,
  expected: Readonly<Record<string, number>>,
  total: number | undefined,
  gradients: Gradients,
): void {
  report.check(`${check}/norms`, 1, () =>
    largest(
      Object.entries(expected).map(([name, wanted]) => {
        const difference = Math.abs(norm(required(gradients, ownName(name))) - wanted);
        return Math.min(difference / ABSOLUTE, difference / wanted / RELATIVE);
      }),
    ),
  );
  if (total === undefined) return;
  report.check(`${check}/total_norm`, TRAJECTORY, () => {
    const all = Math.hypot(...[...gradients.gradients.values()].map(norm));
    return Math.abs(all - total) / total;
  });
}

/** Gradients of every case in full fine-tuning: norms, and all of them where the folder has them. */
export function checkFullGradients(report: Report, folder: ReferenceFolder, model: MiniCPMV): void {
  for (const one of folder.cases) {
    const { meta, name } = one;
    checkReached(report, one, model);
    report.attempt(`${name}/gradients`, 0, () => {
      const gradients = lossAndGradients(asIn(one, model), [one.batch(asIn(one, model).config)], STEP);
      try {
        checkTrainMode(report, one, model, gradients);
        if (meta.grad_l2_norm)
          checkNorms(report, `${name}/gradients`, meta.grad_l2_norm, meta.total_grad_norm, gradients);
        if (folder.has('cases', name, 'grads.safetensors'))
          checkGradients(report, `${name}/gradients`, folder.file('cases', name, 'grads.safetensors'), gradients);
      } finally {
        gradients.dispose();
      }
    });
  }
}

const parameterNames = (model: MiniCPMV): string[] => [...model.namedParameters()].map(([name]) => name);

/** Which parameters a forward pass in evaluation mode does not even read. */
function checkReached(report: Report, one: ReferenceCase, model: MiniCPMV): void {
  const expected = one.meta.params_without_grad_eval;
  if (expected === undefined) return;
  report.check(`${one.name}/parameters_without_grad_eval`, 0, () => {
    const used = asIn(one, model)
      .plan(one.inputs(model.config), { train: false })
      .flatMap((node) => [...node.parameters.keys()]);
    const reached = new Set([...used, ...model.headParameters().keys()]);
    const without = parameterNames(model).filter(
      (parameter) => !reached.has(parameter) || model.fixedParameters.has(parameter),
    );
    return nameDifference(without, [...expected, ...model.fixedParameters]);
  });
}

/** Loss in train mode, and which parameters then have no gradient, or a zero one. */
function checkTrainMode(report: Report, { meta, name }: ReferenceCase, model: MiniCPMV, gradients: Gradients): void {
  const expected = meta.train_mode;
  if (expected === undefined) return;
  report.check(`${name}/train_mode/loss`, LOSS, () => Math.abs(gradients.loss - expected.loss));
  report.check(`${name}/train_mode/parameters_without_grad`, 0, () => {
    const without = parameterNames(model).filter((parameter) => !gradients.gradients.has(parameter));
    return nameDifference(without, expected.params_without_grad);
  });
  report.check(`${name}/train_mode/zero_gradients`, 0, () =>
    largest(expected.params_with_exactly_zero_grad.map((parameter) => norm(required(gradients, parameter)))),
  );
}

interface Trajectory {
  readonly config: {
    readonly lr: number;
    readonly betas: readonly [number, number];
    readonly eps: number;
    readonly weight_decay: number;
    readonly max_grad_norm: number;
    readonly warmup_steps: number;
    readonly total_steps: number;
  };
  readonly steps: readonly {
    readonly step: number;
    readonly batch: string;
    readonly loss: number;
    readonly grad_norm: number;
    readonly lr_used: number;
  }[];
  readonly loss_after_training: readonly { readonly batch: string; readonly loss: number }[];
  readonly decay_parameters: readonly string[];
  readonly no_decay_parameters: readonly string[];
}

/** The settings of the recorded training's optimizer. */
function optimizerSettings({ config: { lr, betas, eps, weight_decay } }: Trajectory) {
  return {
    learningRate: lr,
    visionLearningRate: null,
    resamplerLearningRate: null,
    embeddingLearningRate: null,
    loraPlusRatio: null,
    weightDecay: weight_decay,
    beta1: betas[0],
    beta2: betas[1],
    eps,
  };
}

/**
 * A micro-batch of each rank in turn, for every record of a case; null: this rank has none. Where pictures see the padding of their batch, the
 * batch stays whole.
 */
function dealt(model: MiniCPMV, one: ReferenceCase, { rank, size }: Group): (Batch | null)[] {
  if (size === 1) return [one.batch(model.config)];
  if (model.version.positions === 'strip') return [rank === 0 ? one.batch(model.config) : null];
  const records = one.records(model.config);
  for (const [i, record] of records.entries()) if (i % size !== rank) disposeBatch(record);
  return Array.from({ length: Math.ceil(records.length / size) }, (_, k) => records[k * size + rank] ?? null);
}

/** Mean loss of a case, over all ranks. */
function evaluated(model: MiniCPMV, one: ReferenceCase, group: Group, sharding: Sharding | null): number {
  const own = dealt(model, one, group).map((batch) => evaluateBatch(model, batch, null, sharding));
  const total = (values: readonly number[]): number => values.reduce((sum, value) => sum + value, 0);
  const [sum, count] = group.sum([total(own.map((part) => part.sum)), total(own.map((part) => part.count))], 'loss');
  return sum! / count!;
}

/** Compares every step with the recorded one. */
function checkSteps(
  report: Report,
  kind: string,
  { steps }: Trajectory,
  results: readonly (StepResult & { readonly lr: number })[],
): void {
  const each = (measure: (i: number) => number) => (): number => largest(results.map((_, i) => measure(i)));
  report.check(
    `train/${kind}/loss`,
    TRAJECTORY,
    each((i) => Math.abs(results[i]!.loss - steps[i]!.loss)),
  );
  report.check(
    `train/${kind}/grad_norm`,
    report.setting.precision === 'float32' ? TRAJECTORY : 4 * TRAJECTORY, // the norms that rounded weights lead to part the most
    each((i) => Math.abs(results[i]!.gradNorm / steps[i]!.grad_norm - 1)),
  );
  report.check(
    `train/${kind}/learning_rate`,
    1e-9,
    each((i) => Math.abs(results[i]!.lr - steps[i]!.lr_used)),
  );
}

/**
 * Trains as `train/<kind>.json` did and compares every step and what came out. The model is left trained. Over ranks its records are dealt out;
 * collective then.
 */
export async function checkTrajectory(
  report: Report,
  folder: ReferenceFolder,
  kind: 'full' | 'lora',
  model: MiniCPMV,
  group: Group = soloGroup(),
): Promise<void> {
  if (!folder.has('train', `${kind}.json`)) return;
  const expected = folder.json<Trajectory>('train', `${kind}.json`);
  const { lr, max_grad_norm, warmup_steps, total_steps } = expected.config;
  const parameters = trainable(model);
  const noDecay = withoutDecay(model);
  report.check(`train/${kind}/decay_parameters`, 0, () =>
    nameDifference(
      [...parameters.keys()].filter((name) => !noDecay.has(name)),
      expected.decay_parameters.map(ownName),
    ),
  );
  report.check(`train/${kind}/no_decay_parameters`, 0, () =>
    nameDifference(
      [...parameters.keys()].filter((name) => noDecay.has(name)),
      expected.no_decay_parameters.map(ownName),
    ),
  );
  // in bfloat16 alone, small updates are lost
  const masterWeights = report.setting.precision === 'bfloat16';
  const stage = kind === 'full' ? 3 : 2;
  const sharding = group.size === 1 ? null : new Sharding(model, { group, stage, trainable: parameters, smallUnit: 0 });
  const settings = { ...optimizerSettings(expected), masterWeights };
  const optimizer = new Optimizer(parameters, noDecay, settings, { shards: sharding?.shards });
  const schedule = makeSchedule(
    { lr_scheduler_type: 'cosine', lr_scheduler_kwargs: null },
    { totalSteps: total_steps, warmupSteps: warmup_steps, learningRate: lr },
  );
  const results = expected.steps.map(({ step, batch }) => {
    const result = trainStep(model, dealt(model, folder.case(batch), group), optimizer, schedule(step), {
      ...STEP,
      maxGradNorm: max_grad_norm,
      sharding,
    });
    return { ...result, lr: lr * schedule(step) };
  });
  checkSteps(report, kind, expected, results);
  report.check(`train/${kind}/loss_after_training`, TRAJECTORY, () =>
    largest(
      expected.loss_after_training.map(({ batch, loss }) =>
        Math.abs(evaluated(model, folder.case(batch), group, sharding) - loss),
      ),
    ),
  );
  const final = (): number =>
    scope(() => {
      const file = folder.file('train', `${kind}_final.safetensors`);
      const all = new Map(model.namedParameters());
      return largest(
        [...file.infos.keys()].map((name) => {
          const [actual, wanted] = [all.get(ownName(name))!.data, file.tensor(name)].map((x) =>
            directed(ownName(name), x),
          );
          return actual && wanted ? maxDifference(actual, wanted) : 0;
        }),
      );
    });
  await report.checkLater(`train/${kind}/final_parameters`, TRAJECTORY, async () =>
    sharding ? await sharding.withAllWeights(async () => final()) : final(),
  );
  optimizer.dispose();
  sharding?.dispose();
}
