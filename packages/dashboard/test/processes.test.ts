/** Runs as processes of their own: the page starts, stops and resumes them, and whoever is killed, what it shows is true. */
import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { makeFolder, PageServer, until } from './support/page-server.js';
import { liveRun, RecordedRun, writeRecordedRuns } from './support/recorded-runs.mjs';

const place = makeFolder('processes');
const TRAINER = fileURLToPath(new URL('support/small-trainer.mjs', import.meta.url));
const commandLine = { program: process.execPath, words: [TRAINER] };
let page: PageServer;

beforeAll(async () => {
  page = await PageServer.start([place.path], { commandLine });
});
afterAll(async () => {
  for (const { pid, state } of await list()) if (state === 'running') process.kill(pid, 'SIGKILL');
  await page.close();
  place.remove();
});

// biome-ignore lint/suspicious/noExplicitAny: tests look at what they expect
const list = async (): Promise<any[]> => {
  const { runs } = (await page.get('/api/runs')).json;
  return await Promise.all(
    // biome-ignore lint/suspicious/noExplicitAny: as above
    runs.map(async (run: any) => ({ ...run, pid: (await page.get(`/api/runs/${run.id}`)).json.starts.at(-1)?.pid })),
  );
};
/** The handle of a run, as soon as the page has found it. */
const named = (name: string): Promise<string> =>
  until(async () => (await list()).find((run) => run.name === name)?.id as string | undefined, `the run ${name}`);
const stateOf = async (id: string) => (await page.get(`/api/runs/${id}`)).json.summary;
const reaches = (id: string, state: string) =>
  until(async () => {
    const summary = await stateOf(id);
    return summary.state === state ? summary : undefined;
  }, `${id} to be ${state}`);
const start = async (values: object, queue = false) =>
  (await page.post('/api/runs', { values, queue })).json.run as string;

describe('a run that the page starts', () => {
  let id: string;

  it('is a process of its own, with its words as they are', async () => {
    const folder = join(place.path, 'first; touch x');
    const answer = await page.post('/api/runs', {
      values: { output_dir: folder, run_name: '-x=$(touch y) "', lora_target_modules: ['q_proj', 'v_proj'] },
    });
    expect(answer.status).toBe(200);
    id = answer.json.run;
    expect(answer.json.command).toContain(`'--output_dir=${folder}'`);
    const summary = await until(async () => {
      const found = await stateOf(id);
      return found.state === 'running' && found.step >= 5 ? found : undefined;
    }, 'its first steps');
    expect(summary.folder).toBe(folder);
    const launch = JSON.parse(readFileSync(join(folder, 'ui_launch.json'), 'utf8'));
    expect(launch.words).toEqual([
      'train',
      `--output_dir=${folder}`,
      '--run_name=-x=$(touch y) "',
      '--lora_target_modules=q_proj',
      '--lora_target_modules=v_proj',
      '--progress=plain',
    ]);
    expect(readdirSync(place.path)).toEqual(['first; touch x']);
    const log = (await page.get(`/api/log/${id}`)).json;
    expect(log.text).toContain('$ minicpm-finetune train');
    expect(log.text).toContain(`\ntraining ${folder}\n`); // without its colours
    const rest = (await page.get(`/api/log/${id}?from=${log.to}`)).json;
    expect(rest).toMatchObject({ from: log.to, text: '' });
  });

  it('goes on when the page ends, and is there when it comes back', async () => {
    const { token } = page.dashboard;
    const before = (await stateOf(id)).step;
    await page.close();
    page = await PageServer.start([place.path], { commandLine, token });
    const summary = await until(async () => {
      const found = await stateOf(id);
      return found.step > before ? found : undefined;
    }, 'more steps');
    expect(summary.state).toBe('running');
  });

  it('saves, stops by a file, and resumes', async () => {
    await page.post(`/api/runs/${id}/save`);
    await until(async () => ((await stateOf(id)).resumableStep === null ? undefined : true), 'a checkpoint');
    const stopped = await page.post(`/api/runs/${id}/stop`);
    expect(stopped.json.done).toBe('The run finishes its step, saves and ends.');
    const { step, resumableStep } = await reaches(id, 'stopped');
    expect(resumableStep).toBe(step);
    expect((await page.post(`/api/runs/${id}/stop`)).status).toBe(409);
    expect((await page.post(`/api/runs/${id}/resume`)).json.done).toBe(`The run resumes from step ${step}.`);
    await until(async () => ((await stateOf(id)).step > step ? true : undefined), 'more steps');
    expect(await stateOf(id)).toMatchObject({ state: 'running', starts: 2 });
    expect((await page.post(`/api/runs/${id}/resume`)).status).toBe(409);
  });

  it('ends at once when its name is given', async () => {
    const { name } = await stateOf(id);
    expect((await page.post(`/api/runs/${id}/end`, { name: 'another' })).status).toBe(400);
    expect((await page.post(`/api/runs/${id}/end`, { name })).status).toBe(200);
    await until(async () => (['stopped', 'killed'].includes((await stateOf(id)).state) ? true : undefined), 'its end');
  });

  it('that waits between two steps ends at the second signal', async () => {
    const slow = await start({ output_dir: join(place.path, 'slow'), seed: 1 });
    await reaches(slow, 'running');
    await page.post(`/api/runs/${slow}/end`, { name: 'slow' });
    await reaches(slow, 'killed');
  });

  it('says why it failed before its first event', async () => {
    const failed = await start({ output_dir: join(place.path, 'failed'), run_name: 'fail' });
    const summary = await reaches(failed, 'failed');
    expect(summary.error).toMatch(/^error: Expected a checkpoint for --model_name_or_path/);
  });
});

describe('a run that waits', () => {
  it('starts when the other one has ended, also with another page', async () => {
    const first = await start({ output_dir: join(place.path, 'one') }, true);
    await reaches(first, 'running');
    const second = await start({ output_dir: join(place.path, 'two'), max_steps: 10 }, true);
    const third = await start({ output_dir: join(place.path, 'three') }, true);
    expect([(await stateOf(second)).state, (await stateOf(third)).state]).toEqual(['queued', 'queued']);
    await page.post(`/api/runs/${third}/stop`);
    expect((await page.get(`/api/runs/${third}`)).status).toBe(404);
    const { token } = page.dashboard;
    await page.close();
    page = await PageServer.start([place.path], { commandLine, token });
    expect((await stateOf(second)).state).toBe('queued');
    await page.post(`/api/runs/${first}/stop`);
    await reaches(first, 'stopped');
    await reaches(second, 'finished');
  });
});

describe('what cannot be started', () => {
  it.each([
    [{}, 400, 'output_dir'],
    [{ output_dir: '/etc/run' }, 400, 'output_dir'],
    [{ output_dir: '../run' }, 400, 'output_dir'],
    [{ output_dir: '.' }, 400, 'output_dir'],
    [{ output_dir: 'link/run' }, 400, 'output_dir'],
    [{ output_dir: 'two' }, 409, 'output_dir'],
    [{ output_dir: 'new', learning_rat: 1 }, 400, 'learning_rat'],
    [{ output_dir: 'new', learning_rate: 'fast' }, 400, 'learning_rate'],
    [{ output_dir: 'new\0' }, 400, 'output_dir'],
  ])('%j is refused with its field', async (values, status, field) => {
    if (!existsSync(join(place.path, 'link'))) symlinkSync('/tmp', join(place.path, 'link'));
    const answer = await page.post('/api/runs', { values });
    expect([answer.status, answer.json.error.field]).toEqual([status, field]);
    expect(existsSync(join(place.path, 'new'))).toBe(false);
  });
});

describe('checkpoints', () => {
  it('are deleted by their manifest, but never the last resumable one', async () => {
    await writeRecordedRuns(join(place.path, 'recorded'));
    const digits = join(place.path, 'recorded', 'digits');
    const id = await named('digits');
    const { checkpoints, bytes, result } = (await page.get(`/api/runs/${id}/checkpoints`)).json;
    expect(checkpoints).toMatchObject([
      { step: 120, reason: 'interval', complete: true, resumable: true, kept: null },
      { step: 240, complete: true, resumable: true, best: true },
    ]);
    expect(bytes).toBe(checkpoints[0].bytes + checkpoints[1].bytes);
    expect(result.bytes).toBe('the trained weights'.length);
    writeFileSync(join(digits, 'checkpoint-120', 'mine.txt'), 'notes of a person');
    writeFileSync(join(digits, 'checkpoint-120', 'adapter_config.json'), '{"changed":true}');
    const deleted = await page.post(`/api/runs/${id}/checkpoints/120/delete`);
    expect(deleted.json.done).toContain("Not the run's, and left");
    expect(readdirSync(join(digits, 'checkpoint-120')).sort()).toEqual(['adapter_config.json', 'mine.txt']);
    const last = await page.post(`/api/runs/${id}/checkpoints/240/delete`);
    expect([last.status, last.json.error.message]).toEqual([409, expect.stringContaining('last checkpoint')]);
    expect(existsSync(join(digits, 'checkpoint-240', 'manifest.json'))).toBe(true);
  });

  it('that are damaged say what is wrong', async () => {
    const id = await named('recorded/killed');
    const folder = join(place.path, 'recorded', 'killed', 'checkpoint-100');
    writeFileSync(join(folder, 'optimizer.safetensors'), 'short');
    const { checkpoints } = (await page.get(`/api/runs/${id}/checkpoints`)).json;
    expect(checkpoints[0]).toMatchObject({ complete: false, resumable: false });
    expect(checkpoints[0].problems[0]).toMatch(/^optimizer\.safetensors: 5 bytes, \d+ in manifest\.json$/);
  });

  it("go with a run whose name is given, and what is not the run's stays", async () => {
    const id = await named('recorded/invoices');
    const folder = join(place.path, 'recorded', 'invoices');
    writeFileSync(join(folder, 'mine.txt'), 'notes of a person');
    expect((await page.post(`/api/runs/${id}/delete`, { name: 'invoices' })).status).toBe(400);
    const { json } = await page.post(`/api/runs/${id}/delete`, { name: 'recorded/invoices' });
    expect(json).toMatchObject({ run: null, done: expect.stringContaining('mine.txt') });
    expect(readdirSync(folder)).toEqual(['mine.txt']);
  });

  it('of a run without a list stay: nothing proves whose they are', async () => {
    const folder = join(place.path, 'early');
    mkdirSync(folder);
    writeFileSync(join(folder, 'events.jsonl'), '{"event":"run_start","time":"2025-01-01T00:00:00.000Z"}\n');
    const id = await named('early');
    const answer = await page.post(`/api/runs/${id}/delete`, { name: 'early' });
    expect([answer.status, existsSync(join(folder, 'events.jsonl'))]).toEqual([409, true]);
  });
});

describe('whoever is killed', () => {
  /** A page of its own process, and what it shows. */
  async function pageProcess(): Promise<{ server: ChildProcess; port: number }> {
    const script = fileURLToPath(new URL('support/page-process.mjs', import.meta.url));
    const child = spawn(process.execPath, [script, place.path, '0', TRAINER], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    const port = await new Promise<number>((resolve) => child.stdout!.once('data', (text) => resolve(Number(text))));
    return { server: child, port };
  }

  it.each(['page, then run', 'run, then page', 'both at once'])('%s: the state is true afterwards', async (order) => {
    const { token } = page.dashboard;
    await page.close();
    const { server, port } = await pageProcess();
    const post = (values: object) =>
      fetch(`http://127.0.0.1:${port}/api/runs`, {
        method: 'POST',
        headers: { authorization: `Bearer ${'t'.repeat(43)}`, 'content-type': 'application/json' },
        body: JSON.stringify({ values }),
      });
    const name = order.replaceAll(/\W+/g, '-');
    const folder = join(place.path, name);
    const { run: id } = (await (await post({ output_dir: folder })).json()) as { run: string };
    const events = join(folder, 'events.jsonl');
    const isThere = () => (existsSync(events) && readFileSync(events, 'utf8').includes('\n')) || undefined;
    await until(isThere, 'its first event');
    const { pid } = JSON.parse(readFileSync(join(folder, 'ui_launch.json'), 'utf8'));
    const gone = new Promise((resolve) => server.once('exit', resolve));
    if (order === 'run, then page') process.kill(pid, 'SIGKILL');
    server.kill('SIGKILL');
    await gone;
    if (order === 'page, then run') {
      page = await PageServer.start([place.path], { commandLine, token });
      expect((await stateOf(id)).state).toBe('running');
    }
    if (order !== 'run, then page') process.kill(pid, 'SIGKILL');
    if (order !== 'page, then run') page = await PageServer.start([place.path], { commandLine, token });
    expect((await reaches(id, 'killed')).step).toBeGreaterThanOrEqual(0);
  });

  it('a run of a shell is stopped like any other', async () => {
    const folder = join(place.path, 'shell');
    const child = spawn(process.execPath, [TRAINER, 'train', `--output_dir=${folder}`], { stdio: 'ignore' });
    const id = await named('shell');
    await reaches(id, 'running');
    await page.post(`/api/runs/${id}/stop`);
    await reaches(id, 'stopped');
    expect((await page.get(`/api/log/${id}`)).status).toBe(404);
    if (child.exitCode === null) await new Promise((resolve) => child.once('exit', resolve));
  });

  it('no signal reaches a process that only has the same id', async () => {
    const folder = join(place.path, 'other');
    new RecordedRun(folder)
      .now()
      .start({ totalSteps: 5, process: { pid: process.pid, start: '1' } })
      .close();
    const id = await named('other');
    expect((await stateOf(id)).state).toBe('killed');
    for (const action of ['save', 'stop']) expect((await page.post(`/api/runs/${id}/${action}`)).status).toBe(409);
    expect((await page.post(`/api/runs/${id}/end`, { name: 'other' })).status).toBe(409);
    liveRun(join(place.path, 'self')).end();
  });
});
