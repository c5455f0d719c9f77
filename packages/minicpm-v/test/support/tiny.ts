/** Checkpoint folders of all five models, tiny and random, with their tokenizers. */
import { cpSync, mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { parseConfig, Tokenizer, VERSIONS, type VersionName } from '@minicpm-finetune/processor';
import { type DType, keep, ops, SafetensorsFile, type Tensor, writeSafetensors } from '@minicpm-finetune/torch';
import { createModel } from '../../src/checkpoint/create.js';
import { saveCheckpoint } from '../../src/checkpoint/weights.js';

export const VERSION_NAMES = Object.keys(VERSIONS) as VersionName[];

export function tokenizerFolder(version: VersionName): string {
  return join(import.meta.dirname, '..', '..', '..', 'processor', 'test', 'fixtures', 'tokenizers', version);
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
};

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
  const vocab_size = Tokenizer.load(folder).size;
  const raw = { architectures: ['MiniCPMV'], model_type: 'minicpmv', ...LLM, ...OWN[version], vocab_size, ...extra };
  const config = parseConfig(JSON.stringify(raw, null, 1), join(folder, 'config.json'));
  const model = createModel(config, { seed, dtype });
  saveCheckpoint(model, folder);
  model.dispose();
  if (version === 'minicpm-o-2_6') addCarried(folder);
  return folder;
}

/** Tensors of a part that is not built. */
function addCarried(folder: string): void {
  const file = join(folder, 'model.safetensors');
  const source = new SafetensorsFile(file);
  const tensors = new Map<string, Tensor>([...source.infos.keys()].map((name) => [name, source.tensor(name)]));
  tensors.set('tts.head.weight', keep(ops.full([3, 2], 0.5)));
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
