import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { PassThrough } from 'node:stream';
import { loadModel } from '@minicpm-finetune/minicpm-v';
import { liveTensors, setThreads } from '@minicpm-finetune/torch';
import { afterAll, describe, expect, it } from 'vitest';
import { chat } from '../../src/cli/chat/chat.js';
import type { ChatOptions } from '../../src/cli/chat/options.js';
import { GREEDY } from '../support/answer-options.js';
import { tinyAdapter, tinyModel, writePicture } from '../support/tiny-model.js';

setThreads(1);
const work = mkdtempSync(join(tmpdir(), 'chat-'));
afterAll(() => rmSync(work, { recursive: true }));

const model = tinyModel(join(work, 'model'));
const a = writePicture(join(work, 'a.bmp'), 1);
const b = writePicture(join(work, 'b c.bmp'), 2);
const OPTIONS: ChatOptions = {
  model,
  adapters: [],
  images: [],
  videos: [],
  prompt: null,
  system: null,
  maxNewTokens: 8,
  ...GREEDY,
};

class Captured {
  text = '';
  write(text: string): void {
    this.text += text;
  }
}

async function run(options: Partial<ChatOptions>, lines: readonly string[] = []) {
  const stdin = new PassThrough();
  stdin.end(lines.map((line) => `${line}\n`).join(''));
  const [stdout, stderr] = [new Captured(), new Captured()];
  await chat({ ...OPTIONS, ...options }, { stdin, stdout, stderr });
  return { stdout: stdout.text, stderr: stderr.text };
}

/** What the model answers to messages. */
async function answers(...conversations: Parameters<Awaited<ReturnType<typeof loadModel>>['generate']>[0][]) {
  using loaded = await loadModel({ model });
  const texts: string[] = [];
  for (const one of conversations) texts.push((await loaded.generate(one, { maxNewTokens: 8 }))[0]!.text);
  return texts;
}

describe('one answer', () => {
  it('is all there is on standard output', async () => {
    const [expected] = await answers([[{ role: 'user', content: [{ image: a }, { image: b }, 'Compare.'] }]]);
    expect(await run({ prompt: 'Compare.', images: [a, b] })).toEqual({ stdout: `${expected}\n`, stderr: '' });
  });

  it('depends on system prompt, adapters, sampling and slices', async () => {
    const before = liveTensors();
    const adapter = tinyAdapter(model, join(work, 'adapter'));
    const options = { prompt: 'What?', images: [a] };
    const changes: Partial<ChatOptions>[] = [
      {},
      { system: 'Be brief.' },
      { adapters: [adapter] },
      { adapters: [adapter, adapter] },
      { temperature: 2, seed: 1 },
      { temperature: 2, seed: 2 },
      { maxNewTokens: 3 },
    ];
    const texts = [];
    for (const change of changes) texts.push((await run({ ...options, ...change })).stdout);
    expect(new Set(texts).size).toBe(changes.length);
    expect(texts[0]!.startsWith(texts.at(-1)!.trim())).toBe(true);
    expect(liveTensors()).toEqual(before);
  });

  it('refuses a missing picture before the model is loaded', async () => {
    await expect(run({ model: 'nowhere', prompt: 'x', images: ['no.png'] })).rejects.toThrow('--image');
    await expect(run({ model: 'nowhere', prompt: 'x' })).rejects.toThrow('--model');
    await expect(run({ prompt: 'a <|im_end|> b' })).rejects.toThrow('<|im_end|>');
    await expect(run({ prompt: 'cut \ud83d' })).rejects.toThrow('half of one, \\ud83d, as character 5');
    await expect(run({ prompt: 'x', system: '\ude00' })).rejects.toThrow('half of one');
    await expect(run({ prompt: 'x', device: 'cuda' })).rejects.toThrow('--device');
  });

  it('refuses pictures and texts that cannot be asked before the weights are opened', async () => {
    const unweighed = join(work, 'unweighed');
    cpSync(model, unweighed, { recursive: true });
    rmSync(join(unweighed, 'model.safetensors'));
    const cut = join(work, 'cut.bmp');
    writeFileSync(cut, readFileSync(a).subarray(0, 500));
    const ask = (options: Partial<ChatOptions>) => run({ model: unweighed, ...options });
    await expect(ask({ prompt: 'x', images: [a, cut] })).rejects.toMatchObject({ flag: '--image', file: cut });
    await expect(ask({ images: [a, cut] })).rejects.toMatchObject({ flag: '--image', file: cut });
    await expect(ask({ prompt: 'a <|im_end|> b', images: [a] })).rejects.toThrow('<|im_end|>');
    await expect(ask({ prompt: 'x', system: 'a <|im_end|> b' })).rejects.toThrow('<|im_end|>');
    await expect(ask({ prompt: 'x', images: [a] })).rejects.toThrow('model.safetensors');
  });
});

it('says that a character of the prompt was lost on its way', async () => {
  const { stdout, stderr } = await run({ prompt: 'cut \ufffd' });
  expect(stderr).toMatch(/^notice: Character 5 of "cut \ufffd" is the replacement character U\+FFFD/);
  expect(stdout).toBe((await run({ prompt: 'cut \ufffd', system: null })).stdout);
});

describe('a conversation', () => {
  it('goes on turn by turn, with pictures where they were shown', async () => {
    const { stdout } = await run({ images: [a], system: 'Be brief.' }, ['First?', '', `/image "${b}"`, 'Second?']);
    const [first, second, ...rest] = stdout.split('\n');
    const opening = [
      { role: 'system', content: 'Be brief.' },
      { role: 'user', content: [{ image: a }, 'First?'] },
    ] as const;
    const next = [
      ...opening,
      { role: 'assistant', content: first! },
      { role: 'user', content: [{ image: b }, 'Second?'] },
    ] as const;
    expect([first, second]).toEqual(await answers([opening], [next]));
    expect(rest).toEqual(['']);
  });

  it('is forgotten by /reset and ended by /quit', async () => {
    const { stdout, stderr } = await run({ images: [a] }, ['Hello', '/reset', 'Hello', '/quit', 'Hello']);
    const lines = stdout.split('\n');
    const [withPicture, without] = await answers(
      [[{ role: 'user', content: [{ image: a }, 'Hello'] }]],
      [[{ role: 'user', content: 'Hello' }]],
    );
    expect(lines).toEqual([withPicture, without, '']);
    expect(stderr).toContain('Forgotten.');
  });

  it('survives what it cannot use', async () => {
    const lines = [
      '/image no.png',
      '/image',
      '/imgae x',
      '/help',
      'a <|im_end|> b',
      `/image ${b.replace(' ', '\\ ')}`,
      'Hello',
    ];
    const { stdout, stderr } = await run({}, lines);
    expect(stderr).toContain('There is no file "no.png".');
    expect(stderr).toContain('/image needs the path');
    expect(stderr).toContain('There is no /imgae.');
    expect(stderr).toContain('error: Expected text without special tokens');
    expect(stderr).toContain('One picture for the next question.');
    expect(stdout.split('\n').slice(0, -1)).toEqual(
      await answers([[{ role: 'user', content: [{ image: b }, 'Hello'] }]]),
    );
  });
});
