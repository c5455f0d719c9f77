/** The routes of the screen Data, with the real command line behind them, and requests that mean no good. */
import { mkdirSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import sharp from 'sharp';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { MODEL, makeData } from '../../../finetune/test/support/made-data.js';
import { COMMAND_LINE } from '../support/command-line.js';
import { makeFolder, PageServer, until } from '../support/page-server.js';

const folder = makeFolder('data');
const RECORDS = 40;
let server: PageServer;
let data: string;
let file: string;
beforeAll(async () => {
  mkdirSync(join(folder.path, 'runs'));
  const ask = (question: string, answer: string) => [
    { role: 'user', content: question },
    { role: 'assistant', content: answer },
  ];
  const made = await makeData(
    RECORDS,
    new Map<number, Record<string, unknown>>([
      [3, { image: 'images/gone.jpg', conversations: ask('<image>\nQ', 'A') }],
      [5, { image: 'images/1.jpg', conversations: ask('<image>\nQ', ' ') }],
      [7, { conversations: ask('<b onclick=alert(1)>Say</b> &amp; "words"', 'word '.repeat(300)) }],
    ]),
  );
  file = made.file;
  server = await PageServer.start([join(folder.path, 'runs')], { commandLine: COMMAND_LINE, cwd: made.folder });
  const { status, json } = await open(['data.jsonl']);
  expect({ status, json }).toMatchObject({ status: 200, json: { records: RECORDS, modelMaxLength: 256 } });
  data = json.data;
});
afterAll(async () => {
  await server.close();
  folder.remove();
});

const open = (files: readonly string[], more: object = {}) =>
  server.post('/api/data/open', {
    files,
    model: MODEL,
    settings: { model_max_length: 256, scale_resolution: 56 },
    ...more,
  });

async function report(lang = 'en') {
  return await until(async () => {
    const { json } = await server.get(`/api/data/${data}/report`, { 'accept-language': lang });
    return json.state === 'running' ? undefined : json.report;
  }, 'the report');
}

describe('the report', () => {
  it('has errors with cures and places, lengths, slices, the supervised share', async () => {
    const checked = await report();
    expect(checked.findings.map(({ level, record }: { level: string; record: number }) => [level, record])).toEqual([
      ['error', 3],
      ['warning', 5],
      ['warning', 7],
    ]);
    expect(checked.findings[0]).toMatchObject({
      place: 'data.jsonl:4, record 3',
      cure: expect.stringMatching(/image paths/),
    });
    expect(checked.lengths).toHaveLength(RECORDS);
    expect(checked.lengths[3]).toBeNull();
    expect(checked.supervisedShare).toBeGreaterThan(0);
    const images = checked.slicesPerImage.reduce((sum: number, one: { images: number }) => sum + one.images, 0);
    expect(images).toBe(checked.images);
  });

  it('speaks Chinese', async () => {
    expect((await report('zh')).findings[0].message).toMatch(/[\u4e00-\u9fff]/);
  });
});

describe('records', () => {
  const page = async (query: string) => (await server.get(`/api/data/${data}/records?${query}`)).json;

  it('are listed in pages and by filters', async () => {
    await report();
    const numbers = async (query: string) => {
      const { total, records } = await page(query);
      return [total, records.map(({ record }: { record: number }) => record)];
    };
    expect(await numbers('from=38&count=5')).toEqual([RECORDS, [38, 39]]);
    expect(await numbers('filter=error')).toEqual([1, [3]]);
    expect(await numbers('filter=warning')).toEqual([2, [5, 7]]);
    expect(await numbers('filter=long')).toEqual([1, [7]]);
    expect(await numbers('filter=text_only')).toEqual([5, [7, 9, 19, 29, 39]]);
    const long = await page('filter=long&model_max_length=20&count=200');
    expect(long.total).toBe(RECORDS - 1);
    expect((await page('from=3&count=1')).records[0]).toMatchObject({
      errors: 1,
      tokens: null,
      error: expect.any(String),
    });
  });

  it('are shown token by token in both encodings; a limit cuts', async () => {
    const { json } = await server.get(`/api/data/${data}/records/7`);
    expect(json.encodings.map(({ compat }: { compat: string }) => compat)).toEqual(['inference', 'official']);
    const [{ length, cut, notices, error }] = json.encodings;
    expect({ length, error, notices }).toMatchObject({ length: 256, error: null, notices: [expect.any(String)] });
    const whole = (await server.get(`/api/data/${data}/records/7?model_max_length=5000`)).json.encodings[0];
    expect([whole.cut, whole.length]).toEqual([0, 256 + cut]);
    expect(json.findings).toMatchObject([{ level: 'warning', record: 7 }]);
    const none = (await server.get(`/api/data/${data}/records/7?model_max_length=30`)).json.encodings[0];
    expect(none).toMatchObject({ length: 0, cut: whole.length, error: { field: 'model_max_length' } });
  });

  it('have pictures made anew: those of the file and those that the model sees', async () => {
    const image = await server.get(`/api/data/${data}/records/0/images/0?w=32`);
    expect(image.headers).toMatchObject({ 'content-type': 'image/webp', 'x-content-type-options': 'nosniff' });
    expect((await sharp(image.bytes).metadata()).width).toBeLessThanOrEqual(32);
    const picture = await server.get(`/api/data/${data}/records/0/pictures/0`);
    expect((await sharp(picture.bytes).metadata()).format).toBe('webp');
    expect((await server.get(`/api/data/${data}/records/0/pictures/99`)).status).toBe(422);
    expect((await server.get(`/api/data/${data}/records/3/images/0`)).status).toBe(422);
  });
});

describe('opening', () => {
  it('refuses in the words of the command line, with the field', async () => {
    const gone = await open(['gone.json']);
    expect(gone.status).toBe(422);
    expect(gone.json.error).toMatchObject({ field: 'data_path', message: expect.stringContaining('gone.json') });
    const model = await server.post('/api/data/open', { files: [file], model: join(folder.path, 'runs') }, 'POST', {
      'accept-language': 'zh-CN',
    });
    expect(model.status).toBe(422);
    expect(model.json.error.message).toMatch(/[\u4e00-\u9fff]/);
  });

  it.each([
    [{ files: [], model: 'm' }],
    [{ files: ['a\0b'], model: 'm' }],
    [{ files: ['a'] }],
    [{ files: ['a'], model: 'm', settings: { recipe: 'x' } }],
    [{ files: ['a'], model: 'm', settings: { model_max_length: -1 } }],
    [{ files: 'a', model: 'm' }],
    [{ files: Array.from({ length: 65 }, () => 'a'), model: 'm' }],
    [{ files: ['a'], model: 'm', more: 1 }],
  ])('refuses %j with 400 before a process starts', async (body) => {
    expect((await server.post('/api/data/open', body)).status).toBe(400);
  });

  it('takes a path that looks like a flag as a path', async () => {
    const { status, json } = await open(['--help']);
    expect([status, json.error.field]).toEqual([422, 'data_path']);
  });

  it('does not follow a picture to what is none', async () => {
    const turns = [
      { role: 'user', content: '<image>\nQ' },
      { role: 'assistant', content: 'A' },
    ];
    symlinkSync('/etc/passwd', join(folder.path, 'picture.png'));
    writeFileSync(
      join(folder.path, 'linked.jsonl'),
      `${JSON.stringify({ image: 'picture.png', conversations: turns })}\n`,
    );
    const opened = (await open([join(folder.path, 'linked.jsonl')])).json;
    const { status, headers, text } = await server.get(`/api/data/${opened.data}/records/0/images/0`);
    expect([status, headers['content-type']]).toEqual([422, 'application/json']);
    expect(text).toMatch(/Expected a picture .* but received text/);
    expect(text.length).toBeLessThan(500);
    await server.post(`/api/data/${opened.data}/close`);
    expect((await server.get(`/api/data/${opened.data}/report`)).status).toBe(404);
  });
});

describe('hostile addresses', () => {
  it.each([
    ['/api/data/nothing/report', 404],
    ['/api/data/..%2f..%2fetc/report', 404],
    ['/api/data/DATA/records/..%2f0', 404],
    ['/api/data/DATA/records/-1', 404],
    ['/api/data/DATA/records/99999999999999999999', 404],
    ['/api/data/DATA/records/1e3', 404],
    ['/api/data/DATA/records/40', 422],
    ['/api/data/DATA/records/0/images/%00', 404],
    ['/api/data/DATA/records/0/images/0?w=0', 400],
    ['/api/data/DATA/records/0/images/0?w=99999', 400],
    ['/api/data/DATA/records?count=201', 400],
    ['/api/data/DATA/records?filter=constructor', 400],
    ['/api/data/DATA/records?from=-1', 400],
    ['/api/data/DATA/records/0?overlong=remove', 400],
  ])('%s is answered %i', async (path, status) => {
    expect((await server.get(path.replace('DATA', data))).status).toBe(status);
  });

  it('need the token', async () => {
    expect((await server.raw(`/api/data/${data}/report`)).status).toBe(401);
    expect((await server.raw('/api/data')).status).toBe(401);
  });
});
