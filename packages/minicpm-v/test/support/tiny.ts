/** Checkpoint folders of all models, tiny and random, with their tokenizers. */
import { cpSync, mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { parseConfig, Tokenizer, VERSIONS, type VersionName } from '@minicpm-finetune/processor';
import { type DType, keep, ops, SafetensorsFile, type Tensor, writeSafetensors } from '@minicpm-finetune/torch';
import { createModel } from '../../src/checkpoint/create.js';
import { saveCheckpoint } from '../../src/checkpoint/weights.js';

export const VERSION_NAMES = Object.keys(VERSIONS) as VersionName[];

/** Models with the tokenizer of another one. */
const SAME_TOKENIZER: Readonly<Partial<Record<VersionName, VersionName>>> = {
  'minicpm-v-4_5': 'minicpm-v-2_6',
  'minicpm-o-4_5': 'minicpm-o-2_6',
  'minicpm-v-4_7': 'minicpm-v-4_6',
};

export function tokenizerFolder(version: VersionName): string {
  const folders = join(import.meta.dirname, '..', '..', '..', 'processor', 'test', 'fixtures', 'tokenizers');
  return join(folders, SAME_TOKENIZER[version] ?? version);
}

const LLM = {
  hidden_size: 128,
  intermediate_size: 96,
  num_hidden_layers: 2,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  max_position_embeddings: 600,
  rms_norm_eps: 1e-6,
  rope_theta: 10000,
  tie_word_embeddings: false,
  torch_dtype: 'float32',
  initializer_range: 0.15,
  query_num: 4,
  image_size: 56,
  patch_size: 14,
  slice_mode: true,
};
const NAVIT = {
  batch_vision_input: true,
  drop_vision_last_layer: false,
  slice_config: { max_slice_nums: 4, patch_size: 14, scale_resolution: 56 },
  vision_config: {
    hidden_size: 24,
    image_size: 980,
    intermediate_size: 40,
    model_type: 'siglip',
    num_attention_heads: 3,
    num_hidden_layers: 2,
    patch_size: 14,
  },
};
const NATIVE = {
  image_size: 448,
  insert_layer_id: 0,
  tie_word_embeddings: true,
  text_config: {
    model_type: 'qwen3_5_text',
    hidden_size: 128,
    intermediate_size: 96,
    num_hidden_layers: 3,
    full_attention_interval: 2,
    num_attention_heads: 2,
    num_key_value_heads: 1,
    head_dim: 32,
    linear_key_head_dim: 16,
    linear_value_head_dim: 32,
    linear_num_key_heads: 2,
    linear_num_value_heads: 4,
    max_position_embeddings: 600,
    initializer_range: 0.15,
    rope_parameters: { rope_type: 'default', rope_theta: 10000, partial_rotary_factor: 0.5 },
  },
  vision_config: NAVIT.vision_config,
};
const OWN: Readonly<Record<VersionName, object>> = {
  'minicpm-v-2': {
    vision_encoder: 'vit_so400m_patch14_siglip_384.webli',
    drop_vision_last_layer: true,
    vision_encoder_args: { embed_dim: 32, depth: 3, num_heads: 2, mlp_ratio: 2, img_size: 56, patch_size: 14 },
    max_slice_nums: 4,
    scale_resolution: 56,
    scale_emb: 12,
    scale_depth: 1.4,
    dim_model_base: 32,
  },
  'minicpm-llama3-v-2_5': NAVIT,
  'minicpm-v-2_6': { ...NAVIT, version: 2.6 },
  'minicpm-o-2_6': { ...NAVIT, version: 2.6, architectures: ['MiniCPMO'] },
  'minicpm-v-4': { ...NAVIT, version: 4.0, head_dim: 32 },
  'minicpm-v-4_5': { ...NAVIT, version: 4.5, head_dim: 32 },
  'minicpm-o-4_5': { ...NAVIT, version: 4.5, head_dim: 32, architectures: ['MiniCPMO'] },
  'minicpm-v-4_6': NATIVE,
  'minicpm-v-4_7': { ...NATIVE, tie_word_embeddings: false },
};

const PREPROCESSOR = { max_slice_nums: 4, scale_resolution: 112, patch_size: 14, slice_mode: true, use_image_id: true };

const flatConfig = (version: VersionName, { size }: Tokenizer): object => ({
  architectures: ['MiniCPMV'],
  model_type: 'minicpmv',
  ...LLM,
  ...OWN[version],
  vocab_size: size,
});

function nestedConfig(version: VersionName, tokenizer: Tokenizer): object {
  const id = (token: string): number => tokenizer.requireId(token);
  const own = OWN[version] as typeof NATIVE;
  const marks = {
    image_start_id: id('<image>'),
    image_end_id: id('</image>'),
    slice_start_id: id('<slice>'),
    slice_end_id: id('</slice>'),
    newline_id: id('Ċ'),
  };
  return {
    architectures: [VERSIONS[version].architecture],
    model_type: version.replace('minicpm-v-', 'minicpmv'),
    dtype: 'float32',
    ...own,
    image_token_id: id('<|image_pad|>'),
    video_token_id: id('<|video_pad|>'),
    ...(VERSIONS[version].canvas && marks),
    text_config: { ...own.text_config, vocab_size: tokenizer.size },
  };
}

/** Makes `<parent>/<version>` and returns its path. */
export function tinyCheckpoint(
  parent: string,
  version: VersionName,
  seed = 1,
  dtype: DType = 'float32',
  extra: object = {},
): string {
  const folder = join(parent, version);
  mkdirSync(folder, { recursive: true });
  cpSync(tokenizerFolder(version), folder, { recursive: true });
  const tokenizer = Tokenizer.load(folder);
  const made =
    VERSIONS[version].config === 'nested' ? nestedConfig(version, tokenizer) : flatConfig(version, tokenizer);
  const raw = merged(made, extra);
  const preprocessor = VERSIONS[version].config === 'nested' ? JSON.stringify(PREPROCESSOR) : undefined;
  if (preprocessor !== undefined) writeFileSync(join(folder, 'preprocessor_config.json'), preprocessor);
  const config = parseConfig(JSON.stringify(raw, null, 1), join(folder, 'config.json'), preprocessor);
  const model = createModel(config, { seed, dtype });
  saveCheckpoint(model, folder);
  model.dispose();
  if (VERSIONS[version].carried.length > 0) addCarried(folder, VERSIONS[version].carried.at(-1)!);
  return folder;
}

/** As `tinyCheckpoint`, with sizes that llama.cpp has: keys of linear attention as wide as values. */
export function ggufCheckpoint(parent: string, version: VersionName, seed = 1, extra: object = {}): string {
  const sizes = VERSIONS[version].config === 'nested' ? { text_config: { linear_key_head_dim: 32 } } : {};
  return tinyCheckpoint(parent, version, seed, 'float32', merged(sizes, extra));
}

/** A configuration with other values for some keys; what is an object in both has the keys of both. */
function merged(config: object, extra: object): object {
  const own = config as Record<string, unknown>;
  const isObject = (value: unknown): value is object =>
    typeof value === 'object' && value !== null && !Array.isArray(value);
  const entries = Object.entries(extra).map(([key, value]) => {
    const before = own[key];
    return [key, isObject(value) && isObject(before) ? { ...before, ...value } : value];
  });
  return { ...config, ...Object.fromEntries(entries) };
}

/** Tensors of a part that is not built. */
function addCarried(folder: string, prefix: string): void {
  const file = join(folder, 'model.safetensors');
  const source = new SafetensorsFile(file);
  const tensors = new Map<string, Tensor>([...source.infos.keys()].map((name) => [name, source.tensor(name)]));
  tensors.set(`${prefix}head.weight`, keep(ops.full([3, 2], 0.5)));
  writeSafetensors(file, tensors);
  for (const tensor of tensors.values()) tensor.dispose();
}

/** Writes a BMP file of noise. */
export function writePicture(path: string, width: number, height: number, seed: number): void {
  const row = Math.ceil((width * 3) / 4) * 4;
  const bytes = Buffer.alloc(54 + row * height);
  bytes.write('BM');
  bytes.writeUInt32LE(bytes.length, 2);
  bytes.writeUInt32LE(54, 10);
  bytes.writeUInt32LE(40, 14);
  bytes.writeInt32LE(width, 18);
  bytes.writeInt32LE(height, 22);
  bytes.writeUInt16LE(1, 26);
  bytes.writeUInt16LE(24, 28);
  for (let i = 54; i < bytes.length; i++) bytes[i] = (Math.imul(i + seed, 2654435761) >>> 24) & 255;
  writeFileSync(path, bytes);
}
