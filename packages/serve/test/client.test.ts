/** The server as OpenAI's client sees it. */
import { loadModel } from '@minicpm-finetune/minicpm-v';
import OpenAI from 'openai';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { noise, type Serving, serving, workFolder } from './support/serving.js';

const { work, base, remove } = workFolder();
let here: Serving;
let picture: string;
let client: OpenAI;

beforeAll(async () => {
  here = await serving(base);
  client = here.client;
  picture = await noise(work, 90, 60, 1);
});
afterAll(async () => {
  await here.close();
  expect(here.errors).toEqual([]);
  remove();
});

const messages = (text = 'What is this?'): OpenAI.ChatCompletionMessageParam[] => [
  {
    role: 'user',
    content: [
      { type: 'image_url', image_url: { url: picture } },
      { type: 'text', text },
    ],
  },
];
const SHORT = { model: 'tiny', max_tokens: 12, temperature: 0 };

describe('create', () => {
  it('gives the text that generate gives, and counts', async () => {
    using model = await loadModel({ model: base });
    const [alone] = await model.generate(
      [[{ role: 'user', content: [{ image: Buffer.from(picture.split(',')[1]!, 'base64') }, 'What is this?'] }]],
      { maxNewTokens: 12 },
    );
    const answer = await client.chat.completions.create({ ...SHORT, messages: messages() });
    const [choice] = answer.choices;
    expect(choice!.message).toEqual({ role: 'assistant', content: alone!.text, refusal: null });
    expect(alone!.text).not.toBe('');
    expect(choice!.finish_reason).toBe(alone!.end);
    expect(answer.usage!.completion_tokens).toBe(alone!.tokens);
    expect(answer.usage!.total_tokens).toBe(answer.usage!.prompt_tokens + alone!.tokens);
    expect(answer).toMatchObject({ object: 'chat.completion', model: 'tiny' });
    expect(answer.id).toMatch(/^chatcmpl-/);
    expect(answer.system_fingerprint).toMatch(/^fp_[0-9a-f]{16}$/);
    expect(answer._request_id).toMatch(/^req_/);
    expect(Math.abs(answer.created - Date.now() / 1000)).toBeLessThan(100);
  });

  it('streams the same text', async () => {
    const whole = await client.chat.completions.create({ ...SHORT, messages: messages() });
    const stream = client.chat.completions.stream({
      ...SHORT,
      messages: messages(),
      stream_options: { include_usage: true },
    });
    const final = await stream.finalChatCompletion();
    expect(final.choices[0]!.message.content).toBe(whole.choices[0]!.message.content);
    expect(final.choices[0]!.finish_reason).toBe(whole.choices[0]!.finish_reason);
    expect({ ...final.usage, prompt_tokens_details: 0 }).toEqual({ ...whole.usage, prompt_tokens_details: 0 });
  });

  it('draws the same with the same seed, another text with another one, and n different choices', async () => {
    const ask = async (seed: number, n = 1) =>
      (await client.chat.completions.create({ ...SHORT, temperature: 2, seed, n, messages: messages() })).choices.map(
        ({ message }) => message.content,
      );
    const three = await ask(5, 3);
    expect(new Set(three).size).toBe(3);
    expect(await ask(5, 3)).toEqual(three);
    expect(await ask(5)).toEqual(three.slice(0, 1));
    expect(await ask(6)).not.toEqual(three.slice(0, 1));
  });

  it('streams n choices, each with its role, text and end', async () => {
    const request = { ...SHORT, temperature: 2, seed: 5, n: 3, messages: messages() };
    const whole = await client.chat.completions.create(request);
    const final = await client.chat.completions.stream(request).finalChatCompletion();
    expect(final.choices.map(({ message }) => message.content)).toEqual(
      whole.choices.map(({ message }) => message.content),
    );
    expect(whole.usage!.prompt_tokens).toBeLessThan(100); // counted once
  });

  it('stops before a stop string, wherever it falls', async () => {
    const whole = (await client.chat.completions.create({ ...SHORT, max_tokens: 40, messages: messages() }))
      .choices[0]!;
    const text = whole.message.content!;
    for (const [from, to] of [
      [3, 5],
      [7, 12],
      [10, 11],
    ] as const) {
      const stop = [...text].slice(from, to).join('');
      const expected = text.slice(0, text.indexOf(stop));
      const request = { ...SHORT, max_tokens: 40, messages: messages(), stop: [stop, 'never this'] };
      const answer = (await client.chat.completions.create(request)).choices[0]!;
      expect([answer.message.content, answer.finish_reason]).toEqual([expected, 'stop']);
      const final = await client.chat.completions.stream(request).finalChatCompletion();
      expect(final.choices[0]!.message.content).toBe(answer.message.content);
    }
  });

  it('tells log probabilities of the tokens of the text', async () => {
    const request = { ...SHORT, messages: messages(), logprobs: true, top_logprobs: 3 };
    const { choices } = await client.chat.completions.create(request);
    const content = choices[0]!.logprobs!.content!;
    expect(
      content
        .map(({ token }) => token)
        .join('')
        .trim(),
    ).toBe(choices[0]!.message.content);
    for (const { token, logprob, bytes, top_logprobs } of content) {
      expect(Buffer.from(bytes!).toString()).toBe(token);
      expect(logprob).toBeLessThanOrEqual(0);
      expect(top_logprobs).toHaveLength(3);
      expect(top_logprobs[0]!.logprob).toBe(logprob); // greedy
      expect(top_logprobs[0]!.logprob).toBeGreaterThanOrEqual(top_logprobs[1]!.logprob);
    }
    const final = await client.chat.completions.stream(request).finalChatCompletion();
    expect(final.choices[0]!.logprobs!.content).toEqual(content);
  });

  it('obeys sampling beyond OpenAI’s, penalties and bias', async () => {
    const text = async (extra: object): Promise<string> =>
      (await client.chat.completions.create({ ...SHORT, messages: messages(), ...extra })).choices[0]!.message.content!;
    const greedy = await text({});
    expect(await text({ temperature: 1.5, top_k: 1, seed: 3 })).toBe(greedy);
    expect(await text({ temperature: 1.5, min_p: 1, seed: 3 })).toBe(greedy);
    const { choices } = await client.chat.completions.create({ ...SHORT, messages: messages(), logprobs: true });
    expect(choices).toHaveLength(1);
    using model = await loadModel({ model: base });
    const first = (await model.tokenizer.encode(choices[0]!.logprobs!.content![0]!.token))[0]!;
    expect(await text({ logit_bias: { [first]: -100 } })).not.toBe(greedy);
    const id = (await model.tokenizer.encode('a'))[0]!;
    expect(await text({ logit_bias: { [id]: 100 }, max_tokens: 3 })).toBe('aaa');
    expect(await text({ logit_bias: { [id]: 100 }, stop_token_ids: [id] })).toBe('');
    expect(await text({ logit_bias: { [id]: 30 }, frequency_penalty: 2, max_tokens: 40 })).not.toBe('a'.repeat(40));
  });

  it('continues an answer that the last message begins', async () => {
    const answer = await client.chat.completions.create({
      ...SHORT,
      messages: [...messages(), { role: 'assistant', content: 'It is a' }],
    });
    const ask = await client.chat.completions.create({
      ...SHORT,
      messages: [...messages(), { role: 'assistant', content: 'It is a' }, { role: 'user', content: 'And?' }],
    });
    expect(answer.choices[0]!.message.content).not.toBe(ask.choices[0]!.message.content);
    expect(answer.usage!.prompt_tokens).toBeLessThan(ask.usage!.prompt_tokens);
  });

  it('cuts a picture of low detail into no slices', async () => {
    const large = await noise(work, 200, 200, 7);
    const count = async (...details: ('low' | 'high')[]): Promise<number> => {
      const content = details.map((detail) => ({ type: 'image_url' as const, image_url: { url: large, detail } }));
      const { usage } = await client.chat.completions.create({ ...SHORT, messages: [{ role: 'user', content }] });
      return usage!.prompt_tokens;
    };
    const [low, high, both] = [await count('low'), await count('high'), await count('low', 'high')];
    expect(low).toBeLessThan(high);
    expect(both).toBeLessThan(2 * high);
    expect(both).toBeGreaterThan(low + 10);
    const kwargs = { mm_processor_kwargs: { max_slice_nums: 1 } };
    const { usage } = await client.chat.completions.create({
      ...SHORT,
      ...kwargs,
      messages: [{ role: 'user', content: [{ type: 'image_url', image_url: { url: large } }] }],
    });
    expect(usage!.prompt_tokens).toBe(low);
  });
});

describe('models', () => {
  it('are listed as cards', async () => {
    const list = await client.models.list();
    expect(list.data).toMatchObject([{ id: 'tiny', object: 'model', parent: null, max_model_len: 600 }]);
    expect(await client.models.retrieve('tiny')).toEqual(list.data[0]);
    const error = await client.models.retrieve('tini').catch((reason) => reason);
    expect(error).toBeInstanceOf(OpenAI.NotFoundError);
    expect(error).toMatchObject({ code: 'model_not_found', param: 'model' });
    expect(error.message).toContain('Did you mean `tiny`?');
  });
});

it('serves a name of the hub, with its slash', async () => {
  const other = await serving(base, { engine: { id: 'openbmb/tiny' } });
  expect(await other.client.models.retrieve('openbmb/tiny')).toMatchObject({ id: 'openbmb/tiny' });
  const answer = await other.client.chat.completions.create({ ...SHORT, model: 'openbmb/tiny', messages: messages() });
  expect(answer.model).toBe('openbmb/tiny');
  await other.close();
});

it('says once which fields change nothing', async () => {
  for (let i = 0; i < 2; i++)
    await client.chat.completions.create({
      ...SHORT,
      max_tokens: 1,
      user: 'someone',
      messages: [{ role: 'user', content: 'hi', name: 'Ann' }],
    });
  expect(here.notices.filter((line) => line.includes('has user,'))).toHaveLength(1);
  expect(here.notices.filter((line) => line.includes('has messages[].name,'))).toHaveLength(1);
});
