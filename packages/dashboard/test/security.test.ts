/** Requests of strangers: other sites, other names for this address, other users, and paths that lead out. */
import { mkdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type Answer, makeFolder, PageServer, type Sent } from './support/page-server.js';
import { writeRecordedRuns } from './support/recorded-runs.mjs';

const place = makeFolder('security');
const outside = makeFolder('elsewhere');
let page: PageServer;
let host: string;
let id: string;

beforeAll(async () => {
  await writeRecordedRuns(place.path);
  writeFileSync(join(outside.path, 'secret.png'), 'SECRET');
  page = await PageServer.start([place.path]);
  host = `127.0.0.1:${page.dashboard.port}`;
  id = await page.idOf('digits');
});
afterAll(async () => {
  await page.close();
  place.remove();
  outside.remove();
});

const JSON_TYPE = { 'content-type': 'application/json' };
const body = '{"archived":true}';

/** What is sent (for `token`: with it), and the status of the answer. */
const HOSTILE: readonly [string, string, Sent & { token?: boolean }, number][] = [
  ['another name for this address', '/', { headers: { host: 'evil.example' } }, 421],
  ['the right name with another port', '/', { headers: { host: '127.0.0.1:1' } }, 421],
  ['the name without the port', '/api/runs', { headers: { host: '127.0.0.1' }, token: true }, 421],
  ['another name, with the token', '/api/runs', { headers: { host: 'evil.example' }, token: true }, 421],
  ['a rebound name, on an unknown path', '/nothing', { headers: { host: 'rebound.example:8787' } }, 421],
  ['no token', '/api/runs', {}, 401],
  ['no token, on the stream', '/api/events', {}, 401],
  ['no token, on a picture', '/api/images/x', {}, 401],
  ['no token, on an unknown address', '/api/nothing', {}, 401],
  ['an empty token', '/api/runs', { headers: { authorization: 'Bearer ' } }, 401],
  ['a wrong token', '/api/runs', { headers: { authorization: `Bearer ${'A'.repeat(43)}` } }, 401],
  ['a wrong cookie', '/api/runs', { headers: { cookie: 'mcft-8787=x' } }, 401],
  ['the token in the address', '/api/runs?token=TOKEN', {}, 401],
  ['a read for another site', '/api/runs', { headers: { 'sec-fetch-site': 'cross-site' }, token: true }, 403],
  ['a read for another port', '/api/runs', { headers: { 'sec-fetch-site': 'same-site' }, token: true }, 403],
  [
    'a write of another site',
    '/api/runs/ID/archive',
    {
      method: 'POST',
      headers: { ...JSON_TYPE, origin: 'http://evil.example', 'sec-fetch-site': 'cross-site' },
      body,
      token: true,
    },
    403,
  ],
  [
    'a write with another origin only',
    '/api/runs/ID/archive',
    { method: 'POST', headers: { ...JSON_TYPE, origin: 'http://127.0.0.1:1' }, body, token: true },
    403,
  ],
  [
    'a write of no origin',
    '/api/runs/ID/archive',
    { method: 'POST', headers: { ...JSON_TYPE, origin: 'null' }, body, token: true },
    403,
  ],
  [
    'a write of another port',
    '/api/runs/ID/archive',
    { method: 'POST', headers: { ...JSON_TYPE, 'sec-fetch-site': 'same-site' }, body, token: true },
    403,
  ],
  [
    'a form',
    '/api/runs/ID/archive',
    { method: 'POST', headers: { 'content-type': 'application/x-www-form-urlencoded' }, body, token: true },
    415,
  ],
  [
    'a form of text',
    '/api/runs/ID/archive',
    { method: 'POST', headers: { 'content-type': 'text/plain' }, body, token: true },
    415,
  ],
  ['a write without a type', '/api/runs/ID/archive', { method: 'POST', body, token: true }, 415],
  ['another method', '/api/runs', { method: 'TRACE', token: true }, 405],
  ['OPTIONS of another site', '/api/runs', { method: 'OPTIONS', headers: { origin: 'http://evil.example' } }, 405],
  [
    'a body that is no JSON',
    '/api/runs/ID/archive',
    { method: 'POST', headers: JSON_TYPE, body: '{', token: true },
    400,
  ],
  [
    'a body of another form',
    '/api/runs/ID/archive',
    { method: 'POST', headers: JSON_TYPE, body: '{"a":1}', token: true },
    400,
  ],
  [
    '10 MB of JSON',
    '/api/runs/ID/ui',
    { method: 'PUT', headers: JSON_TYPE, body: `{"note":"${'x'.repeat(1e7)}"}`, token: true },
    413,
  ],
  [
    'a body without its length',
    '/api/runs/ID/ui',
    { method: 'PUT', headers: { ...JSON_TYPE, 'transfer-encoding': 'chunked' }, body: '{}', token: true },
    411,
  ],
  ['a path that leads up', '/api/runs/..%2f..%2fetc%2fpasswd', { token: true }, 404],
  ['a path that leads up, plainly', '/api/runs/../../../../etc/passwd', { token: true }, 404],
  ['a path of the page that leads up', '/..%2f..%2f..%2fpackage.json', {}, 404],
  ['a path of the page that leads up, plainly', '/../../package.json', {}, 404],
  ['a path with NUL', '/api/runs/x%00y', { token: true }, 404],
  ['a path that is no UTF-8', '/api/runs/%ff%fe', { token: true }, 404],
  ['a picture by its path', '/api/images/ID...%2f..%2fevents.jsonl', { token: true }, 404],
  ['a picture by its name', '/api/images/ID.1000-320.png', { token: true }, 404],
  ['answers by a path', '/api/runs/ID/answers/..%2f..', { token: true }, 404],
  ['a log by a path', '/api/log/..%2f..%2fetc', { token: true }, 404],
  ['a position that is none', '/api/events?after=%00', { token: true }, 400],
  ['a number that is none', '/api/runs/ID/series?points=1e99', { token: true }, 400],
  ['thousands of points', '/api/runs/ID/series?points=100000000', { token: true }, 400],
  ['a width that is none', '/api/images/ID.x?w=-1', { token: true }, 400],
];

async function send(path: string, { token, headers, ...sent }: Sent & { token?: boolean }): Promise<Answer> {
  const real = path.replace('ID', id).replace('TOKEN', page.dashboard.token);
  return await page.raw(real, { ...sent, headers: { host, ...(token ? page.bearer : {}), ...headers } });
}

describe('what strangers send', () => {
  it.each(HOSTILE)('%s is refused', async (_name, path, sent, status) => {
    const answer = await send(path, sent);
    expect(answer.status).toBe(status);
    expect(answer.text).not.toContain('SECRET');
    expect(answer.headers['content-security-policy']).toContain("default-src 'none'");
    expect(answer.headers['access-control-allow-origin']).toBeUndefined();
    expect(answer.json.error.message).toMatch(/^[A-Z].*\.$/s);
  });

  it('changed nothing', async () => {
    const { json } = await page.get(`/api/runs/${id}`);
    expect(json.summary.notes).toEqual({ tags: [], star: false, note: '', archived: false });
  });

  it('a request without a Host header is refused', async () => {
    const text = await new Promise<string>((resolve, reject) => {
      let answer = '';
      const socket = connect(page.dashboard.port, '127.0.0.1', () => socket.end('GET /api/runs HTTP/1.0\r\n\r\n'));
      socket.on('data', (part) => (answer += part));
      socket.on('error', reject);
      socket.on('close', () => resolve(answer));
    });
    expect(text).toMatch(/^HTTP\/1\.1 (400|421)/);
  });
});

describe('the page itself', () => {
  it('is told mistakes in its language', async () => {
    const [english, chinese] = await Promise.all(
      ['en', 'zh-CN'].map((language) => page.get('/api/runs/none', { 'accept-language': language })),
    );
    expect(english!.json.error).toMatchObject({ message: 'Expected a run but there is none of this handle.' });
    expect(chinese!.json.error).toEqual({
      message: '应有训练，但没有这个句柄。',
      field: null,
      cure: '请重新加载页面。',
    });
  });

  it('gets a cookie for the token, and may write with it', async () => {
    const { port, token, url } = page.dashboard;
    expect(url).toBe(`http://127.0.0.1:${port}/#token=${token}`);
    expect(Buffer.from(token, 'base64url')).toHaveLength(32);
    const own = { host, origin: `http://${host}`, 'sec-fetch-site': 'same-origin', ...JSON_TYPE };
    const wrong = await page.raw('/api/session', { method: 'POST', headers: own, body: '{"token":"x"}' });
    expect([wrong.status, wrong.headers['set-cookie']]).toEqual([401, undefined]);
    const session = await page.raw('/api/session', { method: 'POST', headers: own, body: JSON.stringify({ token }) });
    expect(session.status).toBe(200);
    const [set] = session.headers['set-cookie'] as string[];
    expect(set).toBe(`mcft-${port}=${token}; Path=/; HttpOnly; SameSite=Strict`);
    const cookie = set!.split(';')[0]!;
    expect((await page.raw('/api/runs', { headers: { host, cookie } })).status).toBe(200);
    const change = { method: 'PUT', headers: { ...own, cookie }, body: '{"tags":["a"],"star":true}' };
    expect((await page.raw(`/api/runs/${id}/ui`, change)).json.run.notes).toMatchObject({ tags: ['a'], star: true });
    expect(JSON.parse(readFileSync(join(place.path, 'digits', 'ui.json'), 'utf8'))).toEqual({
      tags: ['a'],
      star: true,
    });
    const { 'sec-fetch-site': _, ...onlyOrigin } = own;
    const again = { method: 'PUT', headers: { ...onlyOrigin, cookie }, body: '{"star":false}' };
    expect((await page.raw(`/api/runs/${id}/ui`, again)).status).toBe(200);
    const { origin: __, 'sec-fetch-site': ___, ...program } = own;
    expect((await page.raw(`/api/runs/${id}/ui`, { ...again, headers: { ...program, cookie } })).status).toBe(403);
  });

  it.each(['localhost', '127.0.0.1', '[::1]', 'LOCALHOST'])('is reached as %s', async (name) => {
    const answer = await page.raw('/api/session', {
      headers: { host: `${name}:${page.dashboard.port}`, ...page.bearer },
    });
    expect(answer.status).toBe(200);
  });

  it('is reached under names that are allowed, also through a proxy, and under no other', async () => {
    const other = await PageServer.start([place.path], { allowedHosts: ['proxy.example', 'tls.example:8443'] });
    const { port } = other.dashboard;
    const ask = async (name: string, origin?: string): Promise<number> => {
      const headers = { host: name, ...other.bearer, ...(origin === undefined ? {} : { origin, ...JSON_TYPE }) };
      const write = origin === undefined ? {} : { method: 'PUT', body: '{}' };
      return (await other.raw(origin === undefined ? '/api/session' : `/api/runs/${id}/ui`, { headers, ...write }))
        .status;
    };
    try {
      expect(await ask('proxy.example')).toBe(200);
      expect(await ask(`proxy.example:${port}`)).toBe(200);
      expect(await ask('tls.example:8443', 'https://tls.example:8443')).toBe(200);
      expect(await ask('tls.example')).toBe(421);
      expect(await ask('proxy.example:1')).toBe(421);
      expect(await ask('sub.proxy.example')).toBe(421);
      expect(await ask('proxy.example', 'https://evil.example')).toBe(403);
      expect(await ask('proxy.example', 'https://proxy.example.evil.example')).toBe(403);
    } finally {
      await other.close();
    }
  });

  it('has its headers on every answer', async () => {
    const { headers } = await page.get('/api/runs');
    expect(headers).toMatchObject({
      'content-security-policy':
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; font-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
      'x-content-type-options': 'nosniff',
      'referrer-policy': 'no-referrer',
      'cross-origin-resource-policy': 'same-origin',
      'cache-control': 'no-store',
    });
  });
});

describe('pictures', () => {
  const png = 'iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==';

  /** Adds a record with a picture of this name to the answers. */
  async function answered(step: number, name: string): Promise<(string | null)[]> {
    const folder = join(place.path, 'digits', 'eval', `step-${step}`);
    mkdirSync(folder, { recursive: true });
    writeFileSync(
      join(folder, 'answers.jsonl'),
      `${JSON.stringify({ record: step, question: '', answer: '', images: [name] })}\n`,
    );
    const { json } = await page.get(`/api/runs/${id}/answers`);
    return json.records.find((record: { record: number }) => record.record === step).images;
  }

  it('come as WebP in the width asked for, and are known again', async () => {
    const { json } = await page.get(`/api/runs/${id}/answers`);
    const [handle] = json.records[1].images;
    const answer = await page.get(`/api/images/${handle}?w=256`);
    expect(answer.status).toBe(200);
    expect(answer.headers['content-type']).toBe('image/webp');
    expect(answer.bytes.toString('latin1', 8, 12)).toBe('WEBP');
    expect(answer.bytes.readUInt16LE(26) & 0x3fff).toBe(256);
    const etag = answer.headers.etag as string;
    const again = await page.get(`/api/images/${handle}?w=256`, { 'if-none-match': etag });
    expect([again.status, again.bytes.length]).toEqual([304, 0]);
    expect((await page.get(`/api/images/${handle}?w=128`)).headers.etag).not.toBe(etag);
    const slices = await page.get(`/api/images/${handle}/slices`);
    expect(slices.json).toEqual({ width: 1200, height: 500, grid: { columns: 3, rows: 1 } });
  });

  it.each([
    ['an SVG', '<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'],
    ['HTML', '<!doctype html><script>alert(1)</script>'],
    ['a PDF', '%PDF-1.7 '],
    ['a damaged PNG', '\x89PNG\r\n\x1a\n and nothing more'],
    ['nothing', ''],
  ])('refuse %s under the name of a PNG', async (what, text) => {
    writeFileSync(join(place.path, 'digits', 'eval', 'images', 'x.png'), Buffer.from(text, 'latin1'));
    const [handle] = await answered(10_000, 'x.png');
    const answer = await page.get(`/api/images/${handle}`);
    expect([what, answer.status, answer.headers['content-type']]).toEqual([what, 415, 'application/json']);
  });

  it('are not followed out of the run', async () => {
    const images = join(place.path, 'digits', 'eval', 'images');
    symlinkSync(join(outside.path, 'secret.png'), join(images, 'link.png'));
    expect(await answered(10_001, 'link.png')).toEqual([null]);
    expect(await answered(10_002, '../../../../../etc/passwd')).toEqual([null]);
    expect(await answered(10_003, join(outside.path, 'secret.png'))).toEqual([null]);
  });

  it('are not followed out of the run through a folder', async () => {
    const { path, remove } = makeFolder('linked');
    try {
      const run = join(path, 'run');
      mkdirSync(join(run, 'eval', 'step-1'), { recursive: true });
      writeFileSync(join(run, 'events.jsonl'), '{"event":"run_start","time":"2025-01-01T00:00:00.000Z"}\n');
      writeFileSync(join(run, 'eval', 'step-1', 'answers.jsonl'), '{"record":1,"question":"","images":["a.png"]}\n');
      writeFileSync(join(outside.path, 'a.png'), Buffer.from(png, 'base64'));
      symlinkSync(outside.path, join(run, 'eval', 'images'));
      const other = await PageServer.start([path]);
      const runId = await other.idOf('run');
      const { json } = await other.get(`/api/runs/${runId}/answers`);
      const [handle] = json.records[0].images;
      expect(handle === null || (await other.get(`/api/images/${handle}`)).status === 404).toBe(true);
      await other.close();
    } finally {
      remove();
    }
  });
});
