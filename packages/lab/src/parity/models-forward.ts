/**
 * Parity of the forward pass and of generation. Features, embeddings, logits and loss of every case, the dummy picture,
 * the sharded copy.
 */
import { join } from 'node:path';
import { GREEDY, loadWeights, MiniCPMV, type ModelInputs, moveTo, runPlan } from '@minicpm-finetune/minicpm-v';
import { generate } from '@minicpm-finetune/minicpm-v/internal';
import { canvasPositions, countTokens, readConfig, withDownsampleMode } from '@minicpm-finetune/processor';
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

/** The model as a case asks for it: itself, or one of the same tensors that merges patches as the case does. */
export function asIn({ meta }: ReferenceCase, model: MiniCPMV): MiniCPMV {
  const { merger } = model.config;
  const mode = meta.downsample_mode ?? merger?.downsampleMode;
  if (merger === null || mode === undefined || mode === merger.downsampleMode) return model;
  const other = new MiniCPMV(withDownsampleMode(model.config, mode));
  const own = new Map(model.namedParameters());
  for (const [name, parameter] of other.namedParameters()) parameter.data = own.get(name)!.data;
  return other;
}

export function checkForward(report: Report, folder: ReferenceFolder, model: MiniCPMV): void {
  for (const one of folder.cases) noGrad(() => checkCase(report, one, asIn(one, model)));
}

function checkCase(report: Report, one: ReferenceCase, model: MiniCPMV): void {
  const { name, expected } = one;
  const { config, parts } = model;
  const pictureCheck = (what: string, keys: string[], compute: (inputs: ModelInputs) => Tensor[]): void => {
    if (!keys.some((key) => expected.infos.has(key))) return;
    report.check(`${name}/${what}`, FEATURES, () =>
      largest(compute(one.inputs(config)).map((x, i) => scaledDifference(x, expected.tensor(keys[i]!)))),
    );
  };
  pictureCheck('vision', one.pictureKeys('vision'), ({ pictures }) => model.visionFeatures(pictures.flat()));
  const connector = parts.connector.split('.').at(-1)!;
  pictureCheck(connector, one.unitKeys(connector), ({ pictures, groups }) =>
    model.pictureTokens(pictures.flat(), groups?.flat()),
  );
  if (config.canvas !== null && expected.infos.has('mrope_position_ids'))
    report.check(`${name}/mrope_position_ids`, 0, () =>
      maxDifference(one.canvasIds(config), expected.tensor('mrope_position_ids')),
    );
  report.check(`${name}/inputs_embeds`, FEATURES, () =>
    scaledDifference(one.valid(model.inputsEmbeds(one.inputs(config))), one.valid(expected.tensor('inputs_embeds'))),
  );
  checkHidden(report, one, model);
  const hidden = (): Tensor => runPlan(model.plan(one.inputs(config), { train: false }));
  report.check(`${name}/logits`, FEATURES, () =>
    scaledDifference(one.valid(model.logits(hidden())), one.valid(expected.tensor('logits'))),
  );
  report.check(`${name}/loss`, LOSS, () => {
    const { sum, count } = lossSum(hidden(), one.labels(), headOf(model));
    return Math.abs(sum / count - expected.tensor('loss').item());
  });
}

/** The output of every decoder layer, where the folder has them. */
function checkHidden(report: Report, one: ReferenceCase, model: MiniCPMV): void {
  const layers = [...one.expected.infos.keys()].filter((key) => key.startsWith('hidden.'));
  if (layers.length === 0) return;
  report.check(`${one.name}/hidden`, FEATURES, () => {
    const plan = model.plan(one.inputs(model.config), { train: false });
    return largest(
      layers.map((key) => {
        const node = `${model.parts.decoder}.layers.${key.slice('hidden.'.length)}`;
        const output = runPlan(plan.slice(0, plan.findIndex(({ name }) => name === node) + 1));
        return scaledDifference(one.valid(output), one.valid(one.expected.tensor(key)));
      }),
    );
  });
}

export function checkDummy(report: Report, folder: ReferenceFolder, model: MiniCPMV): void {
  for (const { name } of folder.cases) {
    if (!folder.has('cases', name, 'train_mode_dummy.safetensors')) continue;
    report.check(`${name}/train_mode_dummy`, FEATURES, () =>
      noGrad(() => {
        const file = folder.file('cases', name, 'train_mode_dummy.safetensors');
        const stored = file.infos.has('dummy_feature') ? 'dummy_feature' : 'resampler';
        return scaledDifference(model.dummyTokens(), file.tensor(stored));
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
  readonly sample?: number;
  readonly new_token_ids: readonly number[];
  readonly terminators: readonly number[];
  readonly max_new_tokens: number;
  readonly rope_delta?: number;
}

/** Greedy continuations of prompts with their pictures: `generate/expected*.json` with `prompt*.safetensors`. */
export async function checkGeneration(report: Report, folder: ReferenceFolder, model: MiniCPMV): Promise<void> {
  for (const kind of ['', '_sliced', '_video'])
    if (folder.has('generate', `expected${kind}.json`)) await checkContinuation(report, folder, model, kind);
}

async function checkContinuation(
  report: Report,
  folder: ReferenceFolder,
  model: MiniCPMV,
  kind: string,
): Promise<void> {
  const expected = folder.json<Generation>('generate', `expected${kind}.json`);
  const check = `generate${kind}`;
  const prompt = (): ModelInputs => promptInputs(folder, expected, model);
  const stored = folder.file('generate', `prompt${kind}.safetensors`);
  report.check(`${check}/inputs_embeds`, FEATURES, () =>
    scaledDifference(
      noGrad(() => model.inputsEmbeds(prompt())),
      stored.tensor('inputs_embeds'),
    ),
  );
  if (stored.infos.has('mrope_position_ids'))
    report.check(`${check}/mrope_position_ids`, 0, () =>
      maxDifference(prompt().positionIds, stored.tensor('mrope_position_ids')),
    );
  if (report.setting.precision !== 'float32') return; // one token that is as likely as another changes all after it
  await report.checkLater(`${check}/new_token_ids`, 0, async () => {
    const { embeds, positions } = scope(() => {
      const inputs = prompt();
      const whole = noGrad(() => model.inputsEmbeds(inputs));
      return { embeds: keep(ops.select(whole, 0, 0)), positions: inputs.positionIds.toNumbers() };
    });
    const ids: number[] = [];
    const options = {
      sampling: GREEDY,
      maxNewTokens: expected.max_new_tokens,
      stopTokens: new Set(expected.terminators),
      ...(model.config.canvas === null ? {} : { positionIds: Int32Array.from(positions) }),
    };
    for await (const step of generate(model, [embeds], options)) ids.push(...step.map(({ id }) => id));
    embeds.dispose();
    const length = Math.max(ids.length, expected.new_token_ids.length);
    return Array.from({ length }, (_, i) => ids[i] !== expected.new_token_ids[i]).filter((wrong) => wrong).length;
  });
}

/** The prompt with its case's pictures. */
function promptInputs(folder: ReferenceFolder, expected: Generation, model: MiniCPMV): ModelInputs {
  const { prompt_ids, sample = 0 } = expected;
  const { config } = model;
  const { pictures, imageBounds, groups } = folder.case(expected.case).inputs();
  const length = prompt_ids.length;
  const bounds = imageBounds[sample]!.filter(([, end]) => end <= length);
  const own = pictures[sample]!;
  const grids = own.map((grid): [number, number] => {
    const side = Math.sqrt((grid.rows * grid.cols) / countTokens(config.pictureTokens, grid));
    return [grid.rows / side, grid.cols / side];
  });
  const ids =
    config.canvas === null
      ? prompt_ids.map((_, i) => i)
      : canvasPositions({
          inputIds: prompt_ids,
          bounds: bounds.map(([start, end]): [number, number] => [start, end]),
          grids,
          marks: config.canvas,
        }).positionIds;
  const shape = config.canvas === null ? [1, length] : [3, 1, length];
  return {
    inputIds: fromTypedArray(BigInt64Array.from(prompt_ids, BigInt), [1, length], 'int64', folder.device),
    positionIds: fromTypedArray(BigInt64Array.from(ids, BigInt), shape, 'int64', folder.device),
    pictures: [own],
    imageBounds: [bounds],
    ...(groups && { groups: [groups[sample]!] }),
  };
}
