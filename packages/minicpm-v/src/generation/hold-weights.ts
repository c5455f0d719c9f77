/**
 * Weights that every token reads, in memory of their own. A file's mapping has pages of 4 KiB, which processors read
 * more slowly than the large ones that memory of one's own has. They are one block, in the order in which they are read:
 * in blocks of their own, weights of a few megabytes would have few large pages or none.
 */
import { atOnce, type Steps } from '@minicpm-finetune/run';
import { keep, noGrad, ops, type Parameter, scope, type Tensor } from '@minicpm-finetune/torch';
import type { MiniCPMV } from '../model/minicpm-v.js';

/** Bytes: of a cache line, and of the largest vectors. */
const ALIGNMENT = 64;

function* readByEveryToken(model: MiniCPMV): Generator<Parameter> {
  for (const layer of model.llm.model.layers)
    for (const [, parameter] of layer.namedParameters()) if (parameter.shape.length === 2) yield parameter;
  for (const [, parameter] of model.llm.headParameters()) yield parameter;
}

/** A weight's tensor that products read, and where its copy goes. */
interface Read {
  readonly tensor: Tensor;
  readonly replace: (copy: Tensor) => void;
}

/** Undefined: nothing to copy, on another device, in training or in a form whose parts no product reads. */
function readOf(parameter: Parameter): Read | undefined {
  const { compact } = parameter;
  if (compact === undefined) {
    const { data } = parameter;
    if (data.device !== 'cpu' || data.requiresGrad) return undefined;
    return {
      tensor: data,
      replace: (copy) => {
        parameter.data = copy;
      },
    };
  }
  if (compact.rows === undefined) return undefined;
  const [codes, ...others] = compact.tensors;
  return { tensor: codes!, replace: (copy) => compact.replace([copy, ...others]) };
}

/**
 * Copies the weights of the decoder's layers and of its output layer on a CPU, plain or int8, into one block of memory, which is freed with the last of
 * them, if they take at most half of the memory that is available; else they stay where they are: those of the checkpoint's files are mapped, and the
 * system may drop them when it wants the memory.
 */
export const holdWeights = (model: MiniCPMV): void => atOnce(holdingWeights(model));

/** The same in steps. */
export function* holdingWeights(model: MiniCPMV): Steps<void> {
  const reads = [...readByEveryToken(model)].map(readOf).filter((read) => read !== undefined);
  const bytes = reads.reduce((sum, { tensor }) => sum + tensor.nbytes, 0);
  if (bytes > process.availableMemory() / 2) return;
  const block = scope(() => keep(ops.empty([bytes + reads.length * ALIGNMENT], { dtype: 'uint8' })));
  try {
    let start = 0;
    for (const { tensor, replace } of reads) {
      const { nbytes } = tensor;
      replace(noGrad(() => scope(() => keep(copied(tensor, block, start)))));
      start += Math.ceil(nbytes / ALIGNMENT) * ALIGNMENT;
      yield;
    }
  } finally {
    block.dispose(); // its memory lives as long as a weight in it
  }
}

/** A copy of a tensor in bytes of `block` from `start` on. */
function copied(data: Tensor, block: Tensor, start: number): Tensor {
  const place = ops.viewDtype(ops.narrow(block, 0, start, data.nbytes), data.dtype);
  return ops.copy_(ops.view(place, data.shape), data);
}
