/** Many requests at once: places are given and freed, also by those who leave and by what fails. */
import { cpSync, mkdtempSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { liveTensors, ops, SafetensorsFile, scope, type Tensor, writeSafetensors } from '@minicpm-finetune/torch';
import OpenAI from 'openai';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { checkChatRequest } from '../src/api/request.js';
import { gauge, makePlace, ON, type Place, stop, textOf, until } from './support/place.js';

let place: Place;
let { work, adapters, request, start } = {} as Place;
beforeAll(async () => {
  place = await makePlace();
  ({ work, adapters, request, start } = place);
});
afterAll(() => place.remove());

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
