/**
 * Programs that read GGUF read ours. llama.cpp (in node-llama-cpp) gives our greedy ids for text, with and without an
 * adapter, and our prompts: its tokenizer on what the file's chat template writes. `@huggingface/gguf` parses all files.
 * Pictures: packages/lab/test/gguf.
 */
import { cpSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gguf } from '@huggingface/gguf';
import { renderChatTemplate, Tokenizer } from '@minicpm-finetune/processor';
import { setThreads } from '@minicpm-finetune/torch';
import { getLlama, type Llama, type LlamaModel, type Token } from 'node-llama-cpp';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { generate } from '../../src/generation/generate.js';
import { loadModel } from '../../src/generation/load.js';
import { GREEDY } from '../../src/generation/sampling.js';
import { exportGguf, exportGgufAdapter } from '../../src/gguf/export.js';
import { readGguf } from '../../src/gguf/reader.js';
import { randomAdapter } from '../support/random-adapter.js';
import { ggufCheckpoint, tokenizerFolder, VERSION_NAMES } from '../support/tiny.js';

setThreads(1);
const work = mkdtempSync(join(tmpdir(), 'gguf-readers-'));
let llama: Llama;
beforeAll(async () => {
  llama = await getLlama({ gpu: false, build: 'never', maxThreads: 1, progressLogs: false });
});
afterAll(async () => {
  await llama.dispose();
  rmSync(work, { recursive: true });
});

const LENGTH = 8;
const QUESTION = "What is the capital of France? 你好，世界！ it's 1234 < 56 …\n\n  two spaces";
const PROJECTIONS =
  '(llm|model\\.language_model)\\..*layers\\.\\d+\\.(self_attn|linear_attn|mlp)\\.(\\w+_proj(_[a-z]+)?)';

/** Our greedy ids for a question, and the ids of its prompt. */
async function ours(model: string, adapter?: string): Promise<{ prompt: number[]; ids: number[] }> {
  const loaded = await loadModel({ model, ...(adapter === undefined ? {} : { adapter }) });
  const prompt = await loaded.encode([{ role: 'user', content: QUESTION }]);
  const ids: number[] = [];
  const options = { maxNewTokens: LENGTH, stopTokens: new Set<number>(), sampling: GREEDY };
  for await (const [token] of generate(loaded.model, [prompt], options)) ids.push(token!.id);
  loaded.dispose();
  return { prompt: [...prompt.inputIds], ids };
}

async function theirs(model: LlamaModel, prompt: readonly number[], lora?: string): Promise<number[]> {
  await using context = await model.createContext({
    contextSize: 256,
    threads: 1,
    // float32 as here; float16 turns some answers of random models
    flashAttention: false,
    experimentalKvCacheKeyType: 'F32',
    experimentalKvCacheValueType: 'F32',
    ...(lora === undefined ? {} : { lora }),
  });
  const ids: number[] = [];
  for await (const id of context
    .getSequence()
    .evaluate([...prompt] as Token[], { temperature: 0, yieldEogToken: true })) {
    ids.push(id);
    if (ids.length === LENGTH) break;
  }
  return ids;
}

describe.each(VERSION_NAMES)('%s', (version) => {
  it('llama.cpp writes the ids of our prompts and answers, with and without an adapter', async () => {
    const folder = ggufCheckpoint(work, version);
    const { model: file } = exportGguf({ model: folder, outtype: 'f32', output: join(work, `${version}-f32`) });
    const own = await ours(folder);
    await using model = await llama.loadModel({ modelPath: file });
    expect(await theirs(model, own.prompt)).toEqual(own.ids);
    expect(await promptOf(model, file, version)).toEqual(own.prompt);

    const options = {
      ...{ r: 8, alpha: 2, targetModules: PROJECTIONS, modulesToSave: [], useRslora: true },
      ...{ rankPattern: { k_proj: 3 }, alphaPattern: { q_proj: 5 } },
    };
    const adapter = randomAdapter(folder, join(work, `${version}-adapter`), 1, options);
    const { adapter: lora } = exportGgufAdapter({ model: folder, adapter, output: join(work, `${version}-lora`) });
    const adapted = await ours(folder, adapter);
    expect(adapted.ids).not.toEqual(own.ids);
    expect(await theirs(model, adapted.prompt, lora)).toEqual(adapted.ids);

    const output = join(work, `${version}-merged`);
    const { model: merged } = exportGguf({ model: folder, adapters: [adapter], outtype: 'f32', output });
    await using mergedModel = await llama.loadModel({ modelPath: merged });
    expect(await theirs(mergedModel, adapted.prompt)).toEqual(adapted.ids);
  });

  it.each(['bf16', 'q8_0', 'q4_k_m'] as const)('llama.cpp and @huggingface/gguf read %s', async (outtype) => {
    const folder = ggufCheckpoint(join(work, outtype), version);
    const made = exportGguf({ model: folder, outtype, output: join(work, `${version}-${outtype}`) });
    await using model = await llama.loadModel({ modelPath: made.model });
    expect(await theirs(model, [1, 2, 3])).toHaveLength(LENGTH);
    for (const file of [made.model, made.mmproj].filter((path) => path !== null)) {
      const { metadata, tensorInfos } = await gguf(file, { allowLocalFile: true });
      const own = readGguf(file);
      expect(tensorInfos.map(({ name }) => name)).toEqual([...own.tensors.keys()]);
      expect(metadata).toMatchObject({ version: 3, 'general.file_type': own.metadata.get('general.file_type')?.value });
    }
  });
});

/** llama.cpp's tokens of what the file's own chat template makes of the question. */
async function promptOf(model: LlamaModel, file: string, version: (typeof VERSION_NAMES)[number]): Promise<number[]> {
  const { metadata } = readGguf(file);
  const folder = join(work, `${version}-template`);
  cpSync(tokenizerFolder(version), folder, { recursive: true });
  writeFileSync(join(folder, 'chat_template.jinja'), String(metadata.get('tokenizer.chat_template')?.value));
  const messages = [{ role: 'user', content: QUESTION }];
  const text = renderChatTemplate(Tokenizer.load(folder), messages, { add_generation_prompt: true });
  const bos = metadata.get('tokenizer.ggml.add_bos_token')?.value === true;
  const first = Number(metadata.get('tokenizer.ggml.bos_token_id')?.value);
  return [...(bos ? [first] : []), ...model.tokenize(text, true)];
}
