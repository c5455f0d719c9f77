/**
 * llama.cpp answers about pictures as our engine does: its WebAssembly build (wllama) in a browser, with the language model's and the
 * image encoder's file. Random models on pictures of 448x448, which neither resizes, and one colour in 2x2 such slices, which every filter
 * resizes alike. And models that were trained here on four pictures, whose answers they give there.
 */
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer, type Server } from 'node:http';
import { createRequire } from 'node:module';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { Tokenizer, VERSIONS, type VersionName } from '@minicpm-finetune/processor';
import {
  keep,
  noGrad,
  ops,
  SafetensorsFile,
  scope,
  setThreads,
  type Tensor,
  writeSafetensors,
} from '@minicpm-finetune/torch';
import type { Wllama as WllamaClass } from '@wllama/wllama';
import { type Browser, chromium, type Page } from 'playwright-core';
import sharp from 'sharp';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { CHROMIUM_FLAGS } from '../../../dashboard/scripts/chromium.mjs';
import { generate } from '../../src/generation/generate.js';
import { loadModel, stopTokens } from '../../src/generation/load.js';
import { GREEDY } from '../../src/generation/sampling.js';
import { exportGguf } from '../../src/gguf/export.js';
import { ggufCheckpoint } from '../support/tiny.js';

setThreads(1);
const work = mkdtempSync(join(tmpdir(), 'gguf-pictures-'));
const WLLAMA = dirname(createRequire(import.meta.url).resolve('@wllama/wllama'));
const files = new Map<string, readonly [type: string, path: string]>([
  ['/wllama.js', ['text/javascript', join(WLLAMA, 'index.js')]],
  ['/wllama.wasm', ['application/wasm', join(WLLAMA, 'wasm', 'wllama.wasm')]],
]);
const HTML = `<!doctype html><title>GGUF</title>
<script type="module">import { Wllama } from '/wllama.js'; globalThis.Wllama = Wllama;</script>`;
let server: Server;
let browser: Browser;
let page: Page;
const foreign: string[] = [];

beforeAll(async () => {
  server = createServer((request, response) => {
    const file = files.get(request.url ?? '');
    if (request.url === '/') response.setHeader('content-type', 'text/html').end(HTML);
    else if (file === undefined) response.writeHead(404).end();
    else response.setHeader('content-type', file[0]).end(readFileSync(file[1]));
  }).listen(0, '127.0.0.1');
  browser = await chromium.launch({ executablePath: process.env.CHROMIUM!, args: CHROMIUM_FLAGS });
  page = await browser.newPage();
  const address = `http://127.0.0.1:${(server.address() as AddressInfo).port}/`;
  page.on('request', (request) => {
    if (!request.url().startsWith(address) && !/^(blob|data):/.test(request.url())) foreign.push(request.url());
  });
  await page.goto(address);
});
afterAll(async () => {
  await browser?.close();
  server?.close();
  rmSync(work, { recursive: true });
});

const SIZES = {
  image_size: 448,
  query_num: 16,
  max_position_embeddings: 2048,
  slice_config: { max_slice_nums: 9, patch_size: 14, scale_resolution: 448 },
};
const NESTED_SIZES = {
  tie_word_embeddings: false,
  text_config: { max_position_embeddings: 2048, rope_parameters: { partial_rotary_factor: 1 } },
};
const PREPROCESSOR = { max_slice_nums: 9, scale_resolution: 448, patch_size: 14, slice_mode: true, use_image_id: true };
const QUESTION = 'What is this?';
const LENGTH = 12;

/** A random model that answers in plain characters: wllama ends at text that is no UTF-8. */
async function plainModel(version: VersionName): Promise<string> {
  const isNested = VERSIONS[version].config === 'nested';
  const folder = ggufCheckpoint(join(work, 'model'), version, 3, isNested ? NESTED_SIZES : SIZES);
  if (isNested) writeFileSync(join(folder, 'preprocessor_config.json'), JSON.stringify(PREPROCESSOR));
  const head = `${VERSIONS[version].parts.head}.weight`;
  const tokenizer = Tokenizer.load(folder);
  const file = join(folder, 'model.safetensors');
  const source = new SafetensorsFile(file);
  const [size] = source.infos.get(head)!.shape as [number];
  const plain = await Promise.all(
    Array.from({ length: size }, async (_, id) => (/^[a-z ]+$/i.test(await tokenizer.decode([id])) ? 1 : 0)),
  );
  noGrad(() =>
    scope(() => {
      const tensors = new Map<string, Tensor>([...source.infos.keys()].map((name) => [name, source.tensor(name)]));
      const mask = ops.cat(
        plain.map((one) => ops.full([1, 1], one, { dtype: 'float32' })),
        0,
      );
      const masked = keep(ops.mul(tensors.get(head)!, mask));
      writeSafetensors(file, tensors.set(head, masked));
      masked.dispose();
    }),
  );
  return folder;
}

/** A picture of one colour, with `noise` bits of noise in large blocks. */
async function picture(name: string, side: number, colour: readonly number[], noise: number): Promise<string> {
  const pixels = Uint8Array.from(
    { length: 8 * 8 * 3 },
    (_, i) => colour[i % 3]! ^ ((Math.imul(i, 2654435761) >>> 16) % 2 ** noise),
  );
  const path = join(work, `${name}.png`);
  await sharp(pixels, { raw: { width: 8, height: 8, channels: 3 } })
    .resize(side, side, { kernel: 'nearest' })
    .png()
    .toFile(path);
  return path;
}

/** An answer, and the logarithm of the probability of its first token. */
interface Answer {
  readonly text: string;
  readonly logProb: number;
}

/** What wllama answers about each picture. Its log probabilities only for models of plain tokens: it ends at likely ones that are no UTF-8. */
async function theirs(model: string, mmproj: string, pictures: readonly string[], isPlain = true): Promise<Answer[]> {
  files.set('/model.gguf', ['application/octet-stream', model]);
  files.set('/mmproj.gguf', ['application/octet-stream', mmproj]);
  for (const [i, path] of pictures.entries()) files.set(`/${i}.png`, ['image/png', path]);
  return await page.evaluate(
    async ({ count, question, length, isPlain }) => {
      const { Wllama } = globalThis as unknown as { readonly Wllama: typeof WllamaClass };
      const blob = async (name: string): Promise<Blob> => await (await fetch(name)).blob();
      const wllama = new Wllama({ default: '/wllama.wasm' }, { suppressNativeLog: true });
      const named = async (name: string): Promise<File> => new File([await blob(`/${name}`)], name);
      await wllama.loadModel([await named('model.gguf'), await named('mmproj.gguf')], {
        n_ctx: 1024,
        n_threads: 1,
        flash_attn: false,
        cache_type_k: 'f32',
        cache_type_v: 'f32',
      });
      const answers: { text: string; logProb: number }[] = [];
      for (let i = 0; i < count; i++) {
        const data = await (await blob(`/${i}.png`)).arrayBuffer();
        const answer = await wllama.createChatCompletion({
          messages: [
            {
              role: 'user',
              content: [
                { type: 'image', data },
                { type: 'text', text: question },
              ],
            },
          ],
          temperature: 0,
          max_tokens: length,
          ...(isPlain ? { logprobs: true } : {}),
        });
        const [{ message, logprobs }] = answer.choices as [(typeof answer.choices)[number]];
        answers.push({ text: message.content!.trim(), logProb: logprobs?.content?.[0]?.logprob ?? Number.NaN });
      }
      await wllama.exit();
      return answers;
    },
    { count: pictures.length, question: QUESTION, length: LENGTH, isPlain },
  );
}

/** Our answers. */
async function ours(folder: string, pictures: readonly string[]): Promise<Answer[]> {
  const loaded = await loadModel({ model: folder });
  const ends = stopTokens(loaded.template);
  const answers: Answer[] = [];
  for (const image of pictures) {
    const prompt = await loaded.encode([{ role: 'user', content: [{ image }, QUESTION] }]);
    const options = { maxNewTokens: LENGTH, stopTokens: ends, sampling: GREEDY, logProbs: 1 };
    const ids: number[] = [];
    let first: number | undefined;
    for await (const [token] of generate(loaded.model, [prompt], options)) {
      ids.push(token!.id);
      first ??= token!.logProb;
    }
    const text = await loaded.tokenizer.decode(ids.filter((id) => !ends.has(id)));
    answers.push({ text: text.trim(), logProb: first! });
  }
  loaded.dispose();
  return answers;
}

const FILES = ['minicpm-v-2_6', 'minicpm-o-2_6', 'minicpm-v-4', 'minicpm-v-4_5', 'minicpm-o-4_5'] as const;

describe.each([...FILES, 'minicpm-v-4_6', 'minicpm-v-4_7'] as const)('%s', (version) => {
  it('answers about pictures as our engine does', async () => {
    const folder = await plainModel(version);
    const pictures = [await picture('dark', 448, [0, 0, 40], 6), await picture('red', 448, [255, 0, 0], 6)];
    // MiniCPM-V-4's rows of slices have other tokens there (differences.ts)
    if (version !== 'minicpm-v-4') pictures.push(await picture('slices', 896, [200, 255, 255], 0));
    const own = await ours(folder, pictures);
    const { model, mmproj } = exportGguf({ model: folder, outtype: 'f32', output: join(work, `${version}-gguf`) });
    const other = await theirs(model, mmproj!, pictures);
    expect(foreign).toEqual([]);
    if (VERSIONS[version].connector === 'resampler') {
      expect(new Set(own.map(({ text }) => text)).size).toBe(pictures.length); // the pictures matter
      expect(other.map(({ text }) => text)).toEqual(own.map(({ text }) => text));
      return;
    }
    // tokens of pictures have other positions there (differences.ts): answers begin alike, each by its own picture
    const gaps = own.map((mine) => other.map((their) => Math.abs(their.logProb - mine.logProb)));
    expect(gaps.map((row) => row.indexOf(Math.min(...row)))).toEqual([0, 1, 2]);
    expect(gaps.every((row, i) => row[i]! < 0.3)).toBe(true);
    expect(other.map(({ text }) => text[0])).toEqual(own.map(({ text }) => text[0]));
  });
});

const SIDE = 112;
const ANSWERS = ['A dark night.', 'It is a red roof!', '白色的雪', '12 leaves.'];
const FINETUNE = join(import.meta.dirname, '../../../finetune/bin/minicpm-finetune.js');

/** What a user does: a training on four pictures until it knows them, by the command line. */
async function trainedModel(version: VersionName): Promise<{ folder: string; pictures: string[] }> {
  const slice_config = { max_slice_nums: 1, patch_size: 14, scale_resolution: SIDE };
  const base = ggufCheckpoint(join(work, 'base'), version, 3, {
    ...(VERSIONS[version].config === 'nested' ? {} : { slice_config }),
    initializer_range: 0.08,
  });
  const colours = [
    [0, 0, 40],
    [255, 0, 0],
    [200, 255, 255],
    [0, 160, 0],
  ] as const;
  const pictures = await Promise.all(colours.map((colour, i) => picture(`${version}-${i}`, SIDE, colour, 6)));
  const records = pictures.map((image, i) => ({
    id: String(i),
    image,
    conversations: [
      { role: 'user', content: `<image>\n${QUESTION}` },
      { role: 'assistant', content: ANSWERS[i] },
    ],
  }));
  const data = join(work, `${version}.json`);
  writeFileSync(data, JSON.stringify(records));
  const folder = join(work, `${version}-trained`);
  const flags = {
    ...{ model_name_or_path: base, data_path: data, output_dir: folder, model_max_length: 128 },
    ...{ per_device_train_batch_size: 4, max_steps: 40, learning_rate: 3e-3, warmup_steps: 4, save_strategy: 'no' },
    ...{ device: 'cpu', threads: 1, dataloader_num_workers: 0, cache_vision: 'off', progress: 'quiet' },
  };
  const words = Object.entries(flags).flatMap(([flag, value]) => [`--${flag}`, String(value)]);
  execFileSync(process.execPath, [FINETUNE, 'train', ...words], { stdio: 'pipe' });
  return { folder, pictures };
}

it.each(['minicpm-v-2_6', 'minicpm-v-4_6'] as const)(
  '%s after a training gives its answers',
  async (version) => {
    const { folder, pictures } = await trainedModel(version);
    expect((await ours(folder, pictures)).map(({ text }) => text)).toEqual(ANSWERS);
    const made = exportGguf({ model: folder, outtype: 'q8_0', output: join(work, `${version}-trained-gguf`) });
    expect((await theirs(made.model, made.mmproj!, pictures, false)).map(({ text }) => text)).toEqual(ANSWERS);
  },
  300_000,
);
