/**
 * Weights that every token reads, in memory of their own. A file's mapping has pages of 4 KiB, which processors read
 * more slowly than the large ones that memory of one's own has.
 */
import { atOnce, type Steps } from '@minicpm-finetune/run';
import { keep, noGrad, ops, type Parameter, scope } from '@minicpm-finetune/torch';
import type { MiniCPMV } from '../model/minicpm-v.js';

function* readByEveryToken(model: MiniCPMV): Generator<Parameter> {
  for (const layer of model.llm.model.layers)
    for (const [, parameter] of layer.namedParameters()) if (parameter.shape.length === 2) yield parameter;
  for (const [, parameter] of model.llm.headParameters()) yield parameter;
}

/**
 * Copies the plain weights of the decoder's layers and of its output layer on a CPU out of the checkpoint's files, if they take at most half of the
 * memory that is available; else they stay mapped, and the system may drop them when it wants the memory.
 */
export const holdWeights = (model: MiniCPMV): void => atOnce(holdingWeights(model));

/** The same in steps. */
export function* holdingWeights(model: MiniCPMV): Steps<void> {
  const plain = [...readByEveryToken(model)].filter(({ compact }) => compact === undefined);
  const onCpu = plain.filter(({ data }) => data.device === 'cpu' && !data.requiresGrad);
  const bytes = onCpu.reduce((sum, { data }) => sum + data.nbytes, 0);
  if (bytes > process.availableMemory() / 2) return;
  for (const parameter of onCpu) {
    parameter.data = noGrad(() => scope(() => keep(ops.clone(parameter.data))));
    yield;
  }
}
