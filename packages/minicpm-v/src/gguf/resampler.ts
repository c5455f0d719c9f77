/** The resampler as llama.cpp has it. Its key-values and tensors in the `mmproj` file. */
import { strict as assert } from 'node:assert';
import type { ModelConfig } from '@minicpm-finetune/processor';
import { fromTypedArray, ops, type Tensor } from '@minicpm-finetune/torch';
import { sinCosTable } from '../model/resampler.js';
import type { GgufValue, TensorType } from './format.js';
import type { MergedWeights } from './merged-weights.js';
import type { MmprojType } from './outtype.js';
import { rowsIn } from './weight-rows.js';
import type { GgufTensor } from './writer.js';

/** Key-values of the resampler of `version`, which `clip.minicpmv_version` names. */
export function resamplerKeys({ pictureTokens }: ModelConfig, version: number): Record<string, GgufValue> {
  assert('queryNum' in pictureTokens, 'a resampler has queries');
  return {
    'clip.vision.projection_dim': { type: 'u32', value: 0 },
    'clip.minicpmv_version': { type: 'i32', value: version },
    'clip.minicpmv_query_num': { type: 'u32', value: pictureTokens.queryNum },
  };
}

/** Side of the table of the resampler's positions, in patches. */
const TABLE_SIDE = 70;

export function resamplerTensors(
  { llm }: ModelConfig,
  weights: MergedWeights,
  type: MmprojType,
): Map<string, GgufTensor> {
  const tensors = new Map<string, GgufTensor>();
  const dim = llm.hiddenSize;
  const add = (name: string, as: TensorType, shape: readonly number[], rows: GgufTensor['rows']): void => {
    tensors.set(`resampler.${name}`, { type: shape.length === 1 ? 'f32' : as, shape, rows });
  };
  const third = (name: string, inModel: string, i: number): void => {
    const [, ...rest] = weights.shapes.get(inModel)!;
    const rows = rowsIn(weights, inModel, i * dim, dim);
    add(name, type, [dim, ...rest], rows);
  };
  for (const part of ['bias', 'weight'])
    for (const [i, letter] of ['q', 'k', 'v'].entries())
      third(`attn.${letter}.${part}`, `resampler.attn.in_proj_${part}`, i);
  const named = (name: string, inModel: string, as: TensorType = type): void =>
    add(name, as, weights.shapes.get(inModel)!, rowsIn(weights, inModel));
  named('attn.out.bias', 'resampler.attn.out_proj.bias');
  named('attn.out.weight', 'resampler.attn.out_proj.weight');
  // where tower and language model have one width there is no projection; readers want one all the same
  if (weights.shapes.has('resampler.kv_proj.weight')) named('kv.weight', 'resampler.kv_proj.weight');
  else add('kv.weight', type, [dim, dim], (start, count) => identityRows(dim, start, count));
  for (const norm of ['ln_kv', 'ln_post', 'ln_q'])
    for (const part of ['bias', 'weight']) named(`${norm}.${part}`, `resampler.${norm}.${part}`);
  add('pos_embed_k', 'f32', [TABLE_SIDE * TABLE_SIDE, dim], (start, count) =>
    ops.narrow(sinCosTable(TABLE_SIDE, TABLE_SIDE, dim), 0, start, count),
  );
  add('proj.weight', type, [dim, dim], (start, count) =>
    ops.contiguous(ops.narrow(ops.transpose(weights.rows('resampler.proj', 0, dim), 0, 1), 0, start, count)),
  );
  named('query', 'resampler.query', 'f32');
  return tensors;
}

function identityRows(size: number, start: number, count: number): Tensor {
  const values = new Float32Array(count * size);
  for (let i = 0; i < count; i++) values[i * size + start + i] = 1;
  return fromTypedArray(values, [count, size]);
}
