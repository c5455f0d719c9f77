/** Every model through the whole command line: train an adapter, answer with it, merge it, answer with the merged checkpoint. */
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createModel, saveCheckpoint } from '@minicpm-finetune/minicpm-v';
import { parseConfig, Tokenizer } from '@minicpm-finetune/processor';
import { SafetensorsFile } from '@minicpm-finetune/torch';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { main } from '../../src/cli/main.js';
import { writePicture } from '../support/tiny-model.js';

const fixtures = (owner: string, ...parts: string[]): string =>
  join(import.meta.dirname, '..', '..', '..', owner, 'test', 'fixtures', ...parts);
const MODELS = ['minicpm-v-4', 'minicpm-o-2_6', 'minicpm-v-2_6', 'minicpm-llama3-v-2_5', 'minicpm-v-2'];

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'five-models-'));
  const records = Array.from({ length: 6 }, (_, i) => ({
    id: String(i),
    image: writePicture(join(folder, `${i}.bmp`), i),
    conversations: [
      { role: 'user', content: '<image>\nWhat is it?' },
      { role: 'assistant', content: i % 2 === 0 ? 'a cat' : 'a dog' },
    ],
  }));
  writeFileSync(join(folder, 'data.json'), JSON.stringify(records));
});
afterAll(() => rmSync(folder, { recursive: true }));

/** A random checkpoint of a model in its published layout, with a tokenizer, for pictures of 56 pixels. */
function makeCheckpoint(name: string): string {
  const target = join(folder, name);
  mkdirSync(target);
  cpSync(fixtures('processor', 'tokenizers', name), target, { recursive: true });
  const { config: raw } = JSON.parse(readFileSync(fixtures('minicpm-v', 'models', `${name}.json`), 'utf8'));
  const vocab_size = Tokenizer.load(target).size;
  const slice_config = { ...raw.slice_config, max_slice_nums: 2, patch_size: 14, scale_resolution: 56 };
  const config = { ...raw, vocab_size, slice_config, scale_resolution: 56, initializer_range: 0.1 };
  const model = createModel(parseConfig(JSON.stringify(config), join(target, 'config.json')), {
    seed: 3,
    dtype: 'float32',
  });
  saveCheckpoint(model, target);
  model.dispose();
  return target;
}

const text: string[] = [];
async function run(...words: (string | number)[]): Promise<void> {
  const stream = { write: (line: string) => text.push(line) > 0 };
  const io = { stdout: stream, stderr: stream, env: {} };
  expect(await main(words.map(String), io as never), text.slice(-8).join('')).toBe(0);
}

const answersOf = (file: string): string[] =>
  readFileSync(file, 'utf8')
    .trim()
    .split('\n')
    .map((line) => (JSON.parse(line) as { answer: string }).answer);

describe('all five models', () => {
  it.each(MODELS)('%s trains, answers, merges and answers the same', async (name) => {
    const base = makeCheckpoint(name);
    const data = join(folder, 'data.json');
    const [adapter, merged] = [join(folder, `${name}-lora`), join(folder, `${name}-merged`)];
    const lora = ['--use_lora', '--lora_r', 4, '--lora_alpha', 8, '--tune_vision', 'false', '--learning_rate', 0.02];
    const batch = [
      '--per_device_train_batch_size',
      3,
      '--max_steps',
      4,
      '--model_max_length',
      512,
      '--save_strategy',
      'no',
    ];
    const loader = ['--dataloader_num_workers', 0, '--progress', 'quiet', '--cache_vision', join(folder, 'vision')];
    await run(
      'train',
      '--model_name_or_path',
      base,
      '--data_path',
      data,
      '--output_dir',
      adapter,
      ...lora,
      ...batch,
      ...loader,
    );
    const ask = ['--data_path', data, '--max_new_tokens', 6];
    await run('generate', '--model', base, '--output', join(folder, `${name}-0.jsonl`), ...ask);
    await run('generate', '--model', base, '--adapter', adapter, '--output', join(folder, `${name}-1.jsonl`), ...ask);
    await run('merge', '--model', base, '--adapter', adapter, '--output_dir', merged);
    await run('generate', '--model', merged, '--output', join(folder, `${name}-2.jsonl`), ...ask);
    const [plain, adapted, fused] = [0, 1, 2].map((i) => answersOf(join(folder, `${name}-${i}.jsonl`)));
    expect(adapted).not.toEqual(plain);
    expect(fused).toEqual(adapted);
    const names = (path: string): string[] =>
      [...new SafetensorsFile(join(path, 'model.safetensors')).infos.keys()].sort();
    expect(names(merged)).toEqual(names(base));
  });
});
