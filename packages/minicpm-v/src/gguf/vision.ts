/**
 * Vision tower and connector as llama.cpp has them. The key-values and tensors of its `mmproj` file, with what was
 * trained of both. Parts for audio and speech are left out.
 */
import { type ModelConfig, VERSIONS } from '@minicpm-finetune/processor';
import { familyOf, type GgufProjector } from './families.js';
import type { GgufValue, TensorType } from './format.js';
import type { MergedWeights } from './merged-weights.js';
import { mergerKeys, mergerModules } from './merger.js';
import { FILE_TYPES, type MmprojType } from './outtype.js';
import { resamplerKeys, resamplerTensors } from './resampler.js';
import { rowsIn } from './weight-rows.js';
import type { GgufTensor } from './writer.js';

const u32 = (value: number): GgufValue => ({ type: 'u32', value });
const halves: GgufValue = { type: 'array', of: 'f32', value: [0.5, 0.5, 0.5] };

export function visionMetadata(
  config: ModelConfig,
  slice: ModelConfig['slice'],
  type: MmprojType,
): Map<string, GgufValue> {
  const { vision } = config;
  const projector = familyOf(config).projector!;
  return new Map<string, GgufValue>([
    ['general.architecture', { type: 'string', value: 'clip' }],
    ['general.type', { type: 'string', value: 'mmproj' }],
    ['general.name', { type: 'string', value: VERSIONS[config.version].title }],
    ['clip.has_vision_encoder', { type: 'bool', value: true }],
    ['general.file_type', u32(FILE_TYPES[type])],
    ['general.description', { type: 'string', value: 'image encoder for MiniCPM-V' }],
    ['clip.projector_type', { type: 'string', value: projector.type }],
    ['clip.vision.image_size', u32(slice.scaleResolution)],
    ['clip.vision.patch_size', u32(vision.patchSize)],
    ['clip.vision.embedding_length', u32(vision.hiddenSize)],
    ['clip.vision.feed_forward_length', u32(vision.intermediateSize)],
    ['clip.vision.attention.head_count', u32(vision.numHeads)],
    ['clip.vision.attention.layer_norm_epsilon', { type: 'f32', value: vision.layerNormEps }],
    ['clip.vision.block_count', u32(vision.numLayers)],
    ...Object.entries(projectorKeys(config, projector)),
    ['clip.vision.image_mean', halves],
    ['clip.vision.image_std', halves],
    ['clip.use_gelu', { type: 'bool', value: true }], // its approximation by tanh
  ]);
}

const projectorKeys = (config: ModelConfig, projector: GgufProjector): Record<string, GgufValue> =>
  projector.type === 'resampler' ? resamplerKeys(config, projector.version) : mergerKeys(config);

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

export function visionTensors(config: ModelConfig, weights: MergedWeights, type: MmprojType): Map<string, GgufTensor> {
  const isResampler = familyOf(config).projector!.type === 'resampler';
  const { parts } = VERSIONS[config.version];
  const tensors = isResampler ? resamplerTensors(config, weights, type) : new Map<string, GgufTensor>();
  const add = (name: string, inModel: string, as: TensorType): void => {
    const shape = weights.shapes.get(inModel);
    if (shape === undefined) return;
    tensors.set(name, { type: shape.length === 1 ? 'f32' : as, shape, rows: rowsIn(weights, inModel) });
  };
  const whole = (name: string, inModel: string, as: TensorType = type): void => {
    add(`${name}.weight`, `${inModel}.weight`, as);
    add(`${name}.bias`, `${inModel}.bias`, as);
  };
  // readers take the patches' kernel and the position table in these two types only
  const tables = type === 'bf16' ? 'f32' : type;
  whole('v.patch_embd', `${parts.vision}.embeddings.patch_embedding`, tables);
  whole('v.position_embd', `${parts.vision}.embeddings.position_embedding`, isResampler ? tables : 'f32');
  for (let i = 0; i < config.vision.numLayers; i++)
    for (const [inFile, inLayer] of LAYER)
      whole(`v.blk.${i}.${inFile}`, `${parts.vision}.encoder.layers.${i}.${inLayer}`);
  whole('v.post_ln', `${parts.vision}.post_layernorm`);
  if (!isResampler) for (const [inFile, inModel] of mergerModules(config, parts)) whole(inFile, inModel);
  return tensors;
}
