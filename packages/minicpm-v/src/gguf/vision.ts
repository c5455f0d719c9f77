/**
 * Vision tower and resampler as llama.cpp has them. The key-values and tensors of its `mmproj` file, with what was
 * trained of both. Parts for audio and speech are left out.
 */
import { strict as assert } from 'node:assert';
import { type ModelConfig, VERSIONS } from '@minicpm-finetune/processor';
import { fromTypedArray, ops, type Tensor } from '@minicpm-finetune/torch';
import { sinCosTable } from '../model/resampler.js';
import { familyOf } from './families.js';
import type { GgufValue, TensorType } from './format.js';
import type { MergedWeights } from './merged-weights.js';
import { FILE_TYPES, type MMPROJ_TYPES } from './outtype.js';
import type { GgufTensor } from './writer.js';

export type MmprojType = (typeof MMPROJ_TYPES)[keyof typeof MMPROJ_TYPES];

const u32 = (value: number): GgufValue => ({ type: 'u32', value });
const halves: GgufValue = { type: 'array', of: 'f32', value: [0.5, 0.5, 0.5] };

export function visionMetadata(
  config: ModelConfig,
  slice: ModelConfig['slice'],
  type: MmprojType,
): Map<string, GgufValue> {
  const { vision, pictureTokens } = config;
  assert('queryNum' in pictureTokens, 'a resampler has queries');
  return new Map<string, GgufValue>([
    ['general.architecture', { type: 'string', value: 'clip' }],
    ['general.type', { type: 'string', value: 'mmproj' }],
    ['general.name', { type: 'string', value: VERSIONS[config.version].title }],
    ['clip.has_vision_encoder', { type: 'bool', value: true }],
    ['general.file_type', u32(FILE_TYPES[type])],
    ['general.description', { type: 'string', value: 'image encoder for MiniCPM-V' }],
    ['clip.projector_type', { type: 'string', value: 'resampler' }],
    ['clip.minicpmv_version', { type: 'i32', value: familyOf(config).vision! }],
    ['clip.vision.image_size', u32(slice.scaleResolution)],
    ['clip.vision.patch_size', u32(vision.patchSize)],
    ['clip.vision.embedding_length', u32(vision.hiddenSize)],
    ['clip.vision.feed_forward_length', u32(vision.intermediateSize)],
    ['clip.vision.projection_dim', u32(0)],
    ['clip.vision.attention.head_count', u32(vision.numHeads)],
    ['clip.vision.attention.layer_norm_epsilon', { type: 'f32', value: vision.layerNormEps }],
    ['clip.vision.block_count', u32(vision.numLayers)],
    ['clip.minicpmv_query_num', u32(pictureTokens.queryNum)],
    ['clip.vision.image_mean', halves],
    ['clip.vision.image_std', halves],
    ['clip.use_gelu', { type: 'bool', value: true }], // its approximation by tanh
  ]);
}

/** Names in the file by the end of their names in a layer of the tower. */
const LAYER: readonly (readonly [inFile: string, inLayer: string])[] = [
  ['attn_k', 'self_attn.k_proj'],
  ['attn_v', 'self_attn.v_proj'],
  ['attn_q', 'self_attn.q_proj'],
  ['attn_out', 'self_attn.out_proj'],
  ['ln1', 'layer_norm1'],
  ['ffn_up', 'mlp.fc1'],
  ['ffn_down', 'mlp.fc2'],
  ['ln2', 'layer_norm2'],
];

/** Side of the table of the resampler's positions, in patches. */
const TABLE_SIDE = 70;

export function visionTensors(config: ModelConfig, weights: MergedWeights, type: MmprojType): Map<string, GgufTensor> {
  const tensors = new Map<string, GgufTensor>();
  const add = (name: string, inModel: string, as: TensorType): void => {
    const shape = weights.shapes.get(inModel);
    if (shape === undefined) return;
    tensors.set(name, { type: shape.length === 1 ? 'f32' : as, shape, rows: rowsIn(weights, inModel) });
  };
  const whole = (name: string, inModel: string, as: TensorType = type): void => {
    add(`${name}.weight`, `${inModel}.weight`, as);
    add(`${name}.bias`, `${inModel}.bias`, as);
  };
  addResampler(config, weights, type, tensors);
  // readers take the patches' kernel and the position table in these two types only
  const tables = type === 'bf16' ? 'f32' : type;
  whole('v.patch_embd', 'vpm.embeddings.patch_embedding', tables);
  whole('v.position_embd', 'vpm.embeddings.position_embedding', tables);
  for (let i = 0; i < config.vision.numLayers; i++)
    for (const [inFile, inLayer] of LAYER) whole(`v.blk.${i}.${inFile}`, `vpm.encoder.layers.${i}.${inLayer}`);
  whole('v.post_ln', 'vpm.post_layernorm');
  return tensors;
}

function addResampler(
  { llm }: ModelConfig,
  weights: MergedWeights,
  type: MmprojType,
  tensors: Map<string, GgufTensor>,
): void {
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
}

function identityRows(size: number, start: number, count: number): Tensor {
  const values = new Float32Array(count * size);
  for (let i = 0; i < count; i++) values[i * size + start + i] = 1;
  return fromTypedArray(values, [count, size]);
}

/** Rows of a weight, or of a part of it: vectors are one row, kernels of more sizes have one row for each but the last. */
function rowsIn(weights: MergedWeights, name: string, from = 0, size?: number): GgufTensor['rows'] {
  const shape = weights.shapes.get(name)!;
  if (shape.length === 1) {
    const length = size ?? shape[0]!;
    return () => ops.reshape(weights.rows(name, from, length), [1, length]);
  }
  if (shape.length === 2) return (start, count) => weights.rows(name, from + start, count);
  const width = shape.at(-1)!;
  return (start, count): Tensor =>
    ops.narrow(ops.reshape(weights.rows(name, 0, shape[0]!), [-1, width]), 0, start, count);
}
