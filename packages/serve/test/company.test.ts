/** Several models at once: answers do not depend on the company. */
import { join } from 'node:path';
import { loadModel } from '@minicpm-finetune/minicpm-v';
import { liveTensors } from '@minicpm-finetune/torch';
import type OpenAI from 'openai';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { randomAdapter } from '../../minicpm-v/test/support/random-adapter.js';
import { tinyCheckpoint, VERSION_NAMES } from '../../minicpm-v/test/support/tiny.js';
import { checkChatRequest } from '../src/api/request.js';
import { gauge, makePlace, ON, type Place, type Request, stop, textOf, until } from './support/place.js';

let place: Place;
let { work, base, picture, adapters, request, start } = {} as Place;
beforeAll(async () => {
  place = await makePlace();
  ({ work, base, picture, adapters, request, start } = place);
});
afterAll(() => place.remove());

describe('several adapters over one base', () => {
  it('give at once the text that generate gives with each alone', async () => {
    const alone = new Map<string, string>();
    const made = (name: string, modulesToSave: string[]): Place['adapters'][number] => ({
      name,
      folder: randomAdapter(base, join(work, name), 9, { modulesToSave }),
    });
    const served = [
      ...adapters,
      made('official', ['embed_tokens', 'resampler', 'vpm']), // modules before the decoder's layers, whole
      made('inside', ['post_attention_layernorm']), // modules inside of them
    ];
    for (const { name, folder } of [...served, { name: 'tiny', folder: null }]) {
      using model = await loadModel({ model: base, ...(folder === null ? {} : { adapter: folder }) });
      const image = Buffer.from(picture.split(',')[1]!, 'base64');
      const answers = await model.generate([[{ role: 'user', content: [{ image }, 'What is this?'] }]], {
        maxNewTokens: 40,
      });
      alone.set(name, answers[0]!.text);
    }
    expect(new Set(alone.values()).size).toBe(6);
    const here = await start({ engine: { adapters: served, maxNumSeqs: 8 } });
    const names = [...alone.keys(), ...alone.keys(), ...alone.keys()];
    const texts = await Promise.all(
      names.map((name) => textOf(here.client, request(name, 'What is this?', { max_tokens: 40 }))),
    );
    expect(texts).toEqual(names.map((name) => alone.get(name)));
    const prints = await Promise.all(
      [...alone.keys()].map(
        async (name) => (await here.client.chat.completions.create(request(name, 'x'))).system_fingerprint,
      ),
    );
    expect(new Set(prints).size).toBe(6);
    await stop(here);
  });

  it('give every client a token at each step, whatever its adapter', async () => {
    const here = await start({ engine: { adapters, maxNumSeqs: 4 } });
    const how = { arrived: performance.now(), signal: new AbortController().signal };
    const answers = await Promise.all(
      ['tiny', 'a0', 'a1', 'a2'].map((name) =>
        here.engine.ask(checkChatRequest({ ...request(name, 'Go on.', { ...ON, max_tokens: 60 }) }), how),
      ),
    );
    const counts: number[][] = [];
    const read = async ({ events }: (typeof answers)[number]): Promise<void> => {
      for await (const _ of events) counts.push(answers.map(({ usage }) => usage.completionTokens));
    };
    await Promise.all(answers.map(read));
    const all = counts.filter((tokens) => tokens.every((count) => count > 0 && count < 60));
    expect(all.length).toBeGreaterThan(60);
    for (const i of [1, 2, 3]) {
      const ahead = all.map((tokens) => tokens[0]! - tokens[i]!); // by what it joined earlier
      expect(Math.max(...ahead) - Math.min(...ahead)).toBeLessThanOrEqual(2);
    }
    await stop(here);
  });

  it('come and go while requests are answered, and leave nothing behind', async () => {
    const here = await start({ engine: { adapterRoots: [work] } });
    const { client } = here;
    const post = (path: string, body: object) => client.post<{ id: string; parent?: string }>(path, { body });
    const plain = await textOf(client, request('tiny', 'Now?'));
    const before = liveTensors();
    const pathOf = (i: number): string => adapters[i]!.folder.slice(work.length + 1);
    expect(await post('/load_lora_adapter', { lora_name: 'now', lora_path: pathOf(0) })).toMatchObject({
      id: 'now',
      parent: 'tiny',
    });
    const first = await textOf(client, request('now', 'Now?'));
    const long = client.chat.completions.create(request('now', 'Long?', { ...ON, max_tokens: 200 }));
    await until(() => gauge(here, 'requests_running') === 1);
    await post('/load_lora_adapter', { lora_name: 'now', lora_path: pathOf(2), load_inplace: true });
    const second = await textOf(client, request('now', 'Now?'));
    expect(new Set([plain, first, second]).size).toBe(3);
    await post('/unload_lora_adapter', { lora_name: 'now' });
    expect(await client.chat.completions.create(request('now', 'Now?')).catch(({ status }) => status)).toBe(404);
    expect((await long).usage!.completion_tokens).toBe(200); // by the adapter that it was asked of
    expect(await textOf(client, request('tiny', 'Now?'))).toBe(plain);
    expect(liveTensors()).toEqual(before);
    await stop(here);
  });
});

it.each(VERSION_NAMES)('%s: the text of generate, one and two turns, also side by side', async (version) => {
  const folder = version === 'minicpm-v-2_6' ? base : tinyCheckpoint(work, version);
  const image = Buffer.from(picture.split(',')[1]!, 'base64');
  const turns = [
    { role: 'user' as const, content: [{ image }, 'What is this?'] },
    { role: 'assistant' as const, content: 'A picture.' },
    { role: 'user' as const, content: 'Of what?' },
  ];
  using model = await loadModel({ model: folder });
  const alone = await model.generate([turns.slice(0, 1), turns], { maxNewTokens: 12 });
  const here = await start({}, folder);
  const first = request('tiny', 'What is this?');
  const later = turns.slice(1).map(({ role, content }) => ({ role, content })) as OpenAI.ChatCompletionMessageParam[];
  const second = { ...first, messages: [...first.messages, ...later] };
  const texts = await Promise.all([first, second, second, first].map((one) => textOf(here.client, one)));
  const [one, two] = alone.map(({ text }) => text);
  expect(texts).toEqual([one, two, two, one]);
  await stop(here);
});

it('a request that is being read while its adapter is unloaded is that of the next one of the name, or of none', async () => {
  const here = await start({ engine: { adapterRoots: [work] } });
  const pathOf = (i: number): string => adapters[i]!.folder.slice(work.length + 1);
  const how = (): { arrived: number; signal: AbortSignal } => ({
    arrived: performance.now(),
    signal: new AbortController().signal,
  });
  const question = checkChatRequest({ ...request('now', 'Now?') });
  here.engine.loadAdapter('now', pathOf(0), false);
  const asked = here.engine.ask(question, how());
  here.engine.loadAdapter('now', pathOf(2), true);
  let text = '';
  for await (const event of (await asked).events) text += event.kind === 'text' ? event.text : '';
  expect(text).toBe(await textOf(here.client, request('now', 'Now?')));
  const lost = here.engine.ask(question, how());
  here.engine.unloadAdapter('now');
  await expect(lost).rejects.toMatchObject({ status: 404 });
  expect([gauge(here, 'requests_running'), gauge(here, 'requests_waiting')]).toEqual([0, 0]);
  await stop(here);
});

describe('an answer', () => {
  it.each(['float32', 'bfloat16', 'int8'] as const)(
    'in %s is the same in any company, also when its beginning was there before',
    async (dtype) => {
      const here = await start({ dtype, engine: { adapters, maxNumSeqs: 5 } });
      const { client } = here;
      const sampled = ['tiny', 'a0', 'a1'].map((model) =>
        request(model, 'Look. '.repeat(80), { ...ON, temperature: 1.5, seed: 7, max_tokens: 30, n: 2 }),
      );
      const choices = async (one: Request): Promise<(string | null)[]> =>
        (await client.chat.completions.create(one)).choices.map(({ message }) => message.content);
      const alone = [];
      for (const one of sampled) alone.push(await choices(one));
      expect(new Set(alone.flat()).size).toBe(6);
      const others = Array.from({ length: 8 }, (_, i) =>
        textOf(client, request(['tiny', 'a0', 'a1'][i % 3]!, `Other ${i} `.repeat(i + 1), { max_tokens: 10 + 7 * i })),
      );
      expect(await Promise.all(sampled.map(choices))).toEqual(alone);
      await Promise.all(others);
      await stop(here);
    },
  );

  it('takes the beginning of its conversation over, and says so', async () => {
    const here = await start();
    const messages: OpenAI.ChatCompletionMessageParam[] = [
      {
        role: 'user',
        content: [
          { type: 'image_url', image_url: { url: picture } },
          { type: 'text', text: 'a b c d e f '.repeat(60) },
        ],
      },
    ];
    const ask = (): Promise<OpenAI.ChatCompletion> =>
      here.client.chat.completions.create({ model: 'tiny', max_tokens: 5, temperature: 0, messages });
    const first = await ask();
    expect(first.usage!.prompt_tokens).toBeGreaterThan(512);
    expect(first.usage!.prompt_tokens_details!.cached_tokens).toBe(0);
    const again = await ask();
    expect(again.usage!.prompt_tokens_details!.cached_tokens).toBe(512);
    expect(again.choices[0]!.message).toEqual(first.choices[0]!.message);
    await stop(here);
  });
});
