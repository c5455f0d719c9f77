/** A newcomer's path over the page's endpoints: a run is started, watched, stopped and resumed, then asked beside its base. */
import { existsSync, mkdirSync, readFileSync, realpathSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { makePlace, type Place } from '../../../finetune/test/support/run-place.js';
import { COMMAND_LINE } from '../support/command-line.js';
import { type Answer, PageServer, until } from '../support/page-server.js';

let place: Place;
let server: PageServer;
let run: string;
beforeAll(async () => {
  place = makePlace(16);
  writeFileSync(join(place.folder, 'empty.txt'), '');
  const records = JSON.parse(readFileSync(place.data, 'utf8')) as unknown[];
  writeFileSync(join(place.folder, 'few.json'), JSON.stringify(records.slice(0, 2)));
  server = await PageServer.start([place.folder], { commandLine: COMMAND_LINE, cwd: place.folder });
});
afterAll(async () => {
  await server.close();
});

const VALUES = {
  model_name_or_path: 'model',
  data_path: ['data.json'],
  output_dir: 'runs/first',
  use_lora: 'true',
  tune_vision: 'false',
  learning_rate: '1e-2',
  model_max_length: '256',
  per_device_train_batch_size: '2',
  max_steps: '120',
  save_steps: '60',
  logging_steps: '1',
  threads: '1',
};

const summary = async () => (await server.get(`/api/runs/${run}`)).json?.summary;
const stateIs = (...states: readonly string[]) =>
  until(async () => {
    const now = await summary();
    return states.includes(now?.state) ? now : undefined;
  }, `state ${states}`);

async function loaded(source: object): Promise<{ id: string; server: { pid: number } }> {
  const { status, json } = await server.post('/api/chat', { source });
  expect({ status, json }).toMatchObject({ status: 200 });
  return await until(async () => {
    const { models } = (await server.get('/api/chat')).json;
    const found = models.find(({ id }: { id: string }) => id === json.id);
    if (found.state === 'ended') throw new Error(found.error);
    return found.state === 'ready' ? found : undefined;
  }, 'the model');
}

const question = [{ role: 'user', content: [{ type: 'text', text: 'What is this?' }] }];
const ask = (id: string, body: object = {}): Promise<Answer> =>
  server.post(`/api/chat/${id}/v1/chat/completions`, {
    messages: question,
    max_completion_tokens: 8,
    temperature: 0,
    ...body,
  });

describe('a newcomer', () => {
  it('starts a run and sees its steps', async () => {
    const bad = await server.post('/api/runs', { values: { ...VALUES, lora_r: 'x' } });
    expect([bad.status, bad.json.error.field]).toEqual([400, 'lora_r']);
    const started = await server.post('/api/runs', { values: VALUES });
    expect({ status: started.status, json: started.json }).toMatchObject({ status: 200 });
    run = started.json.run;
    const now = await until(async () => {
      const one = await summary();
      if (one?.state === 'failed') throw new Error(one.error);
      return one?.step >= 2 ? one : undefined;
    }, 'two steps');
    expect(now).toMatchObject({ state: 'running', method: { kind: 'lora' }, model: 'model' });
    const { json } = await server.get('/api/machine');
    expect(json.processes).toContainEqual(expect.objectContaining({ kind: 'run', id: run, rss: expect.any(Number) }));
  });

  it('stops it with what it learned, and resumes it to its end', async () => {
    expect((await server.post(`/api/runs/${run}/stop`)).status).toBe(200);
    const stopped = await stateIs('stopped');
    expect(stopped.resumableStep).toBe(stopped.step);
    const resumed = await server.post(`/api/runs/${run}/resume`);
    expect({ status: resumed.status, json: resumed.json }).toMatchObject({ status: 200 });
    const finished = await stateIs('finished', 'failed', 'killed');
    expect(finished).toMatchObject({ state: 'finished', step: 120, starts: 2, error: null });
  });

  it('asks base, checkpoint and result in one process: the base as it was, the others as they learned', async () => {
    const [base, early, result] = [
      await loaded({ run, step: 'base' }),
      await loaded({ run, step: 60 }),
      await loaded({ run, step: null }),
    ];
    expect(new Set([base, early, result].map((one) => one.server.pid)).size).toBe(1);
    const texts = await Promise.all(
      [base, early, result].map(async ({ id }) => {
        const { status, json } = await ask(id);
        expect(status).toBe(200);
        expect(json.usage.prompt_tokens).toBeGreaterThan(10);
        return json.choices[0].message.content;
      }),
    );
    expect(texts[0]).not.toBe(texts[2]);
    expect((await ask(base.id)).json.choices[0].message.content).toBe(texts[0]);
    const again = await loaded({ run, step: null });
    expect(again.id).toBe(result.id);
  });

  it('gets a stream as it is written, and refusals with their place', async () => {
    const { id } = await loaded({ run, step: null });
    const streamed = await ask(id, { stream: true, stream_options: { include_usage: true } });
    expect(streamed.headers['content-type']).toMatch(/^text\/event-stream/);
    const chunks = streamed.text.split('\n\n').filter((line) => line.startsWith('data: {'));
    const text = chunks.map((line) => JSON.parse(line.slice(6)).choices[0]?.delta.content ?? '').join('');
    expect(text).toBe((await ask(id)).json.choices[0].message.content);
    expect(streamed.text.trimEnd().endsWith('data: [DONE]')).toBe(true);
    const refused = await ask(id, { messages: [{ role: 'user', content: [{ type: 'picture' }] }] });
    expect(refused.status).toBe(400);
    expect(refused.json.error.param).toMatch(/^messages/);
    expect((await ask('nothing')).status).toBe(404);
    expect((await server.post(`/api/chat/${id}/v1/chat/completions`, [])).status).toBe(400);
  });

  it('evaluates a checkpoint and exports the result, below the folders of runs only', async () => {
    const start = (body: object) => server.post(`/api/runs/${run}/jobs`, body);
    const done = async (id: string) =>
      await until(async () => {
        const { jobs } = (await server.get(`/api/runs/${run}/jobs`)).json;
        const job = jobs.find((one: { id: string }) => one.id === id);
        return job.state === 'running' ? undefined : job;
      }, 'the end of the command');
    const answers = join(place.folder, 'runs', 'answers of 60.jsonl');
    const evaluation = await start({ kind: 'evaluate', step: 60, output: answers, data_path: ['few.json'] });
    expect(evaluation).toMatchObject({ status: 200, json: { state: 'running', step: 60 } });
    expect(evaluation.json.command).toContain(`'--output=${answers}'`);
    expect((await start({ kind: 'merge', step: null, output: answers })).status).toBe(409);
    expect(await done(evaluation.json.id)).toMatchObject({
      state: 'done',
      said: expect.stringMatching(/equal the ref/),
    });
    expect(readFileSync(answers, 'utf8').trimEnd().split('\n')).toHaveLength(2);

    const merged = await start({ kind: 'merge', step: null, output: 'runs/merged' });
    expect(await done(merged.json.id)).toMatchObject({ state: 'done', error: null });
    expect(existsSync(join(place.folder, 'runs/merged/model.safetensors'))).toBe(true);
    const again = await start({ kind: 'merge', step: null, output: 'runs/merged' });
    expect(await done(again.json.id)).toMatchObject({
      state: 'failed',
      error: { message: expect.stringMatching(/merged/) },
    });

    const refused = await start({ kind: 'merge', step: null, output: '../elsewhere' });
    expect([refused.status, refused.json.error.field]).toEqual([400, 'output_dir']);
    const without = await start({ kind: 'evaluate', step: null, output: 'runs/x.jsonl' });
    expect([without.status, without.json.error.field]).toEqual([400, 'data_path']);
    const idle = await start({ kind: 'merge', step: null, output: 'runs/x', data_path: ['data.json'] });
    expect([idle.status, idle.json.error.message]).toEqual([400, expect.stringContaining('data_path')]);
    expect((await start({ kind: 'shell', step: null, output: 'runs/x' })).status).toBe(400);
    const wrong = await start({ kind: 'merge', step: null, output: '' });
    expect(wrong.json.error).toEqual({
      message: 'Expected a text for output but received "".',
      field: 'output',
      cure: null,
    });
    const unknown = await start({ kind: 'merge', step: null, output: 'runs/x', force: true });
    expect(unknown.json.error.message).toBe('Expected a field of the request but received "force".');
    expect((await start({ kind: 'merge', step: 99_999, output: 'runs/x' })).status).toBe(404);
    expect((await server.post('/api/jobs/nothing/stop')).status).toBe(404);
  });

  it('stops a command that it started', async () => {
    const body = { kind: 'evaluate', step: null, output: 'runs/stopped.jsonl', data_path: ['data.json'] };
    const { json } = await server.post(`/api/runs/${run}/jobs`, body);
    expect((await server.post(`/api/jobs/${json.id}/stop`)).json.state).toBe('stopped');
    const { jobs } = (await server.get(`/api/runs/${run}/jobs`)).json;
    expect(jobs[0]).toMatchObject({ id: json.id, state: 'stopped', error: null });
  });

  it('keeps page and runs when the process of a model is killed, and is told why', async () => {
    const { id, server: serving } = await loaded({ run, step: null });
    process.kill(serving.pid, 'SIGKILL');
    const ended = await until(async () => {
      const { models } = (await server.get('/api/chat')).json;
      const found = models.find((one: { id: string }) => one.id === id);
      return found.state === 'ended' ? found : undefined;
    }, 'the end');
    expect(ended.error).toMatch(/SIGKILL.*memory/);
    const { status, json } = await ask(id);
    expect([status, json.error.message]).toEqual([503, ended.error]);
    expect((await summary()).state).toBe('finished');
    const again = await loaded({ run, step: null });
    expect(again.id).not.toBe(id);
    expect((await ask(again.id)).status).toBe(200);
    for (const { id: each } of (await server.get('/api/chat')).json.models)
      await server.post(`/api/chat/${each}/close`);
    await until(() => (isThere(again.server.pid) ? undefined : true), 'the process to end');
  });

  it('is told that the base of a run was moved; nobody else is asked for it', async () => {
    const folder = join(realpathSync(place.folder), 'runs', 'moved');
    mkdirSync(folder);
    writeFileSync(join(folder, 'events.jsonl'), '{"event":"run_start","total_steps":5}\n');
    writeFileSync(join(folder, 'run.json'), '{"model":{"model_name_or_path":"nobody/nothing"}}');
    writeFileSync(join(folder, 'adapter_config.json'), '{"base_model_name_or_path":"nobody/nothing"}');
    const moved = await until(async () => {
      const { runs } = (await server.get('/api/runs')).json;
      return runs.find((one: { folder: string }) => one.folder === folder)?.id;
    }, 'the run');
    const { json } = await server.post('/api/chat', { source: { run: moved, step: null } });
    const merging = await server.post(`/api/runs/${moved}/jobs`, { kind: 'merge', step: null, output: 'runs/none' });
    const ended = await until(async () => {
      const { models } = (await server.get('/api/chat')).json;
      const found = models.find(({ id }: { id: string }) => id === json.id);
      return found.state === 'ended' ? found : undefined;
    }, 'the refusal');
    expect(ended.error).toMatch(/^Expected the base nobody\/nothing as a folder or in the cache .* was moved/);
    const job = await until(async () => {
      const found = (await server.get(`/api/runs/${moved}/jobs`)).json.jobs[0];
      return found.state === 'running' ? undefined : found;
    }, 'the end of the command');
    expect(job).toMatchObject({
      id: merging.json.id,
      state: 'failed',
      error: { message: expect.stringMatching(/^Expected the base/) },
    });
    rmSync(folder, { recursive: true });
  });

  it('is told why a model does not load', async () => {
    const { json } = await server.post('/api/chat', { source: { model: 'empty.txt' } });
    const ended = await until(async () => {
      const { models } = (await server.get('/api/chat')).json;
      const found = models.find(({ id }: { id: string }) => id === json.id);
      return found.state === 'ended' ? found : undefined;
    }, 'the refusal');
    expect(ended.error).toMatch(/empty\.txt/);
  });

  it.each([
    [{}],
    [{ source: { run: '../..', step: null, more: 1 } }],
    [{ source: { run: 'x', step: -1 } }],
    [{ source: { model: 'a\0b' } }],
    [{ source: { model: 'm' }, dtype: 'int3' }],
  ])('cannot load %j', async (body) => {
    expect((await server.post('/api/chat', body)).status).toBe(400);
  });

  it('cannot load a run or a checkpoint that there is not', async () => {
    expect((await server.post('/api/chat', { source: { run: '..%2f..', step: null } })).status).toBe(404);
    expect((await server.post('/api/chat', { source: { run, step: 99_999 } })).status).toBe(404);
  });
});

function isThere(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
}
