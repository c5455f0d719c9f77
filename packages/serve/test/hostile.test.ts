/** Requests that are wrong, or meant to harm. */
import { mkdirSync, symlinkSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { connect } from 'node:net';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { randomAdapter } from '../../minicpm-v/test/support/random-adapter.js';
import { noise, type Serving, serving, workFolder } from './support/serving.js';

const KEY = 'a secret';
const { work, base, remove } = workFolder();
let here: Serving;
let picture: string;
let netHost: string;
let fetched = 0;
const net = createServer((request, response) => {
  fetched++;
  if (request.url === '/redirect') response.writeHead(302, { location: 'http://127.0.0.1:1/secret' }).end();
  else if (request.url === '/large') response.end(Buffer.alloc(2 ** 21));
  else if (request.url === '/a.bmp') response.end(Buffer.from(picture.split(',')[1]!, 'base64'));
  else response.writeHead(404).end();
});

beforeAll(async () => {
  await new Promise<void>((resolve) => net.listen(0, '127.0.0.1', resolve));
  netHost = `127.0.0.1:${(net.address() as { port: number }).port}`;
  picture = await noise(work, 90, 60, 1);
  mkdirSync(join(work, 'media'));
  writeFileSync(join(work, 'media', 'a.bmp'), Buffer.from(picture.split(',')[1]!, 'base64'));
  writeFileSync(join(work, 'secret.bmp'), Buffer.from(picture.split(',')[1]!, 'base64'));
  symlinkSync(join(work, 'secret.bmp'), join(work, 'media', 'link.bmp'));
  mkdirSync(join(work, 'adapters'));
  randomAdapter(base, join(work, 'adapters', 'a'), 1);
  randomAdapter(base, join(work, 'outside'), 2);
  symlinkSync(join(work, 'outside'), join(work, 'adapters', 'link'));
  here = await serving(base, {
    server: { apiKey: KEY, corsOrigins: ['https://page.example'], allowedHosts: ['model.example'] },
    engine: {
      pictures: { allowedHosts: [netHost], mediaPath: join(work, 'media'), maxBytes: 2 ** 20 },
      adapterRoots: [join(work, 'gone'), join(work, 'adapters')],
      maxTokens: 100,
    },
  });
});
afterAll(async () => {
  await here.close();
  net.close();
  expect(here.errors).toEqual([]);
  remove();
});

const AUTH = { authorization: `Bearer ${KEY}` };
const JSON_TYPE = { 'content-type': 'application/json' };

interface Answer {
  readonly status: number;
  readonly error: { message: string; type: string; param: string | null; code: string | number | null };
  readonly headers: Headers;
}

async function post(path: string, body: unknown, headers: Record<string, string> = {}): Promise<Answer> {
  const response = await fetch(`${here.server.url}${path}`, {
    method: 'POST',
    headers: { ...AUTH, ...JSON_TYPE, ...headers },
    body: typeof body === 'string' || body instanceof Uint8Array ? (body as string) : JSON.stringify(body),
  });
  const json = (await response.json()) as { error: Answer['error'] };
  return { status: response.status, error: json.error, headers: response.headers };
}

const HI = { messages: [{ role: 'user', content: 'hi' }], max_tokens: 2 };
const ask = (extra: object, headers?: Record<string, string>): Promise<Answer> =>
  post('/v1/chat/completions', { ...HI, ...extra }, headers);

/** Bytes on a bare connection; the answer until it ends. */
function raw(bytes: string | Buffer): Promise<string> {
  return new Promise((resolve) => {
    const socket = connect(here.server.port, '127.0.0.1');
    let text = '';
    socket.on('data', (chunk) => (text += chunk));
    socket.on('close', () => resolve(text));
    socket.on('error', () => resolve(text));
    socket.write(bytes);
  });
}

describe('who may ask', () => {
  it('is only who uses a name of this server', async () => {
    const get = (host: string, path = '/health') =>
      raw(`GET ${path} HTTP/1.1\r\nHost: ${host}\r\nConnection: close\r\n\r\n`);
    const port = here.server.port;
    for (const host of [
      `127.0.0.1:${port}`,
      `localhost:${port}`,
      `LOCALHOST:${port}`,
      `[::1]:${port}`,
      'model.example',
      `model.example:${port}`,
    ])
      expect(await get(host), host).toMatch(/^HTTP\/1\.1 200 /);
    for (const host of [
      'evil.example',
      `evil.example:${port}`,
      `127.0.0.1:${port + 1}`,
      `127.0.0.1.evil.example:${port}`,
      `x@127.0.0.1:${port}`,
      '',
      '169.254.169.254',
    ]) {
      const answer = await get(host, '/v1/models');
      expect(answer, host).toMatch(/^HTTP\/1\.1 421 /);
      expect(answer).toContain('"host_not_allowed"');
    }
    for (const head of ['GET /health HTTP/1.0', 'GET /health HTTP/1.1']) {
      const answer = await raw(`${head}\r\nConnection: close\r\n\r\n`);
      expect(answer, head).toMatch(/^HTTP\/1\.1 421 /);
      expect(answer, head).toContain('"host_not_allowed"');
    }
  });

  it('is only who has the key', async () => {
    for (const authorization of [
      '',
      'Bearer',
      'Bearer ',
      'Bearer wrong',
      `Bearer ${KEY} `.repeat(2),
      `Basic ${KEY}`,
      KEY,
    ]) {
      const answer = await ask({}, { authorization });
      expect([answer.status, answer.error.code], authorization).toEqual([401, 'invalid_api_key']);
      expect(answer.error.message).not.toContain(KEY);
    }
    for (const path of ['/metrics', '/v1/models', '/nothing']) {
      expect((await fetch(`${here.server.url}${path}`)).status).toBe(401);
      expect((await fetch(`${here.server.url}${path}`, { headers: AUTH })).status).toBe(
        path === '/nothing' ? 404 : 200,
      );
    }
    expect((await fetch(`${here.server.url}/health`)).status).toBe(200);
  });

  it('is no web page, but one that is allowed', async () => {
    for (const headers of [
      { origin: 'https://evil.example' },
      { origin: 'null' },
      { 'sec-fetch-site': 'cross-site' },
    ]) {
      const answer = await ask({}, headers as Record<string, string>);
      expect([answer.status, answer.error.code]).toEqual([403, 'origin_not_allowed']);
      expect(answer.headers.get('access-control-allow-origin')).toBe(null);
    }
    const page = { origin: 'https://page.example' };
    expect((await ask({}, page)).status).toBe(200);
    expect((await ask({}, page)).headers.get('access-control-allow-origin')).toBe('https://page.example');
    const preflight = await fetch(`${here.server.url}/v1/chat/completions`, {
      method: 'OPTIONS',
      headers: { ...page, 'access-control-request-headers': 'authorization,x-stainless-os' },
    });
    expect(preflight.status).toBe(204);
    expect(preflight.headers.get('access-control-allow-headers')).toBe('authorization,x-stainless-os');
    for (const type of [
      'text/plain',
      'application/x-www-form-urlencoded',
      'multipart/form-data; boundary=x',
      'application/jsonx',
      '',
    ])
      expect((await ask({}, { 'content-type': type })).status, type).toBe(415);
  });
});

describe('a body', () => {
  it('is JSON of at most 32 MiB', async () => {
    for (const body of ['', '{', '[1', 'null', '[]', '"text"', '1', '{"messages":}', '\u0000', '['.repeat(100_000)]) {
      const answer = await post('/v1/chat/completions', body);
      expect(answer.status, body.slice(0, 20)).toBe(400);
      expect(answer.error.type).toBe('invalid_request_error');
    }
    expect((await post('/v1/chat/completions', Buffer.from([0x22, 0xff, 0x22]))).error.message).toContain('UTF-8');
    const large = await post('/v1/chat/completions', JSON.stringify({ ...HI, user: 'x'.repeat(33 * 2 ** 20) }));
    expect([large.status, large.error.code]).toEqual([413, 'request_too_large']);
  });

  it('that is announced as too large is refused before it is sent', async () => {
    const head = `POST /v1/chat/completions HTTP/1.1\r\nHost: localhost:${here.server.port}\r\nAuthorization: Bearer ${KEY}\r\nContent-Type: application/json\r\nContent-Length: 99999999999\r\nConnection: close\r\n\r\n`;
    expect(await raw(head)).toContain('413');
  });

  it('of any depth, and with the name of no field, is refused: never a failure', async () => {
    const deep = (left: string, right: string): string => left.repeat(100_000) + right.repeat(100_000);
    for (const [field, value] of [
      ['modalities', deep('[', ']')],
      ['response_format', `${'{"a":'.repeat(100_000)}1${'}'.repeat(100_000)}`],
      ['user', deep('[', ']')],
      ['messages', deep('[', ']')],
    ]) {
      const answer = await post('/v1/chat/completions', JSON.stringify(HI).replace(/}$/, `,"${field}":${value}}`));
      expect([field, answer.status, answer.error.code]).toEqual([field, 400, 'invalid_json']);
    }
    for (const body of [
      '{"__proto__":{"n":2},"messages":[{"role":"user","content":"hi"}]}',
      '{"messages":[{"role":"user","content":"hi","__proto__":{}}]}',
      '{"messages":[{"role":"user","content":"hi"}],"logit_bias":{"__proto__":1}}',
    ]) {
      const { status, error } = await post('/v1/chat/completions', body);
      expect([status, error.param, error.code], body).toEqual([400, '__proto__', 'unknown_parameter']);
    }
    const text = await ask({ messages: [{ role: 'user', content: '"__proto__"' }], metadata: { a: { b: {} } } });
    expect(text.status).toBe(200);
  });

  it('of a client that goes away before its end is no mistake of the server', async () => {
    const head = `POST /v1/chat/completions HTTP/1.1\r\nHost: localhost:${here.server.port}\r\nAuthorization: Bearer ${KEY}\r\nContent-Type: application/json\r\nContent-Length: 400\r\n\r\n{"mess`;
    for (let i = 0; i < 3; i++) {
      await new Promise<void>((resolve) => {
        const socket = connect(here.server.port, '127.0.0.1', () => socket.write(head, () => socket.destroy()));
        socket.on('close', () => resolve());
      });
    }
    expect((await ask({})).status).toBe(200);
    expect(here.errors).toEqual([]);
  });

  it('that is not HTTP ends the connection', async () => {
    for (const bytes of ['\0\0\0\0\r\n\r\n', 'GET /\0 HTTP/1.1\r\nHost: localhost\r\n\r\n', 'hello\r\n\r\n'])
      expect(await raw(bytes)).toMatch(/^(HTTP\/1\.1 400|$)/);
    expect((await ask({})).status).toBe(200);
  });
});

/** A request's extra fields, and the parameter at fault; the code where it is a special one. */
const WRONG: readonly (readonly [object, string, string?])[] = [
  [{ messages: undefined }, 'messages', 'missing_required_parameter'],
  [{ messages: 'hi' }, 'messages'],
  [{ messages: [] }, 'messages'],
  [{ messages: [null] }, 'messages[0]'],
  [{ messages: [{}] }, 'messages[0].role', 'missing_required_parameter'],
  [{ messages: [{ role: 'root', content: '' }] }, 'messages[0].role'],
  [{ messages: [{ role: 'tool', content: '', tool_call_id: 'x' }] }, 'messages[0].tool_call_id', 'unknown_parameter'],
  [{ messages: [{ role: 'tool', content: '' }] }, 'messages[0].role', 'unsupported_parameter'],
  [{ messages: [{ role: 'user' }] }, 'messages[0].content', 'missing_required_parameter'],
  [{ messages: [{ role: 'user', content: 5 }] }, 'messages[0].content'],
  [{ messages: [{ role: 'user', content: {} }] }, 'messages[0].content'],
  [{ messages: [{ role: 'user', content: [] }] }, 'messages[0].content'],
  [{ messages: [{ role: 'user', content: [null] }] }, 'messages[0].content[0]'],
  [{ messages: [{ role: 'user', content: ['hi'] }] }, 'messages[0].content[0]'],
  [
    { messages: [{ role: 'user', content: [{ type: 'text' }] }] },
    'messages[0].content[0].text',
    'missing_required_parameter',
  ],
  [{ messages: [{ role: 'user', content: [{ type: 'text', text: 1 }] }] }, 'messages[0].content[0].text'],
  [
    { messages: [{ role: 'user', content: [{ type: 'text', text: '', size: 1 }] }] },
    'messages[0].content[0].size',
    'unknown_parameter',
  ],
  [
    { messages: [{ role: 'user', content: [{ type: 'input_audio' }] }] },
    'messages[0].content[0]',
    'unsupported_parameter',
  ],
  [{ messages: [{ role: 'user', content: [{ type: 'hologram' }] }] }, 'messages[0].content[0].type'],
  [
    { messages: [{ role: 'user', content: [{ type: 'image_url', image_url: 'a' }] }] },
    'messages[0].content[0].image_url',
  ],
  [
    { messages: [{ role: 'user', content: [{ type: 'image_url', image_url: { url: 1 } }] }] },
    'messages[0].content[0].image_url.url',
  ],
  [
    { messages: [{ role: 'user', content: [{ type: 'image_url', image_url: { url: 'x', detail: 'best' } }] }] },
    'messages[0].content[0].image_url.detail',
  ],
  [
    {
      messages: [
        { role: 'assistant', content: 'hi' },
        { role: 'user', content: 'hi' },
      ],
    },
    'messages[0]',
  ],
  [
    {
      messages: [
        { role: 'user', content: 'hi' },
        { role: 'system', content: 'be good' },
      ],
    },
    'messages[1].role',
  ],
  [
    {
      messages: [
        { role: 'user', content: 'hi' },
        { role: 'system', content: 'x' },
        { role: 'user', content: 'hi' },
      ],
    },
    'messages[1]',
  ],
  [
    {
      messages: [
        { role: 'user', content: 'hi' },
        { role: 'assistant', content: 'x', tool_calls: [{}] },
        { role: 'user', content: 'y' },
      ],
    },
    'messages[1].tool_calls',
    'unsupported_parameter',
  ],
  [
    {
      messages: [
        { role: 'system', content: [{ type: 'image_url', image_url: { url: 'x' } }] },
        { role: 'user', content: 'y' },
      ],
    },
    'messages[0].content[0]',
  ],
  [{ messages: [{ role: 'user', content: 'half \ud800 a character' }] }, 'messages[0]'],
  [{ messages: [{ role: 'user', content: 'long '.repeat(700) }] }, 'messages', 'context_length_exceeded'],
  [
    { messages: [{ role: 'user', content: 'long '.repeat(100) }], max_tokens: 99, n: 1, max_completion_tokens: 98 },
    'max_tokens',
  ],
  [{ model: 5 }, 'model'],
  [{ max_tokens: 0 }, 'max_tokens'],
  [{ max_tokens: 1.5 }, 'max_tokens'],
  [{ max_tokens: '5' }, 'max_tokens'],
  [{ max_tokens: 101 }, 'max_tokens'],
  [{ max_tokens: 1e9 }, 'max_tokens', 'context_length_exceeded'],
  [{ max_tokens: undefined, max_completion_tokens: 599 }, 'max_completion_tokens', 'context_length_exceeded'],
  [{ temperature: -1 }, 'temperature'],
  [{ temperature: 2.1 }, 'temperature'],
  [{ temperature: '0' }, 'temperature'],
  [{ top_p: 0 }, 'top_p'],
  [{ top_p: 1.1 }, 'top_p'],
  [{ top_k: -2 }, 'top_k'],
  [{ top_k: 0.5 }, 'top_k'],
  [{ min_p: 2 }, 'min_p'],
  [{ repetition_penalty: 0 }, 'repetition_penalty'],
  [{ frequency_penalty: 3 }, 'frequency_penalty'],
  [{ presence_penalty: [] }, 'presence_penalty'],
  [{ logit_bias: [] }, 'logit_bias'],
  [{ logit_bias: { a: 1 } }, 'logit_bias'],
  [{ logit_bias: { 5: 101 } }, 'logit_bias.5'],
  [{ logit_bias: { 99999999: 1 } }, 'logit_bias'],
  [{ seed: 'x' }, 'seed'],
  [{ seed: -1 }, 'seed'],
  [{ seed: 2 ** 60 }, 'seed'],
  [{ stop: 5 }, 'stop'],
  [{ stop: '' }, 'stop'],
  [{ stop: ['a', ''] }, 'stop[1]'],
  [{ stop: Array.from({ length: 17 }, (_, i) => `${i}`) }, 'stop'],
  [{ stop_token_ids: [-1] }, 'stop_token_ids[0]'],
  [{ stop_token_ids: [1, 99999999] }, 'stop_token_ids[1]'],
  [{ ignore_eos: 1 }, 'ignore_eos'],
  [{ n: 0 }, 'n'],
  [{ n: 9 }, 'n'],
  [{ logprobs: 5 }, 'logprobs'],
  [{ top_logprobs: 5 }, 'top_logprobs'],
  [{ logprobs: true, top_logprobs: 21 }, 'top_logprobs'],
  [{ stream: 'true' }, 'stream'],
  [{ stream_options: { include_usage: true } }, 'stream_options'],
  [{ stream: true, stream_options: { usage: true } }, 'stream_options.usage', 'unknown_parameter'],
  [{ stream: true, stream_options: 5 }, 'stream_options'],
  [{ mm_processor_kwargs: { max_slice_nums: 0 } }, 'mm_processor_kwargs.max_slice_nums'],
  [{ mm_processor_kwargs: { size: 1 } }, 'mm_processor_kwargs.size', 'unknown_parameter'],
  [{ tools: [{ type: 'function' }] }, 'tools', 'unsupported_parameter'],
  [{ tool_choice: 'auto' }, 'tool_choice', 'unsupported_parameter'],
  [{ functions: [{}] }, 'functions', 'unsupported_parameter'],
  [{ response_format: { type: 'json_object' } }, 'response_format', 'unsupported_parameter'],
  [{ modalities: ['text', 'audio'] }, 'modalities', 'unsupported_parameter'],
  [{ audio: { voice: 'x' } }, 'audio', 'unsupported_parameter'],
  [{ maxtokens: 5 }, 'maxtokens', 'unknown_parameter'],
  [{ temprature: 1 }, 'temprature', 'unknown_parameter'],
  [{ __proto__x: 1 }, '__proto__x', 'unknown_parameter'],
];

describe('a wrong field', () => {
  it.each(WRONG.map(([extra, param, code]) => ({ extra, param, code })))(
    '$extra is refused by name',
    async ({ extra, param, code }) => {
      const answer = await ask(extra);
      expect([answer.status, answer.error.param, answer.error.type]).toEqual([400, param, 'invalid_request_error']);
      expect(answer.error.code).toBe(code ?? 'invalid_value');
      expect(answer.headers.get('x-should-retry')).toBe('false');
      expect(answer.headers.get('content-type')).toBe('application/json');
      const streamed = await ask({
        ...extra,
        ...('stream' in extra || 'stream_options' in extra ? {} : { stream: true }),
      });
      expect([streamed.status, streamed.error.param]).toEqual([400, param]); // never a stream
    },
  );

  it('of any kind at any place is answered or refused, never a failure of the server', async () => {
    const content = [
      { type: 'text', text: 'What?' },
      { type: 'image_url', image_url: { url: picture, detail: 'low' } },
    ];
    const whole = {
      ...HI,
      messages: [
        { role: 'system', content: 'x' },
        { role: 'user', content },
      ],
      temperature: 1,
      stop: ['x'],
      logit_bias: { 5: 1 },
      stream: true,
      stream_options: { include_usage: true },
      logprobs: true,
      top_logprobs: 2,
      mm_processor_kwargs: { max_slice_nums: 1 },
    };
    const values = [
      null,
      true,
      0,
      -1,
      1e308,
      0.5,
      '',
      'x',
      '\u0000',
      '\ud800',
      [],
      {},
      [[]],
      [null],
      { a: 1 },
      { url: 1 },
      { type: 'text' },
    ];
    let state = 1;
    const random = (count: number): number => {
      state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
      return Math.floor((state / 2 ** 32) * count);
    };
    /** The value with one of its parts, at any depth, replaced, taken out or added. */
    const changed = (value: unknown): unknown => {
      const keys = typeof value === 'object' && value !== null ? Object.keys(value) : [];
      if (keys.length === 0 || random(6) === 0) return values[random(values.length)];
      const copy = structuredClone(value) as Record<string, unknown>;
      const key = keys[random(keys.length)]!;
      const what = random(10);
      if (what === 0) delete copy[key];
      else if (what === 1) copy[`${key}_`] = copy[key];
      else copy[key] = changed(copy[key]);
      return copy;
    };
    const statuses = new Map<number, number>();
    for (let i = 0; i < 400; i++) {
      const body = JSON.stringify(changed(whole));
      const headers = { ...AUTH, ...JSON_TYPE };
      const response = await fetch(`${here.server.url}/v1/chat/completions`, { method: 'POST', headers, body });
      const text = await response.text();
      expect([200, 400, 404], body.slice(0, 300)).toContain(response.status);
      expect(text).not.toContain('server_error');
      if (response.status !== 200) expect(JSON.parse(text).error.message).toMatch(/^[A-Z].*[.?]$|^Expected JSON/s);
      statuses.set(response.status, (statuses.get(response.status) ?? 0) + 1);
    }
    expect(statuses.get(200)).toBeGreaterThan(20);
    expect(statuses.get(400)).toBeGreaterThan(100);
  });

  it('names the field that was meant', async () => {
    expect((await ask({ temprature: 1 })).error.message).toBe(
      'Unknown parameter: "temprature". Did you mean temperature?',
    );
    const text = await ask({ messages: [{ role: 'user', content: 'x'.repeat(10_000_000) }] });
    expect(text.error.message).toContain('600 tokens, but the messages have 10000000 characters');
    const long = await ask({ max_tokens: 1e9 });
    expect(long.error.message).toContain('600');
    expect(long.error.message).toContain('1000000000');
  });

  it('is 404 for an unknown model, and an address that is none says what there is', async () => {
    const answer = await ask({ model: 'gpt-5' });
    expect([answer.status, answer.error.code, answer.error.param]).toEqual([404, 'model_not_found', 'model']);
    expect(answer.error.message).toContain('The model `gpt-5` does not exist.');
    for (const path of ['/v1/embeddings', '/v1/responses', '/v1/completions', '/v1/..%2f..%2fetc/passwd', '/'])
      expect((await post(path, {})).status).toBe(404);
    expect((await post('/v1/models', {})).status).toBe(405);
    expect((await post('/v1/models/tiny', {})).status).toBe(405);
    expect((await fetch(`${here.server.url}/v1/chat/completions`, { headers: AUTH })).status).toBe(405);
  });

  it('is fine where it means nothing', async () => {
    const fine = {
      tools: [],
      tool_choice: 'none',
      response_format: { type: 'text' },
      modalities: ['text'],
      user: 'x',
      store: false,
      seed: null,
      stop: null,
      logit_bias: null,
      top_k: -1,
      metadata: {},
    };
    expect((await ask(fine)).status).toBe(200);
    const sent = { role: 'assistant', content: 'x', refusal: null, annotations: [], tool_calls: [], audio: null };
    expect((await ask({ messages: [...HI.messages, sent, ...HI.messages] })).status).toBe(200);
    expect((await ask({ messages: [{ role: 'user', content: 'a\u0000b <image> <|im_end|> </s>' }] })).status).toBe(200);
  });
});

describe('a picture', () => {
  const look = (url: string): Promise<Answer> =>
    ask({
      messages: [
        {
          role: 'user',
          content: [
            { type: 'text', text: 'What?' },
            { type: 'image_url', image_url: { url } },
          ],
        },
      ],
    });
  const data = (bytes: Buffer | string, type = 'image/png'): string =>
    `data:${type};base64,${Buffer.from(bytes).toString('base64')}`;

  it('is named by message and part when it cannot be used', async () => {
    const bmp = Buffer.from(picture.split(',')[1]!, 'base64');
    const WRONG_PICTURES: [string, string][] = [
      [data('hello'), 'invalid_image'],
      [
        data('<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><image href="file:///etc/passwd"/></svg>'),
        'invalid_image',
      ],
      [data(bmp.subarray(0, 60)), 'invalid_image'],
      [data(Buffer.from('89504e470d0a1a0a0000000d49484452', 'hex')), 'invalid_image'],
      ['data:image/png;base64,', 'invalid_image'],
      ['data:image/png;base64,***', 'invalid_image'],
      ['data:text/html;base64,PGI+', 'invalid_value'],
      ['data:image/svg+xml;base64,PGI+', 'invalid_value'],
      ['picture.png', 'invalid_value'],
      ['/etc/passwd', 'invalid_value'],
      ['', 'invalid_value'],
      ['javascript:alert(1)', 'invalid_value'],
      ['ftp://example.com/a.png', 'invalid_value'],
      ['http://127.0.0.1:1/a.png', 'picture_not_allowed'],
      ['http://169.254.169.254/latest/meta-data', 'picture_not_allowed'],
      ['http://[::1]/a.png', 'picture_not_allowed'],
      [`http://user:word@${netHost}/a.bmp`, 'picture_not_allowed'],
      ['http://127.0.0.1.evil.example/a.bmp', 'picture_not_allowed'],
      ['https://example.com/a.png', 'picture_not_allowed'],
      ['file:///etc/passwd', 'picture_not_allowed'],
      [`file://${work}/media/../secret.bmp`, 'picture_not_allowed'],
      [`file://${work}/media/%2e%2e/secret.bmp`, 'picture_not_allowed'],
      [`file://${work}/media/..%2fsecret.bmp`, 'picture_not_allowed'],
      [`file://${work}/media/link.bmp`, 'picture_not_allowed'],
      [`file://${work}/media`, 'picture_not_allowed'],
      [`file://${work}/media/%00`, 'picture_not_allowed'],
      ['file://other.host/media/a.bmp', 'picture_not_allowed'],
      [`file://${work}/media/none.bmp`, 'picture_not_allowed'],
    ];
    const before = fetched;
    for (const [url, code] of WRONG_PICTURES) {
      const { status, error } = await look(url);
      expect([status, error.param, error.code], url.slice(0, 80)).toEqual([400, 'messages[0].content[1]', code]);
    }
    expect(fetched).toBe(before); // nothing was asked for
    for (const path of ['redirect', 'large', 'none'])
      expect((await look(`http://${netHost}/${path}`)).error, path).toMatchObject({
        param: 'messages[0].content[1]',
        code: 'invalid_image',
      });
  });

  it('of too many pixels, or too many of them, are refused', async () => {
    const bomb = Buffer.from(picture.split(',')[1]!, 'base64');
    bomb.writeInt32LE(60_000, 18);
    bomb.writeInt32LE(60_000, 22);
    const { status, error } = await look(data(bomb, 'image/bmp'));
    expect([status, error.param]).toEqual([400, 'messages[0].content[1]']);
    const content = Array.from({ length: 4 }, () => ({ type: 'image_url', image_url: { url: picture } }));
    const many = await ask({ messages: [{ role: 'user', content }] });
    expect([many.status, many.error.code, many.error.param]).toEqual([
      400,
      'too_many_images',
      'messages[0].content[3]',
    ]);
  });

  it('is read where it is allowed: what its bytes are counts, not what its address says', async () => {
    for (const url of [picture, picture.replace('bmp', 'png'), `http://${netHost}/a.bmp`, `file://${work}/media/a.bmp`])
      expect((await look(url)).status, url.slice(0, 60)).toBe(200);
  });
});

describe('an adapter', () => {
  const load = (lora_path: unknown, lora_name: unknown = 'x', extra = {}): Promise<Answer> =>
    post('/v1/load_lora_adapter', { lora_name, lora_path, ...extra });

  it('is loaded below the root only, and its name is free', async () => {
    for (const path of ['../outside', join(work, 'outside'), 'link', '/etc', '.', '', 'a\0b', 'none', '/', 5, null]) {
      const { status, error } = await load(path);
      expect([status, error.param], String(path)).toEqual([400, 'lora_path']);
      expect(error.message).not.toContain('manifest');
    }
    for (const name of ['', 5, undefined, 'x'.repeat(201), 'a b', 'a\n', '\u0085'])
      expect((await post('/v1/load_lora_adapter', { lora_name: name, lora_path: 'a' })).error.param).toBe('lora_name');
    expect((await load('a', 'tiny')).error).toMatchObject({ param: 'lora_name', code: 'adapter_exists' });
    expect((await load('a', 'tiny', { load_inplace: true })).error.code).toBe('adapter_exists');
    expect((await load('a', 'x')).status).toBe(200);
    expect((await load('a', 'x')).error).toMatchObject({ param: 'lora_name', code: 'adapter_exists' });
    expect((await load('a', 'x', { load_inplace: true })).status).toBe(200);
    const unload = (lora_name: unknown) => post('/v1/unload_lora_adapter', { lora_name });
    expect((await unload('tiny')).error.param).toBe('lora_name');
    expect((await unload('none')).status).toBe(404);
    expect((await unload('x')).status).toBe(200);
    expect((await ask({ model: 'x' })).status).toBe(404);
  });
});
