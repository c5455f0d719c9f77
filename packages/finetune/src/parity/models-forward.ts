/** Checks of the forward pass: features, embeddings, logits and loss of every case, the dummy picture, the sharded copy, generation. */
import { join } from 'node:path';
import { KVCache, loadWeights, MiniCPMV, type ModelInputs, readConfig, runPlan } from '@minicpm-finetune/minicpm-v';
import { fromTypedArray, noGrad, ops, type Tensor } from '@minicpm-finetune/torch';
import { lossSum } from '../loss.js';
import { headOf } from '../step.js';
import type { ReferenceCase, ReferenceFolder } from './models-folder.js';
import { largest, maxDifference, nameDifference, type Report, scaledDifference } from './models-report.js';

export const FEATURES = 1e-4;
export const LOSS = 1e-5;

/** The model of a checkpoint folder, in float32. */
export function loadModel(folder: string): MiniCPMV {
  const model = new MiniCPMV(readConfig(folder));
  loadWeights(model, folder, { dtype: 'float32' });
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
    const sharded = loadModel(join(folder.path, 'sharded'));
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

/** Greedy continuation of a prompt with its picture, with and without the cache. */
export function checkGeneration(report: Report, folder: ReferenceFolder, model: MiniCPMV): void {
  if (!folder.has('generate', 'expected.json')) return;
  const expected = folder.json<Generation>('generate', 'expected.json');
  const inputs = (): ModelInputs => {
    const { pictures, imageBounds } = folder.case(expected.case).inputs();
    const length = expected.prompt_ids.length;
    const ids = BigInt64Array.from(expected.prompt_ids, BigInt);
    const positions = BigInt64Array.from({ length }, (_, i) => BigInt(i));
    return {
      inputIds: fromTypedArray(ids, [1, length]),
      positionIds: fromTypedArray(positions, [1, length]),
      pictures: pictures.slice(0, 1),
      imageBounds: imageBounds.slice(0, 1),
    };
  };
  report.check('generate/inputs_embeds', FEATURES, () =>
    noGrad(() =>
      scaledDifference(
        model.inputsEmbeds(inputs()),
        folder.file('generate', 'prompt.safetensors').tensor('inputs_embeds'),
      ),
    ),
  );
  report.check('generate/new_token_ids', 0, () =>
    noGrad(() => wrongTokens(greedy(model, inputs(), expected), expected)),
  );
}

function wrongTokens(ids: readonly number[], { new_token_ids }: Generation): number {
  const length = Math.max(ids.length, new_token_ids.length);
  return Array.from({ length }, (_, i) => ids[i] !== new_token_ids[i]).filter((wrong) => wrong).length;
}

function greedy(model: MiniCPMV, inputs: ModelInputs, limits: Generation): number[] {
  const decoder = model.llm.model;
  const cache = new KVCache(decoder.layers.length);
  const ids: number[] = [];
  try {
    let hidden = decoder.forward(model.inputsEmbeds(inputs), inputs.positionIds, cache);
    while (true) {
      const id = ops.argmax(model.logits(ops.select(hidden, 1, hidden.size(1) - 1))).item();
      ids.push(id);
      if (ids.length === limits.max_new_tokens || limits.terminators.includes(id)) return ids;
      const next = fromTypedArray(BigInt64Array.of(BigInt(id)), [1, 1]);
      const position = fromTypedArray(BigInt64Array.of(BigInt(cache.length)), [1, 1]);
      hidden = decoder.forward(decoder.embed(next), position, cache);
    }
  } finally {
    cache.dispose();
  }
}
