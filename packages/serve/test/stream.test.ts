/** The bytes of answers: server-sent events, signs of life, and text that may become a stop string. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { StopStrings } from '../src/api/stop-strings.js';
import { ChatServer } from '../src/index.js';
import { type Serving, serving, workFolder } from './support/serving.js';

const { base, remove } = workFolder();
let here: Serving;

beforeAll(async () => {
  here = await serving(base, { engine: { maxNumSeqs: 1 }, server: { beat: 40 } });
});
afterAll(async () => {
  await here.close();
  expect(here.errors).toEqual([]);
  remove();
});

const post = (body: object): Promise<Response> =>
  fetch(`${here.server.url}/v1/chat/completions`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ messages: [{ role: 'user', content: 'hi' }], temperature: 0, ...body }),
  });

/** Server-sent events as their data, `[DONE]` as text; comments are gone. */
const eventsOf = (text: string): (string | Record<string, unknown>)[] =>
  text
    .split('\n\n')
    .filter((event) => event.startsWith('data: '))
    .map((event) => (event === 'data: [DONE]' ? '[DONE]' : JSON.parse(event.slice('data: '.length))));

interface Chunk {
  readonly choices: readonly {
    index: number;
    delta: { role?: string; content?: string };
    finish_reason: string | null;
    logprobs: unknown;
  }[];
  readonly usage?: { completion_tokens: number } | null;
}

describe('a stream', () => {
  it('is events of one line each: role, text, end, usage, [DONE]', async () => {
    const response = await post({ stream: true, max_tokens: 6, stream_options: { include_usage: true } });
    expect(response.headers.get('content-type')).toBe('text/event-stream; charset=utf-8');
    expect(response.headers.get('cache-control')).toBe('no-cache');
    expect(response.headers.get('x-accel-buffering')).toBe('no');
    expect(response.headers.get('x-request-id')).toMatch(/^req_/);
    const text = await response.text();
    expect(text).toMatch(/^(data: [^\n]+\n\n|: [^\n]+\n\n)+$/);
    const events = eventsOf(text);
    expect(events.pop()).toBe('[DONE]');
    const chunks = events as unknown as Chunk[];
    const usage = chunks.pop()!;
    expect(usage).toMatchObject({ choices: [], usage: { completion_tokens: 6 } });
    expect(chunks.every((chunk) => chunk.usage === null)).toBe(true);
    expect(chunks[0]!.choices).toEqual([
      { index: 0, delta: { role: 'assistant', content: '' }, logprobs: null, finish_reason: null },
    ]);
    expect(chunks.at(-1)!.choices).toEqual([{ index: 0, delta: {}, logprobs: null, finish_reason: 'length' }]);
    for (const { choices } of chunks.slice(1, -1)) {
      expect(choices[0]!.finish_reason).toBe(null);
      expect(choices[0]!.delta.content).not.toBe('');
    }
    const whole = await (await post({ max_tokens: 6 })).json();
    const content = chunks.map(({ choices }) => choices[0]!.delta.content ?? '').join('');
    expect(content).toBe((whole as { choices: { message: { content: string } }[] }).choices[0]!.message.content);
    const ids = new Set(
      (events as { id: string; created: number; system_fingerprint: string }[]).map(
        ({ id, created }) => `${id} ${created}`,
      ),
    );
    expect(ids.size).toBe(1);
  });

  it('has no usage unless it is asked for, and in every chunk if so', async () => {
    const none = eventsOf(await (await post({ stream: true, max_tokens: 3 })).text()).slice(
      0,
      -1,
    ) as unknown as Chunk[];
    expect(none.some((chunk) => 'usage' in chunk)).toBe(false);
    const options = { include_usage: true, continuous_usage_stats: true };
    const every = eventsOf(await (await post({ stream: true, max_tokens: 3, stream_options: options })).text());
    const counts = (every.slice(0, -1) as unknown as Chunk[]).map(({ usage }) => usage!.completion_tokens);
    expect(counts).toEqual([...counts].sort((a, b) => a - b));
    expect(counts.at(-1)).toBe(3);
  });

  it('says how many are before it while it waits', async () => {
    const first = post({ stream: true, max_tokens: 500, ignore_eos: true });
    const reader = (await first).body!.getReader();
    await reader.read(); // it is under way
    const second = await post({ stream: true, max_tokens: 2 });
    const third = await post({ stream: true, max_tokens: 2 });
    const [two, three] = [second.body!.getReader(), third.body!.getReader()];
    const text = async (from: typeof two): Promise<string> => new TextDecoder().decode((await from.read()).value);
    expect(await text(two)).toContain(': queued 1\n\n');
    let said = '';
    while ((said.match(/: queued 2/g) ?? []).length < 3) said += await text(three); // at once, and at every beat
    await reader.cancel();
    let rest = '';
    for (let part = await two.read(); !part.done; part = await two.read()) rest += new TextDecoder().decode(part.value);
    expect(rest).toContain('[DONE]');
    await three.cancel();
  });
});

it('without a model yet: 503, and when to ask again', async () => {
  const options = { host: '127.0.0.1', port: 0, allowedHosts: [], corsOrigins: [], apiKey: null, onError: () => {} };
  const server = await ChatServer.listen(options);
  const health = await fetch(`${server.url}/health`);
  const loading = { code: 503, message: 'Loading model', type: 'unavailable_error' };
  expect([health.status, await health.json()]).toEqual([503, { error: loading }]);
  for (const path of ['/v1/models', '/metrics']) {
    const response = await fetch(`${server.url}${path}`);
    expect([response.status, response.headers.get('retry-after')]).toEqual([503, '1']);
    expect(((await response.json()) as { error: object }).error).toMatchObject({ code: 'model_loading' });
  }
  await server.close();
});

describe('a whole answer', () => {
  it('sends its headers and spaces when it is long in coming', async () => {
    const response = await post({ max_tokens: 300, ignore_eos: true });
    const text = await response.text();
    expect(response.headers.get('content-type')).toBe('application/json');
    expect(text).toMatch(/^ +\{/);
    expect((JSON.parse(text) as { usage: object }).usage).toMatchObject({ completion_tokens: 300 });
  });
});

describe('stop strings', () => {
  /** All ways to cut a text into two or three pieces. */
  function* cuts(text: string): Generator<string[]> {
    for (let i = 0; i <= text.length; i++)
      for (let j = i; j <= text.length; j++) yield [text.slice(0, i), text.slice(i, j), text.slice(j)];
  }

  it('end the text before the first of them, however it is cut', () => {
    const table: [string, string[], string][] = [
      ['abcabd.', ['abd'], 'abc'],
      ['aaab', ['aab'], 'a'],
      ['one END two', ['END', 'two'], 'one '],
      ['one two', ['two', 'ne'], 'o'],
      ['nothing here', ['xyz'], 'nothing here'],
      ['almost EN', ['END'], 'almost EN'],
      ['xabcx', ['abcd', 'bc'], 'xa'],
      ['a😀b', ['😀'], 'a'],
    ];
    for (const [text, stops, expected] of table) {
      for (const pieces of cuts(text)) {
        const filter = new StopStrings(stops);
        const seen = pieces.map((piece) => filter.push(piece));
        const all = seen.join('') + filter.end();
        expect([all, filter.found], JSON.stringify([pieces, stops])).toEqual([expected, expected !== text]);
        seen.forEach((_, i) => {
          expect(expected.startsWith(seen.slice(0, i + 1).join(''))).toBe(true); // nothing is taken back
        });
      }
    }
  });

  it('hold back only what may become one', () => {
    const filter = new StopStrings(['END']);
    expect(['abc', 'E', 'N', 'x', 'E'].map((piece) => filter.push(piece))).toEqual(['abc', '', '', 'ENx', '']);
    expect(filter.end()).toBe('E');
  });
});
