import { mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { ChatMessage } from '@minicpm-finetune/processor';
import { UserError } from '@minicpm-finetune/run';
import { liveTensors, setThreads } from '@minicpm-finetune/torch';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { mergeCheckpoint } from '../../src/adapters/merge.js';
import { type LoadedModel, type LoadModelOptions, loadModel, stopTokens } from '../../src/generation/load.js';
import { randomAdapter } from '../support/random-adapter.js';
import { tinyCheckpoint, VERSION_NAMES, writePicture } from '../support/tiny.js';

setThreads(1);
const work = mkdtempSync(join(tmpdir(), 'load-'));
afterAll(() => rmSync(work, { recursive: true }));

const QUESTION: ChatMessage[] = [{ role: 'user', content: [{ image: 'a.bmp' }, 'What is this?'] }];
const SHORT = { maxNewTokens: 10, imageRoot: work };
const folders = new Map<string, string>();
let adapterA: string;
let adapterB: string;

beforeAll(() => {
  writePicture(join(work, 'a.bmp'), 90, 60, 1);
  writePicture(join(work, 'b.bmp'), 40, 120, 2);
  for (const version of VERSION_NAMES) folders.set(version, tinyCheckpoint(work, version));
  adapterA = randomAdapter(folders.get('minicpm-v-2_6')!, join(work, 'adapter-a'), 1);
  adapterB = randomAdapter(folders.get('minicpm-v-2_6')!, join(work, 'adapter-b'), 2, { useDora: true });
});

async function streamed(model: LoadedModel, messages: readonly ChatMessage[], options = {}): Promise<string> {
  let text = '';
  for await (const piece of model.chat(messages, { ...SHORT, ...options })) text += piece;
  return text;
}

async function answer(options: LoadModelOptions): Promise<string> {
  using model = await loadModel(options);
  return (await model.generate([QUESTION], SHORT))[0]!.text;
}

for (const version of VERSION_NAMES) {
  it(`${version} answers: streamed, in a batch, in several turns with several pictures`, async () => {
    const before = liveTensors();
    {
      using model = await loadModel({ model: folders.get(version)! });
      const longer: ChatMessage[] = [
        ...QUESTION,
        { role: 'assistant', content: 'A picture.' },
        { role: 'user', content: [{ image: 'b.bmp' }, 'And this?', { image: 'a.bmp' }] },
      ];
      const alone = [await streamed(model, QUESTION), await streamed(model, longer)];
      expect(alone[0]).not.toBe('');
      const answers = await model.generate([QUESTION, longer, [{ role: 'user', content: 'Hello' }]], SHORT);
      expect(answers.slice(0, 2).map(({ text }) => text)).toEqual(alone);
      for (const { tokens, end } of answers) {
        expect(tokens).toBeGreaterThan(0);
        expect(end === 'length' ? tokens : 10).toBe(10);
      }
      const sampled = { temperature: 2, seed: 5 };
      expect(await streamed(model, QUESTION, sampled)).toBe(await streamed(model, QUESTION, sampled));
      expect(await streamed(model, QUESTION, sampled)).not.toBe(
        await streamed(model, QUESTION, { ...sampled, seed: 6 }),
      );
    }
    expect(liveTensors()).toEqual(before);
  });
}

it('knows what ends an answer', async () => {
  const names: string[][] = [];
  for (const version of VERSION_NAMES) {
    using model = await loadModel({ model: folders.get(version)! });
    names.push([...stopTokens(model.template)].map((id) => model.tokenizer.token(id)!));
  }
  expect(names).toEqual([
    ['</s>'],
    ['<|eot_id|>', '<|end_of_text|>'],
    ['<|im_end|>', '<|endoftext|>'],
    ['<|im_end|>', '<|endoftext|>'],
    ['<|im_end|>', '</s>'],
    ...new Array(4).fill(['<|im_end|>', '<|endoftext|>']),
  ]);
});

it('leaving a chat early frees what it took', async () => {
  using model = await loadModel({ model: folders.get('minicpm-v-2_6')! });
  const before = liveTensors().tensors;
  for await (const _ of model.chat(QUESTION, SHORT)) break;
  expect(liveTensors().tensors).toBe(before);
});

it('computes in the type asked for', async () => {
  using model = await loadModel({ model: folders.get('minicpm-v-4')!, dtype: 'bfloat16' });
  for (const [, { data }] of model.model.namedParameters()) expect(data.dtype).toBe('bfloat16');
  expect((await model.generate([QUESTION], SHORT))[0]!.tokens).toBeGreaterThan(0);
});

describe('weights in 8 bits', () => {
  it('answer, with an adapter on top, and take half the memory', async () => {
    const before = liveTensors();
    const base = folders.get('minicpm-v-2_6')!;
    {
      using model = await loadModel({ model: base, adapter: adapterA, loadIn8Bit: true });
      const linear = [...model.model.namedParameters()].filter(([, { compact }]) => compact !== undefined);
      expect(linear.map(([name]) => name)).toContain('llm.lm_head.weight');
      expect(linear).toHaveLength(7 * 2 + 1);
      for (const [, { compact, shape }] of linear) expect(compact!.nbytes).toBe(shape[0]! * shape[1]! + 4 * shape[0]!);
      const [alone] = await model.generate([QUESTION], SHORT);
      expect(alone!.tokens).toBeGreaterThan(0);
      const hello: ChatMessage[] = [{ role: 'user', content: 'Hello' }];
      expect((await model.generate([hello, QUESTION], SHORT))[1]).toEqual(alone);
      expect(await streamed(model, QUESTION)).toBe(alone!.text);
    }
    expect(liveTensors()).toEqual(before);
  });
});

describe('adapters', () => {
  it('change the answer, and go away with the model', async () => {
    const base = folders.get('minicpm-v-2_6')!;
    const before = liveTensors();
    const plain = await answer({ model: base });
    expect(await answer({ model: base, adapter: adapterA })).not.toBe(plain);
    expect(await answer({ model: base, adapter: adapterB })).not.toBe(plain);
    expect(liveTensors()).toEqual(before);
  });

  it('stack in their order, as if merged one after the other', async () => {
    const base = folders.get('minicpm-v-2_6')!;
    const stacked = await answer({ model: base, adapter: [adapterA, adapterB] });
    const output = join(work, 'merged-ab');
    mergeCheckpoint({ model: base, adapters: [adapterA, adapterB], output });
    expect(await answer({ model: output })).toBe(stacked);
    expect(await answer({ model: base, adapter: [adapterB, adapterA] })).not.toBe(stacked);
  });
});

describe('refused', () => {
  const refusal = async (options: LoadModelOptions): Promise<string> => {
    const before = liveTensors();
    const error = await loadModel(options).then(
      () => undefined,
      (reason: unknown) => reason,
    );
    expect(error).toBeInstanceOf(UserError);
    expect(liveTensors()).toEqual(before);
    return (error as UserError).format();
  };

  it('folders that hold no checkpoint', async () => {
    expect(await refusal({ model: join(work, 'nowhere') })).toContain('does not exist');
    mkdirSync(join(work, 'empty'));
    expect(await refusal({ model: join(work, 'empty') })).toContain('config.json');
    const text = await refusal({ model: adapterA });
    expect(text).toContain('--adapter');
    expect(text).toContain(folders.get('minicpm-v-2_6')!);
  });

  it('a checkpoint without tokenizer, or with another model’s', async () => {
    const bare = tinyCheckpoint(mkdtempSync(join(work, 'x-')), 'minicpm-v-2_6');
    rmSync(join(bare, 'tokenizer.json'));
    expect(await refusal({ model: bare })).toContain('tokenizer.json');
  });

  it('adapters of another base', async () => {
    const other = tinyCheckpoint(mkdtempSync(join(work, 'x-')), 'minicpm-v-2_6', 9);
    expect(await refusal({ model: other, adapter: adapterA })).toContain('trained on');
    rmSync(join(adapterB, 'minicpm_manifest.json'));
    expect(await refusal({ model: folders.get('minicpm-v-2')!, adapter: adapterB })).toContain(
      'Expected an adapter of MiniCPM-V-2 for this model but received one of MiniCPM-V-2_6.',
    );
    expect(await refusal({ model: other, adapter: join(work, 'nowhere') })).toContain('adapter folder');
  });
});
