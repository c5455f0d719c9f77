/**
 * An adapter as GGUF: the low-rank parts on the language model. Everything else that an adapter can hold has no place in
 * such a file and is refused, with the command that makes a file of it.
 */
import { type ModelConfig, VERSIONS } from '@minicpm-finetune/processor';
import { shownNames, UserError } from '@minicpm-finetune/run';
import { ops, type Tensor } from '@minicpm-finetune/torch';
import { baseFingerprint } from '../adapters/checksums.js';
import { loadAdapter } from '../adapters/folder.js';
import { adaptedParameters, type LoraAdapter, loraAdapters, removeLora } from '../adapters/lora.js';
import type { HashProgress } from '../checkpoint/content.js';
import { loadWeights } from '../checkpoint/weights.js';
import { MiniCPMV } from '../model/minicpm-v.js';
import { familyOf } from './families.js';
import type { GgufValue } from './format.js';
import { columnOrder, inOrder } from './head-order.js';
import { fileRows, languageModules } from './language-model.js';
import { type GgufTensor, writeGguf } from './writer.js';

export interface AdapterOptions {
  readonly model: string;
  readonly adapter: string;
  readonly onHash?: HashProgress | undefined;
}

/** Writes the adapter's file. Returns its notices. @throws UserError for an adapter that has no form as GGUF */
export function writeAdapterGguf(path: string, config: ModelConfig, options: AdapterOptions): readonly string[] {
  const { model: folder, adapter, onHash } = options;
  const model = new MiniCPMV(config);
  try {
    loadWeights(model, folder);
    const loaded = loadAdapter(adapter, model, {
      trainable: false,
      dtype: 'float32',
      fingerprint: (format) => baseFingerprint(folder, format, onHash),
    });
    const whole = [...adaptedParameters(model, loaded).keys()].filter((name) => !name.includes('.lora_'));
    const biases = whole.filter((name) => !loaded.saved.some((module) => name.startsWith(`${module}.`)));
    refuseWhole(adapter, [...loaded.saved, ...biases]);
    const modules = new Map(languageModules(config).map(([inFile, inModel]) => [inModel, inFile]));
    const layers = [...loraAdapters(model)];
    refuseOthers(
      adapter,
      layers.map(([name]) => name).filter((name) => !modules.has(name)),
    );
    refuseDora(adapter, loaded.config.useDora);
    const alpha = commonAlpha(layers.map(([, , lora]) => lora));
    const tensors = new Map<string, GgufTensor>();
    for (const [name, , lora] of layers) addParts(tensors, config, modules.get(name)!, lora, alpha);
    writeGguf(path, adapterMetadata(config, alpha), tensors);
    return loaded.notices;
  } finally {
    removeLora(model);
    model.dispose();
  }
}

/** `adapter.lora.alpha`: readers scale by alpha / rank. The layers' own scale where it is the same in all, else folded into B. */
function commonAlpha(layers: readonly LoraAdapter[]): number {
  const own = layers.map(({ scaling, r }) => scaling * r);
  return own.every((alpha) => alpha === own[0]) ? own[0]! : 1;
}

function adapterMetadata(config: ModelConfig, alpha: number): Map<string, GgufValue> {
  return new Map<string, GgufValue>([
    ['general.architecture', { type: 'string', value: familyOf(config).architecture }],
    ['general.type', { type: 'string', value: 'adapter' }],
    ['adapter.type', { type: 'string', value: 'lora' }],
    ['general.name', { type: 'string', value: VERSIONS[config.version].title }],
    ['adapter.lora.alpha', { type: 'f32', value: alpha }],
    ['general.quantization_version', { type: 'u32', value: 2 }],
  ]);
}

function addParts(
  tensors: Map<string, GgufTensor>,
  config: ModelConfig,
  module: string,
  { loraA, loraB, scaling, r }: LoraAdapter,
  alpha: number,
): void {
  const factor = (scaling * r) / alpha;
  const outputs = (): Tensor => {
    const b = loraB.weight.data;
    return fileRows(config, module, factor === 1 ? b : ops.mulScalar(b, factor));
  };
  const columns = columnOrder(config.llm, module);
  const inputs = (): Tensor => (columns === null ? loraA.weight.data : inOrder(loraA.weight.data, 1, columns));
  const add = (part: string, whole: () => Tensor, shape: readonly number[]): void => {
    const rows = (start: number, count: number): Tensor => ops.narrow(whole(), 0, start, count);
    tensors.set(`${module}.weight.lora_${part}`, { type: 'f32', shape, rows });
  };
  add('a', inputs, loraA.weight.shape);
  add('b', outputs, loraB.weight.shape);
}

const MERGE = 'Leave --lora out: the adapter is then merged, and the files have all of it.';

function refuseDora(adapter: string, useDora: boolean): void {
  if (!useDora) return;
  throw new UserError(
    `Expected an adapter without DoRA for a LoRA file of llama.cpp, which has no magnitudes, but ${adapter} has use_dora true.`,
    { flag: '--lora', cure: MERGE },
  );
}

function refuseWhole(adapter: string, names: readonly string[]): void {
  if (names.length === 0) return;
  throw new UserError(
    `Expected low-rank parts alone for a LoRA file of llama.cpp but the adapter ${adapter} has modules that were trained whole: ${shownNames(names)}.`,
    { flag: '--lora', cure: MERGE },
  );
}

function refuseOthers(adapter: string, names: readonly string[]): void {
  if (names.length === 0) return;
  throw new UserError(
    `Expected an adapter on the language model alone for a LoRA file of llama.cpp but ${adapter} has low-rank parts on ${shownNames(names)}.`,
    { flag: '--lora', cure: MERGE },
  );
}
