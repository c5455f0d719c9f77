/**
 * Parity of the forward pass and of generation. Features, embeddings, logits and loss of every case, the dummy picture,
 * the sharded copy.
 */
import { join } from 'node:path';
import { GREEDY, loadWeights, MiniCPMV, type ModelInputs, moveTo, runPlan } from '@minicpm-finetune/minicpm-v';
import { generate } from '@minicpm-finetune/minicpm-v/internal';
import { readConfig } from '@minicpm-finetune/processor';
import { fromTypedArray, keep, noGrad, ops, scope, type Tensor } from '@minicpm-finetune/torch';
import { headOf, lossSum } from 'minicpm-finetune/internal';
import type { ReferenceCase, ReferenceFolder } from './models-folder.js';
import {
  largest,
  maxDifference,
  nameDifference,
  type Report,
  type Setting,
  scaledDifference,
} from './models-report.js';

export const FEATURES = 1e-4;
export const LOSS = 1e-5;

/** The model of a checkpoint folder, in the setting's type, on its device. */
export function loadModel(folder: string, { device, precision }: Setting): MiniCPMV {
  const model = new MiniCPMV(readConfig(folder));
  loadWeights(model, folder, { dtype: precision === 'bfloat16' ? 'bfloat16' : 'float32' });
  if (device !== 'cpu') moveTo(model, device);
  return model;
}

export function checkForward(report: Report, folder: ReferenceFolder, model: MiniCPMV): void {
  for (const one of folder.cases) noGrad(() => checkCase(report, one, model));
}

function checkCase(report: Report, one: ReferenceCase, model: MiniCPMV): void {
  const { name, expected } = one;
  const pictureCheck = (what: string, compute: (inputs: ModelInputs) => Tensor[]): void => {
    if (![...expected.infos.keys()].some((key) => key.startsWith(`${what}.`))) return;
    report.check(`${name}/${what}`, FEATURES, () => {
      const inputs = one.inputs();
      const keys = one.pictureKeys(inputs);
      return largest(compute(inputs).map((x, i) => scaledDifference(x, expected.tensor(`${what}.${keys[i]}`))));
    });
  };
  pictureCheck('vision', ({ pictures }) => model.visionFeatures(pictures.flat()));
  pictureCheck('resampler', ({ pictures }) => model.pictureTokens(pictures.flat()));
  report.check(`${name}/inputs_embeds`, FEATURES, () =>
    scaledDifference(one.valid(model.inputsEmbeds(one.inputs())), one.valid(expected.tensor('inputs_embeds'))),
  );
  const hidden = (): Tensor => runPlan(model.plan(one.inputs(), { train: false }));
  report.check(`${name}/logits`, FEATURES, () =>
    scaledDifference(one.valid(model.logits(hidden())), one.valid(expected.tensor('logits'))),
  );
  report.check(`${name}/loss`, LOSS, () => {
    const { sum, count } = lossSum(hidden(), one.labels(), headOf(model));
    return Math.abs(sum / count - expected.tensor('loss').item());
  });
}

export function checkDummy(report: Report, folder: ReferenceFolder, model: MiniCPMV): void {
  for (const { name } of folder.cases) {
    if (!folder.has('cases', name, 'train_mode_dummy.safetensors')) continue;
    report.check(`${name}/train_mode_dummy`, FEATURES, () =>
      noGrad(() => {
        const expected = folder.file('cases', name, 'train_mode_dummy.safetensors').tensor('dummy_feature');
        return scaledDifference(model.dummyTokens(), expected);
      }),
    );
  }
}

/** The same weights in shards: the same tensors, bit for bit, and the same logits. */
export function checkSharded(report: Report, folder: ReferenceFolder, model: MiniCPMV): void {
  if (!folder.has('sharded')) return;
  report.check('sharded/weights', 0, () => {
    const sharded = loadModel(join(folder.path, 'sharded'), report.setting);
    const theirs = new Map(sharded.namedParameters());
    const ours = new Map(model.namedParameters());
    const names = nameDifference(ours.keys(), theirs.keys());
    const error = largest([...ours].map(([name, { data }]) => maxDifference(data, theirs.get(name)!.data)));
    sharded.dispose();
    return names + error;
  });
}

interface Generation {
  readonly prompt_ids: readonly number[];
  readonly case: string;
  readonly new_token_ids: readonly number[];
  readonly terminators: readonly number[];
  readonly max_new_tokens: number;
}

/** Greedy continuation of a prompt with its picture. */
export async function checkGeneration(report: Report, folder: ReferenceFolder, model: MiniCPMV): Promise<void> {
  if (!folder.has('generate', 'expected.json')) return;
  const expected = folder.json<Generation>('generate', 'expected.json');
  report.check('generate/inputs_embeds', FEATURES, () => {
    const wanted = folder.file('generate', 'prompt.safetensors').tensor('inputs_embeds');
    return scaledDifference(promptEmbeds(folder, expected, model), wanted);
  });
  if (report.setting.precision !== 'float32') return; // one token that is as likely as another changes all after it
  await report.checkLater('generate/new_token_ids', 0, async () => {
    const embeds = keep(scope(() => ops.select(promptEmbeds(folder, expected, model), 0, 0)));
    const ids: number[] = [];
    const options = {
      sampling: GREEDY,
      maxNewTokens: expected.max_new_tokens,
      stopTokens: new Set(expected.terminators),
    };
    for await (const step of generate(model, [embeds], options)) ids.push(...step.map(({ id }) => id));
    embeds.dispose();
    const length = Math.max(ids.length, expected.new_token_ids.length);
    return Array.from({ length }, (_, i) => ids[i] !== expected.new_token_ids[i]).filter((wrong) => wrong).length;
  });
}

/** Embeddings (1, L, D) of the prompt with its case's pictures in place. */
function promptEmbeds(folder: ReferenceFolder, { prompt_ids, case: name }: Generation, model: MiniCPMV): Tensor {
  const { pictures, imageBounds } = folder.case(name).inputs();
  const length = prompt_ids.length;
  const row = (values: Iterable<bigint>): Tensor =>
    fromTypedArray(BigInt64Array.from(values), [1, length], 'int64', folder.device);
  return noGrad(() =>
    model.inputsEmbeds({
      inputIds: row(prompt_ids.map(BigInt)),
      positionIds: row(prompt_ids.map((_, i) => BigInt(i))),
      pictures: pictures.slice(0, 1),
      imageBounds: imageBounds.slice(0, 1),
    }),
  );
}
