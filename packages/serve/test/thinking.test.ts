/** Thoughts of a model that thinks, asked for as vLLM's clients do, and of one that does not. */
import { loadModel } from '@minicpm-finetune/minicpm-v';
import type OpenAI from 'openai';
import { afterAll, expect, it } from 'vitest';
import { serving, workFolder } from './support/serving.js';

const thinker = workFolder('minicpm-v-4_6');
const older = workFolder();
afterAll(() => {
  thinker.remove();
  older.remove();
});

type Fields = OpenAI.ChatCompletionCreateParamsNonStreaming & { chat_template_kwargs?: unknown };
const request = (kwargs?: unknown, more: readonly OpenAI.ChatCompletionMessageParam[] = []): Fields => ({
  ...{ model: 'tiny', max_tokens: 8, temperature: 0 },
  messages: [{ role: 'user', content: 'What moves?' }, ...more],
  ...(kwargs === undefined ? {} : { chat_template_kwargs: kwargs }),
});

it('begins a thought where it is asked to', async () => {
  const here = await serving(thinker.base);
  const answer = async (kwargs?: unknown) =>
    (await here.client.chat.completions.create(request(kwargs))).choices[0]!.message.content;
  using model = await loadModel({ model: thinker.base });
  for (const enableThinking of [true, false]) {
    const options = { maxNewTokens: 8, enableThinking };
    const [alone] = await model.generate([[{ role: 'user', content: 'What moves?' }]], options);
    expect(await answer({ enable_thinking: enableThinking })).toBe(alone!.text);
  }
  expect(await answer()).toBe(await answer({ enable_thinking: false }));
  expect(await answer({ enable_thinking: true })).not.toBe(await answer());
  await here.close();
});

it.each([
  [{ enable_thinking: 'yes' }, 'chat_template_kwargs.enable_thinking', 'invalid_value'],
  [{ enable_thoughts: true }, 'chat_template_kwargs.enable_thoughts', 'unknown_parameter'],
  [true, 'chat_template_kwargs', 'invalid_value'],
])('refuses %j', async (kwargs, param, code) => {
  const here = await serving(older.base);
  const error = here.client.chat.completions.create(request(kwargs));
  await expect(error).rejects.toMatchObject({ status: 400, param, code });
  await here.close();
});

it('refuses thoughts of a model without think blocks, and before an answer that is begun', async () => {
  const param = 'chat_template_kwargs.enable_thinking';
  const without = await serving(older.base);
  const asked = without.client.chat.completions.create(request({ enable_thinking: true }));
  await expect(asked).rejects.toMatchObject({ status: 400, param, code: 'unsupported_parameter' });
  await without.client.chat.completions.create(request({ enable_thinking: false }));
  await without.close();
  const here = await serving(thinker.base);
  const begun = request({ enable_thinking: true }, [{ role: 'assistant', content: 'It' }]);
  await expect(here.client.chat.completions.create(begun)).rejects.toMatchObject({ status: 400, param });
  await here.close();
});
