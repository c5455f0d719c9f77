/** Parity of LoRA: trained parts, logits, loss, gradients. */
import { join } from 'node:path';
import { type AppliedLora, loadAdapter, type MiniCPMV, runPlan } from '@minicpm-finetune/minicpm-v';
import { adapterFileParameters } from '@minicpm-finetune/minicpm-v/internal';
import { type Group, noGrad, type Parameter } from '@minicpm-finetune/torch';
import { headOf, lossAndGradients, lossSum } from 'minicpm-finetune/internal';
import type { ReferenceFolder } from './models-folder.js';
import { FEATURES, LOSS, loadModel } from './models-forward.js';
import { nameDifference, type Report, scaledDifference } from './models-report.js';
import { checkGradients, checkNorms, checkTrajectory, ownName } from './models-training.js';

interface TrainableParameters {
  readonly trainable_parameters: readonly string[];
  readonly targeted_modules?: readonly string[];
  readonly adapter_tensor_names?: readonly string[];
  readonly shapes: Readonly<Record<string, readonly number[]>>;
}

type LoraMeta = Readonly<
  Record<
    string,
    {
      readonly loss: number;
      readonly none_grads: readonly string[];
      readonly grad_l2_norm: Readonly<Record<string, number>>;
    }
  >
>;

export async function checkLora(report: Report, folder: ReferenceFolder): Promise<void> {
  if (!folder.has('lora', 'adapter')) return;
  const model = loadModel(folder.path, report.setting);
  const applied = loadAdapter(join(folder.path, 'lora', 'adapter'), model, { trainable: true });
  if (folder.has('lora', 'trainable_parameters.json')) checkNames(report, folder, model, applied);
  if (folder.has('lora', 'expected.safetensors')) checkLoraForward(report, folder, model);
  if (folder.has('lora', 'meta.json')) checkLoraGradients(report, folder, model);
  await checkTrajectory(report, folder, 'lora', model);
  model.dispose();
}

/** The trajectory alone, over ranks. */
export async function checkLoraTrajectory(report: Report, folder: ReferenceFolder, group: Group): Promise<void> {
  if (!folder.has('lora', 'adapter')) return;
  const model = loadModel(folder.path, report.setting);
  loadAdapter(join(folder.path, 'lora', 'adapter'), model, { trainable: true });
  await checkTrajectory(report, folder, 'lora', model, group);
  model.dispose();
}

const trainableOf = (model: MiniCPMV): [string, Parameter][] =>
  [...model.namedParameters()].filter(([, parameter]) => parameter.requiresGrad);

/** Names and shapes of what trains, in memory and in the file. */
function checkNames(report: Report, folder: ReferenceFolder, model: MiniCPMV, applied: AppliedLora): void {
  const expected = folder.json<TrainableParameters>('lora', 'trainable_parameters.json');
  const { targeted_modules: targets, adapter_tensor_names: names } = expected;
  if (targets) report.check('lora/targeted_modules', 0, () => nameDifference(applied.targets, targets));
  report.check('lora/adapter_tensor_names', 0, () => {
    const stored = folder.file('lora', 'adapter', 'adapter_model.safetensors').infos.keys();
    return nameDifference(adapterFileParameters(model, applied).keys(), names ?? stored);
  });
  report.check('lora/trainable_parameters', 0, () => {
    const form = (name: string, shape: readonly number[] | undefined): string => `${name} [${shape?.join(', ')}]`;
    return nameDifference(
      trainableOf(model).map(([name, { shape }]) => form(name, shape)),
      expected.trainable_parameters.map((name) => form(ownName(name), expected.shapes[name])),
    );
  });
}

function checkLoraForward(report: Report, folder: ReferenceFolder, model: MiniCPMV): void {
  const file = folder.file('lora', 'expected.safetensors');
  for (const one of folder.cases.filter(({ name }) => file.infos.has(`${name}.logits`))) {
    const hidden = () => runPlan(model.plan(one.inputs(model.config), { train: false }));
    report.check(`lora/${one.name}/logits`, FEATURES, () =>
      noGrad(() => scaledDifference(one.valid(model.logits(hidden())), one.valid(file.tensor(`${one.name}.logits`)))),
    );
    report.check(`lora/${one.name}/loss`, LOSS, () =>
      noGrad(() => {
        const { sum, count } = lossSum(hidden(), one.labels(), headOf(model));
        return Math.abs(sum / count - file.tensor(`${one.name}.loss`).item());
      }),
    );
  }
}

function checkLoraGradients(report: Report, folder: ReferenceFolder, model: MiniCPMV): void {
  const meta = folder.json<LoraMeta>('lora', 'meta.json');
  for (const one of folder.cases.filter(({ name }) => meta[name] !== undefined)) {
    const { grad_l2_norm, none_grads } = meta[one.name]!;
    const gradients = lossAndGradients(model, [one.batch(model.config)], { recompute: false, perMicroBatch: false });
    const check = `lora/${one.name}/gradients`;
    report.check(`${check}/none`, 0, () => {
      return nameDifference(
        trainableOf(model)
          .map(([name]) => name)
          .filter((name) => !gradients.gradients.has(name)),
        none_grads.map(ownName),
      );
    });
    checkNorms(report, check, grad_l2_norm, undefined, gradients);
    if (one.name === 'sliced') checkGradients(report, check, folder.file('lora', 'grads.safetensors'), gradients);
    gradients.dispose();
  }
}
