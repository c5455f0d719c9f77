/** The command `ui` as a process: its address, its token, and a real training that it starts, stops and resumes, and that outlives it. */
import { once } from 'node:events';
import { mkdtempSync, readFileSync, realpathSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { type AddressInfo, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { CLI, printed, type Running, start } from '../support/cli-run.js';
import { freePort } from '../support/launched.js';
import { configOf, eventsOf, makePlace, type Place } from '../support/run-place.js';

let place: Place;
let home: string;
let ui: Running;
let url: URL;
let token: string;
/** The page comes back to it after its end. */
let port: string;

beforeAll(async () => {
  place = makePlace();
  home = mkdtempSync(join(tmpdir(), 'ui-home-'));
  process.env.XDG_CACHE_HOME = home;
  port = String(await freePort());
  await open();
});
afterAll(async () => {
  ui.child.kill('SIGINT');
  await ui.ended;
  delete process.env.XDG_CACHE_HOME;
  rmSync(home, { recursive: true, force: true });
  rmSync(place.folder, { recursive: true, force: true });
});

const words = (...more: string[]): string[] => [CLI, 'ui', '--runs', place.folder, ...more];

async function open(): Promise<void> {
  ui = start(process.execPath, words('--port', port), place.folder, 900_000);
  await printed(ui, 'Ctrl-C ends the page; runs go on.');
  url = new URL(/http:\S+/.exec(ui.output())![0]);
  token = url.hash.slice('#token='.length);
}

// biome-ignore lint/suspicious/noExplicitAny: tests look at what they expect
async function ask(path: string, body?: unknown): Promise<any> {
  const sent = body === undefined ? {} : { method: 'POST', body: JSON.stringify(body) };
  const headers = { authorization: `Bearer ${token}`, 'content-type': 'application/json' };
  const answer = await fetch(new URL(path, url.origin), { ...sent, headers });
  return await answer.json();
}

/** Waits until the run is as `look` wants it. */
// biome-ignore lint/suspicious/noExplicitAny: as above
async function reaches(id: string, look: (run: any) => boolean): Promise<any> {
  for (let tries = 0; tries < 12_000; tries++) {
    const { summary } = await ask(`/api/runs/${id}`);
    if (summary !== undefined && look(summary)) return summary;
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  throw new Error(`the run never came so far: ${JSON.stringify(await ask(`/api/runs/${id}`))}`);
}

describe('minicpm-finetune ui', () => {
  it('prints an address with a token that only its user can read', async () => {
    const file = join(home, 'minicpm-finetune', 'ui', `${url.port}.json`);
    expect(statSync(file).mode & 0o777).toBe(0o600);
    expect(JSON.parse(readFileSync(file, 'utf8'))).toMatchObject({ token, pid: ui.child.pid });
    const page = await fetch(url.origin);
    expect([page.status, page.headers.get('content-type')]).toEqual([200, 'text/html; charset=utf-8']);
    const script = /src="\.?(\/assets\/[^"]+\.js)"/.exec(await page.text())![1]!;
    const asset = await fetch(new URL(script, url.origin));
    expect(asset.headers.get('cache-control')).toBe('public, max-age=31536000, immutable');
    expect((await fetch(`${url.origin}/api/runs`)).status).toBe(401);
  });

  it('tells a second terminal where the page is', async () => {
    const second = start(process.execPath, words('--port', url.port), place.folder);
    expect(await second.ended).toMatchObject({ code: 2, output: expect.stringContaining(url.href) });
  });

  it.each([
    [['--runs', '/nowhere'], 'Expected a folder for --runs but received "/nowhere".'],
    [['--host', '203.0.113.1'], 'Expected an address of this machine for --host but received "203.0.113.1".'],
  ])('refuses %j', async (flags, message) => {
    const { code, output } = await start(process.execPath, [CLI, 'ui', '--port', '0', ...flags]).ended;
    expect([code, output]).toEqual([2, expect.stringContaining(message)]);
  });

  it('says that another program has the port', async () => {
    const other = createServer().listen(0, '127.0.0.1');
    await once(other, 'listening');
    const { port } = other.address() as AddressInfo;
    const { code, output } = await start(process.execPath, words('--port', String(port)), place.folder).ended;
    other.close();
    expect([code, output]).toEqual([
      2,
      expect.stringContaining(`Expected a free port for --port but received ${port}.`),
    ]);
  });

  it('says where its token cannot be kept', async () => {
    const file = join(home, 'a-file');
    writeFileSync(file, '');
    process.env.XDG_CACHE_HOME = file;
    const { code, output } = await start(process.execPath, words('--port', '0'), place.folder).ended;
    process.env.XDG_CACHE_HOME = home;
    expect([code, output]).toEqual([
      2,
      expect.stringContaining('Expected a folder of yours for the token of the page'),
    ]);
  });

  it('starts a training, stops it, and resumes it after the page was started again', async () => {
    const output = join(place.folder, 'runs', 'first');
    const { model, data, batch, schedule } = configOf(place, 'first');
    const values = {
      model_name_or_path: model.model_name_or_path,
      data_path: data.data_path,
      output_dir: output,
      model_max_length: data.model_max_length,
      per_device_train_batch_size: batch.per_device_train_batch_size,
      lr_scheduler_type: schedule.lr_scheduler_type,
      max_steps: 100_000,
      logging_steps: 1,
      save_strategy: 'no',
      dataloader_num_workers: 0,
      threads: 1,
      cache_vision: 'off',
      device: 'cpu',
    };
    const { run: id } = await ask('/api/runs', { values });
    await reaches(id, ({ state, step }) => state === 'running' && step >= 3);
    ui.child.kill('SIGINT'); // Ctrl-C ends the page, not the run
    expect((await ui.ended).code).toBe(0);
    const seen = eventsOf(output, 'step').length;
    await open();
    await reaches(id, ({ state, step }) => state === 'running' && step > seen);
    expect((await ask(`/api/runs/${id}/stop`, {})).done).toContain('finishes its step');
    const { step, resumableStep } = await reaches(id, ({ state }) => state === 'stopped');
    expect(resumableStep).toBe(step);
    await ask(`/api/runs/${id}/resume`, {});
    await reaches(id, (run) => run.state === 'running' && run.step > step && run.starts === 2);
    const { text } = await ask(`/api/log/${id}`);
    expect(text).toContain('--resume_from_checkpoint=');
    await ask(`/api/runs/${id}/end`, { name: 'runs/first' });
    await reaches(id, ({ state }) => state === 'killed' || state === 'stopped');
    expect(eventsOf(output, 'run_start')[0]!.cwd).toBe(realpathSync(place.folder));
  });
});
