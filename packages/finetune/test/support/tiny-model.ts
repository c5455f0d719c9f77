/** A tiny random MiniCPM-V 2.6 with a tokenizer, adapters for it, and pictures, for tests of whole commands. */
import { cpSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import {
  applyLora,
  createModel,
  describeBase,
  loadWeights,
  MiniCPMV,
  saveAdapter,
  saveCheckpoint,
  trainableParameters,
} from '@minicpm-finetune/minicpm-v';
import { parseConfig, readConfig } from '@minicpm-finetune/processor';
import { noGrad, ops, scope } from '@minicpm-finetune/torch';

const FIXTURE = join(import.meta.dirname, '..', 'fixtures', 'data', 'model');

/** Makes a checkpoint whose pictures are 56 pixels wide, and returns its folder. `sizes`: others in its configuration. */
export function tinyModel(folder: string, seed = 1, sizes: object = {}): string {
  mkdirSync(folder, { recursive: true });
  cpSync(FIXTURE, folder, { recursive: true });
  const file = join(folder, 'config.json');
  const raw = JSON.parse(readFileSync(file, 'utf8')) as { slice_config: object };
  const slice_config = { ...raw.slice_config, max_slice_nums: 4, scale_resolution: 56 };
  const own = { slice_config, initializer_range: 0.15, query_num: 4, torch_dtype: 'float32', ...sizes };
  const text = JSON.stringify({ ...raw, ...own });
  const model = createModel(parseConfig(text, file), { seed });
  saveCheckpoint(model, folder);
  model.dispose();
  return folder;
}

/** Makes an adapter with random weights and returns its folder. */
export function tinyAdapter(base: string, folder: string, seed = 1): string {
  const model = new MiniCPMV(readConfig(base));
  loadWeights(model, base);
  const lora = { r: 4, alpha: 8, targetModules: ['q_proj', 'v_proj'], modulesToSave: ['resampler', 'vpm'] };
  const applied = applyLora(model, lora, { seed });
  noGrad(() =>
    scope(() => {
      for (const [, { data }] of trainableParameters(model)) ops.add_(data, ops.mulScalar(ops.randn(data.shape), 0.1));
    }),
  );
  saveAdapter(folder, model, applied, describeBase(base));
  model.dispose();
  return folder;
}

/** Writes a BMP file of noise. */
export function writePicture(path: string, seed: number): string {
  const [width, height] = [32, 40];
  const bytes = Buffer.alloc(54 + 3 * width * height);
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
  return path;
}
