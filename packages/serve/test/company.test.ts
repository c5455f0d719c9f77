/** Many requests at once: answers do not depend on the company, places are given and freed. */
import { cpSync, mkdtempSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { loadModel } from '@minicpm-finetune/minicpm-v';
import { liveTensors, ops, SafetensorsFile, scope, type Tensor, writeSafetensors } from '@minicpm-finetune/torch';
import OpenAI from 'openai';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { randomAdapter } from '../../minicpm-v/test/support/random-adapter.js';
import { tinyCheckpoint, VERSION_NAMES } from '../../minicpm-v/test/support/tiny.js';
import { checkChatRequest } from '../src/api/request.js';
import { noise, type Serving, type ServingOptions, serving, workFolder } from './support/serving.js';

const { work, base, remove } = workFolder();
let picture: string;
const adapters: { name: string; folder: string }[] = [];

beforeAll(async () => {
  picture = await noise(work, 90, 60, 1);
  for (const [i, dora] of [false, true, false].entries()) {
    const folder = join(mkdtempSync(join(work, 'a-')), 'adapter');
    adapters.push({ name: `a${i}`, folder: randomAdapter(base, folder, i + 1, dora) });
  }
});
afterAll(remove);

async function start(options: ServingOptions = {}, folder = base): Promise<Serving> {
  return await serving(folder, options);
}

async function stop(here: Serving): Promise<void> {
  await here.close();
  expect(here.errors).toEqual([]);
}

type Request = OpenAI.ChatCompletionCreateParamsNonStreaming & { ignore_eos?: boolean };
const ON = { ignore_eos: true };

function request(model: string, text: string, extra: Partial<Request> = {}): Request {
  const content = [
    { type: 'image_url' as const, image_url: { url: picture } },
    { type: 'text' as const, text },
  ];
  return { model, max_tokens: 12, temperature: 0, messages: [{ role: 'user', content }], ...extra };
}

const textOf = async (client: OpenAI, one: Request): Promise<string | null> =>
  (await client.chat.completions.create(one)).choices[0]!.message.content;

/** Waits until something is so; the test's own limit ends it. */
async function until(so: () => boolean | Promise<boolean>): Promise<void> {
  while (!(await so())) await new Promise((resolve) => setTimeout(resolve, 5));
}

const gauge = (here: Serving, name: string): number =>
  Number(new RegExp(`^minicpm_serve_${name} (.*)$`, 'm').exec(here.engine.metricsText())![1]);

describe('several adapters over one base', () => {
  it('give at once the text that generate gives with each alone', async () => {
    const alone = new Map<string, string>();
    for (const { name, folder } of [...adapters, { name: 'tiny', folder: null }]) {
      using model = await loadModel({ model: base, ...(folder === null ? {} : { adapter: folder }) });
      const image = Buffer.from(picture.split(',')[1]!, 'base64');
      const answers = await model.generate([[{ role: 'user', content: [{ image }, 'What is this?'] }]], {
        maxNewTokens: 40,
      });
      alone.set(name, answers[0]!.text);
    }
    expect(new Set(alone.values()).size).toBe(4);
    const here = await start({ engine: { adapters, maxNumSeqs: 6 } });
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
    expect(new Set(prints).size).toBe(4);
    await stop(here);
  });

  it('come and go while requests are answered, and leave nothing behind', async () => {
    const here = await start({ engine: { adapterRoot: work } });
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
  const here = await start({ engine: { adapterRoot: work } });
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
  it.each(['float32', 'bfloat16'] as const)(
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

describe('the queue', () => {
  it('answers 100 requests', async () => {
    const here = await start({ engine: { maxQueue: 100, maxNumSeqs: 4, adapters } });
    const names = Array.from({ length: 100 }, (_, i) => ['tiny', 'a0', 'a1'][i % 3]!);
    const answers = await Promise.all(
      names.map((name, i) => textOf(here.client, request(name, `Question ${i}`, { max_tokens: 4 }))),
    );
    expect(answers.filter((text) => text === null || text === '')).toEqual([]);
    expect(gauge(here, 'requests_running') + gauge(here, 'requests_waiting')).toBe(0);
    await stop(here);
  });

  it('refuses with 429 what it has no place for; the client that tries again is answered', async () => {
    const here = await start({ engine: { maxQueue: 1, maxNumSeqs: 1 } });
    const one = request('tiny', 'x', { max_tokens: 30 });
    const results = await Promise.all(
      Array.from({ length: 6 }, () => here.client.chat.completions.create(one).catch((error) => error)),
    );
    const refused = results.filter((result) => result instanceof OpenAI.RateLimitError);
    expect(refused.length).toBeGreaterThan(0);
    expect(results.length - refused.length).toBeGreaterThanOrEqual(2);
    for (const { code, headers } of refused) {
      expect(code).toBe('queue_full');
      expect(Number(headers.get('retry-after'))).toBeGreaterThan(0);
    }
    expect(gauge(here, 'requests_waiting')).toBe(0);
    const patient = here.client.withOptions({ maxRetries: 20 });
    const all = await Promise.all(
      Array.from({ length: 3 }, () => textOf(patient, request('tiny', 'x', { max_tokens: 3 }))),
    );
    expect(new Set(all).size).toBe(1);
    await stop(here);
  });

  it('gives a place up within a token of its client’s leaving, and the tensors of 50 that leave', async () => {
    const here = await start({ engine: { maxNumSeqs: 2, maxQueue: 100 } });
    const { client } = here;
    await textOf(client, request('tiny', 'warm up'));
    const before = liveTensors();
    const leave = async (i: number): Promise<void> => {
      const abort = new AbortController();
      const one = { ...request('tiny', `Question ${i % 3}`, { ...ON, max_tokens: 500 }), stream: true as const };
      const stream = await client.chat.completions.create(one, { signal: abort.signal });
      let chunks = 0;
      for await (const _ of stream) if (++chunks === 1 + (i % 4)) break; // leaving the loop closes the connection
    };
    await Promise.all(Array.from({ length: 50 }, (_, i) => leave(i)));
    await until(() => gauge(here, 'requests_running') + gauge(here, 'requests_waiting') === 0);
    const { bytes, tensors } = liveTensors();
    expect(tensors - before.tensors).toBeLessThanOrEqual(4); // what is kept of prompts and pictures
    expect(bytes - before.bytes).toBeLessThan(2 ** 20);
    expect(await textOf(client, request('tiny', 'still there?'))).not.toBe('');
    expect(here.engine.metricsText()).toMatch(/requests_total\{end="abort"\} \d\d/);
    await stop(here);
  });

  it('computes no token more for a client that has left', async () => {
    const here = await start({ engine: { maxNumSeqs: 1 } });
    const abort = new AbortController();
    const question = checkChatRequest({
      messages: [{ role: 'user', content: 'x' }],
      max_tokens: 500,
      ignore_eos: true,
    });
    const answering = await here.engine.ask(question, { arrived: performance.now(), signal: abort.signal });
    let texts = 0;
    for await (const _ of answering.events) {
      if (++texts < 5) continue;
      const { completionTokens } = answering.usage;
      abort.abort();
      expect([gauge(here, 'requests_running'), gauge(here, 'requests_waiting')]).toEqual([0, 0]);
      expect(await textOf(here.client, request('tiny', 'next'))).not.toBe('');
      expect(answering.usage.completionTokens - completionTokens).toBeLessThanOrEqual(1);
    }
    await stop(here);
  });

  it('lets those who wait leave, too', async () => {
    const here = await start({ engine: { maxNumSeqs: 1 } });
    const abort = new AbortController();
    const long = here.client.chat.completions.create(request('tiny', 'long', { ...ON, max_tokens: 300 }), {
      signal: abort.signal,
    });
    await until(() => gauge(here, 'requests_running') === 1);
    const second = new AbortController();
    const waiting = here.client.chat.completions.create(request('tiny', 'waits'), { signal: second.signal });
    await until(() => gauge(here, 'requests_waiting') === 1);
    second.abort();
    await expect(waiting).rejects.toThrow('aborted');
    await until(() => gauge(here, 'requests_waiting') === 0);
    abort.abort();
    await expect(long).rejects.toThrow('aborted');
    await until(() => gauge(here, 'requests_running') === 0);
    await stop(here);
  });

  it('ends a request that takes longer than its limit, in words', async () => {
    const here = await start({ engine: { timeout: 0.3 } });
    const one = request('tiny', 'x', { ...ON, max_tokens: 550, n: 8 });
    const error = await here.client.chat.completions.create(one).catch((reason) => reason);
    expect([error.status, error.code]).toEqual([408, 'timeout']);
    const stream = await here.client.chat.completions.create({ ...one, stream: true });
    const read = async (): Promise<void> => {
      for await (const _ of stream);
    };
    await expect(read()).rejects.toThrow('longer than 0.3 seconds');
    await stop(here);
  });
});

it('keeps the number of live tensors flat over many answers, and frees everything at its end', async () => {
  const before = liveTensors();
  const here = await start({ engine: { adapters, cacheBytes: 0 } });
  const round = async (): Promise<void> => {
    await Promise.all(
      ['tiny', 'a0', 'a1', 'a2'].map((name) => textOf(here.client, request(name, 'x', { max_tokens: 5 }))),
    );
  };
  await round();
  const live = liveTensors();
  for (let i = 0; i < 5; i++) await round();
  expect(liveTensors()).toEqual(live);
  const long = here.client.chat.completions
    .create(request('tiny', 'x', { ...ON, max_tokens: 500 }))
    .catch((error) => error);
  await until(() => gauge(here, 'requests_running') === 1);
  await stop(here); // ends what is under way
  expect(await long).toMatchObject({ status: 503 });
  expect(liveTensors()).toEqual(before);
});

it('goes on after a step that failed: its requests get the error, the others their answers', async () => {
  const broken = join(mkdtempSync(join(work, 'b-')), 'adapter');
  cpSync(adapters[0]!.folder, broken, { recursive: true });
  rmSync(join(broken, 'minicpm_manifest.json'));
  const source = new SafetensorsFile(join(adapters[0]!.folder, 'adapter_model.safetensors'));
  scope(() => {
    const huge = (name: string): Tensor =>
      name.includes('lora_B') ? ops.mulScalar(source.tensor(name), 1e38) : source.tensor(name);
    const tensors = new Map([...source.infos.keys()].map((name) => [name, huge(name)]));
    writeSafetensors(join(broken, 'adapter_model.safetensors'), tensors);
  });
  const here = await start({ engine: { adapters: [{ name: 'broken', folder: broken }] } });
  const plain = await textOf(here.client, request('tiny', 'x'));
  const both = [request('broken', 'x'), request('tiny', 'x'), request('broken', 'y')];
  const [first, second, third] = await Promise.all(both.map((one) => textOf(here.client, one).catch((error) => error)));
  for (const error of [first, third]) expect([error.status, error.type]).toEqual([500, 'server_error']);
  expect((first as unknown as Error).message).toContain('NaN');
  expect(second).toBe(plain);
  expect(await textOf(here.client, request('tiny', 'x'))).toBe(plain);
  expect(here.errors.length).toBeGreaterThan(0);
  await here.close();
});
