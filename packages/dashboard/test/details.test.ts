/** One run over HTTP: its settings, its answers over the steps, its recipe, its notes. */
import { execFileSync } from 'node:child_process';
import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { gunzipSync } from 'node:zlib';
import { thisProcess } from '@minicpm-finetune/run';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { writeLaunch } from '../src/server/process/launch-record.js';
import { configEntries } from '../src/server/runs/config-entries.js';
import { makeFolder, PageServer, until } from './support/page-server.js';
import { RecordedRun, writeRecordedRuns } from './support/recorded-runs.mjs';

const place = makeFolder('details');
let page: PageServer;
let id: string;

beforeAll(async () => {
  await writeRecordedRuns(place.path);
  page = await PageServer.start([place.path]);
  id = await page.idOf('digits');
});
afterAll(async () => {
  await page.close();
  place.remove();
});

it('shows the settings of this run, changed ones marked, in groups with their help', async () => {
  const { json } = await page.get(`/api/runs/${id}`);
  const rate = json.config.find(({ name }: { name: string }) => name === 'learning_rate');
  expect(rate).toMatchObject({ group: 'optimizer', kind: 'number', changed: false, value: rate.default });
  const steps = json.config.find(({ name }: { name: string }) => name === 'max_steps');
  expect(steps).toMatchObject({ changed: true, value: 240, default: -1, heading: { zh: expect.any(String) } });
  expect(steps.help.en).toMatch(/\.$/);
  expect(json.command).toContain('--max_steps=240');
  expect(json.memoryPlan.by.weights).toBeGreaterThan(0);
  expect(json.lastStep.step).toBe(240);
  expect(json.end.status).toBe('finished');
  expect(json.warnings[0].kind).toBe('bad_record');
  expect(json.answerSteps).toEqual([60, 120, 180, 240]);
  expect(json.metrics).toContainEqual({ name: 'eval_anls', source: 'eval', points: 4 });
  expect(json.actions).toMatchObject({
    stop: false,
    save: false,
    end: false,
    resume: false,
    delete: true,
    duplicate: true,
  });
});

it('shows groups that this version does not know as they stand', async () => {
  const { json } = await page.get(`/api/runs/${await page.idOf('preference')}`);
  const warp = json.config.find(({ name }: { name: string }) => name === 'warp');
  expect(warp).toEqual({
    name: 'warp',
    group: 'later',
    heading: { en: 'later', zh: 'later' },
    help: null,
    kind: null,
    value: 9,
    changed: true,
  });
  expect(json.command).not.toContain('--warp');
  expect(json.command).toContain('--beta');
});

it('shows the answers of every step, with the records once', async () => {
  const { json: index } = await page.get(`/api/runs/${id}/answers`);
  expect(index.steps.map(({ step }: { step: number }) => step)).toEqual([60, 120, 180, 240]);
  expect(index.steps[0]).toMatchObject({ epoch: 0.8, metrics: { exact_match: 0.5 } });
  expect(index.records).toHaveLength(4);
  expect(index.records[0]).toMatchObject({
    record: 0,
    id: 'record-0',
    question: 'What is the total?',
    reference: '42.50',
  });
  expect(index.records[2].images).toHaveLength(2);
  const { json: first } = await page.get(`/api/runs/${id}/answers/60`);
  const { json: last } = await page.get(`/api/runs/${id}/answers/240`);
  const correct = (answers: { metrics: { exact_match: number } }[]): number =>
    answers.reduce((sum, { metrics }) => sum + metrics.exact_match, 0);
  expect([correct(first.answers), correct(last.answers)]).toEqual([2, 4]);
  expect(first.answers[1]).toMatchObject({ record: 10, answer: '1', tokens: 1, end: 'length' });
  expect((await page.get(`/api/runs/${id}/answers/61`)).status).toBe(404);
});

it('names damaged lines of answers', async () => {
  const file = join(place.path, 'digits', 'eval', 'step-60', 'answers.jsonl');
  const text = readFileSync(file, 'utf8');
  writeFileSync(file, `damaged\n${text}`);
  const { json } = await page.get(`/api/runs/${id}/answers/60`);
  expect([json.damaged, json.answers.length]).toEqual([[1], 4]);
});

it('does not take for a setting what follows from others', async () => {
  const { json } = await page.get(`/api/runs/${id}`);
  const entry = (name: string): object => json.config.find((one: { name: string }) => one.name === name);
  expect(entry('data_seed')).toMatchObject({ value: 42, default: 42, changed: false });
  expect(entry('tune_llm')).toMatchObject({ value: true, default: true, changed: false });
  expect(entry('offload_optimizer')).toMatchObject({ value: 'none', default: 'none', changed: false });
  const { values } = (await page.get(`/api/runs/${id}/recipe`)).json;
  for (const name of ['data_seed', 'tune_llm', 'offload_optimizer', 'do_eval']) expect(values).not.toHaveProperty(name);
});

it('takes any name for a flag that this version does not know', () => {
  const flags = JSON.parse('{"__proto__": 1, "constructor": 2, "toString": null}') as Record<string, unknown>;
  for (const preference of [null, 'dpo']) {
    const entries = configEntries({ odd: flags, preference: { preference } } as object);
    const changed = entries.filter((one) => one.group === 'odd' && one.changed).map(({ name, value }) => [name, value]);
    expect(changed).toEqual([
      ['__proto__', 1],
      ['constructor', 2],
    ]);
  }
});

it('of a stopped run that starts again: it is not stopping, and no time is left of before', async () => {
  const folder = join(place.path, 'again');
  new RecordedRun(folder).start({ totalSteps: 40 }).steps(20).checkpoint().stop().end('stopped');
  const { pid, start: processStart, host: hostname } = thisProcess();
  writeLaunch(folder, { time: new Date().toISOString(), words: ['train'], cwd: '/', pid, processStart, hostname });
  const again = await until(() => page.idOf('again').catch(() => undefined), 'the run is found');
  const { json } = await page.get(`/api/runs/${again}`);
  expect([json.summary.state, json.stopping, json.summary.etaSeconds]).toEqual(['starting', false, null]);
  rmSync(folder, { recursive: true });
});

it('gives the settings again as recipe, command and values of a form', async () => {
  const { json } = await page.get(`/api/runs/${id}/recipe`);
  expect(json.yaml).toContain('schedule:\n  num_train_epochs: 3\n  max_steps: 240\n');
  expect(json.values).toMatchObject({ max_steps: 240, eval_generate: 4 });
  expect(json.values.output_dir).toBeUndefined();
});

it('keeps what else is in ui.json', async () => {
  const file = join(place.path, 'digits', 'ui.json');
  writeFileSync(file, '{"of_a_later_version":[1],"star":"yes","note":"old"}');
  expect((await page.post(`/api/runs/${id}/ui`, { tags: ['good', '数字'] }, 'PUT')).json.run.notes).toEqual({
    tags: ['good', '数字'],
    star: false,
    note: 'old',
    archived: false,
  });
  await page.post(`/api/runs/${id}/archive`, { archived: true });
  const saved = JSON.parse(readFileSync(file, 'utf8'));
  expect(saved).toMatchObject({ of_a_later_version: [1], tags: ['good', '数字'], archived: true });
  expect((await page.post(`/api/runs/${id}/ui`, { note: 1 }, 'PUT')).json.error.field).toBe('note');
});

it('says what the run recorded in the language of the page', async () => {
  const zh = { 'accept-language': 'zh-CN' };
  const { json } = await page.get(`/api/runs/${id}`, zh);
  const { json: english } = await page.get(`/api/runs/${id}`);
  expect(json.start.derived).toHaveLength(english.start.derived.length);
  expect(english.start.derived.join()).not.toMatch(/[\u4e00-\u9fff]/);
  for (const one of json.start.derived) expect(one).toMatch(/[\u4e00-\u9fff]/);
  const invoices = await page.idOf('invoices');
  const kept = (await page.get(`/api/runs/${invoices}/checkpoints`, zh)).json.checkpoints
    .map((one: { kept: string | null }) => one.kept)
    .filter(Boolean);
  for (const one of kept) expect(one).toMatch(/[\u4e00-\u9fff]/);
  expect((await page.get(`/api/runs/${await page.idOf('killed')}/checkpoints`, zh)).json.checkpoints[0].kept).toBe(
    '它是可以恢复该训练的最后一个检查点。',
  );
});

it('does not wait for pipes that somebody put in the place of its files', async () => {
  const folder = join(place.path, 'pipes');
  const checkpoint = join(folder, 'checkpoint-5');
  mkdirSync(checkpoint, { recursive: true });
  writeFileSync(join(folder, 'events.jsonl'), '{"event":"run_start","total_steps":5}\n');
  const names = ['ui.json', 'ui_launch.json', 'run.json', 'run.lock', 'checkpoint-5/manifest.json'];
  execFileSync(
    'mkfifo',
    [...names, 'checkpoint-5/trainer_state.json'].map((name) => join(folder, name)),
  );
  const pipes = await until(async () => await page.idOf('pipes').catch(() => undefined), 'the run');
  expect((await page.get(`/api/runs/${pipes}`)).json.summary.totalSteps).toBe(5);
  const { checkpoints } = (await page.get(`/api/runs/${pipes}/checkpoints`)).json;
  expect(checkpoints).toMatchObject([
    { step: 5, complete: false, problems: ['manifest.json cannot be read: it is no file'] },
  ]);
  expect((await page.post('/api/chat', { source: { run: pipes, step: 'base' } })).status).toBe(409);
  rmSync(folder, { recursive: true });
});

it('is sent small', async () => {
  const answer = await page.get(`/api/runs/${id}`, { 'accept-encoding': 'gzip' });
  expect(answer.headers['content-encoding']).toBe('gzip');
  expect(JSON.parse(gunzipSync(answer.bytes).toString()).summary.id).toBe(id);
});
