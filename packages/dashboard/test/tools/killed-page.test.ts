/** A page that is killed (SIGKILL) leaves no model and no reader of data in memory, and its runs go on. */
import { spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { makePlace, type Place } from '../../../finetune/test/support/run-place.js';
import { COMMAND_LINE } from '../support/command-line.js';
import { PageServer, until } from '../support/page-server.js';

let place: Place;
let address: string;
let token: string;
let kill: () => void;
beforeAll(async () => {
  place = makePlace(16);
  const words = [...COMMAND_LINE.words, 'ui', '--port=0', `--runs=${place.folder}`];
  const page = spawn(COMMAND_LINE.program, words, { cwd: place.folder, stdio: ['ignore', 'pipe', 'inherit'] });
  kill = () => void page.kill('SIGKILL');
  for await (const line of createInterface({ input: page.stdout })) {
    const found = /(http:\/\/\S+)\/#token=(\S+)/.exec(line);
    if (found === null) continue;
    [, address, token] = found as unknown as [string, string, string];
    break;
  }
});
afterAll(() => kill());

// biome-ignore lint/suspicious/noExplicitAny: tests look at what they expect
async function ask(path: string, body?: object): Promise<any> {
  const answer = await fetch(`${address}${path}`, {
    method: body === undefined ? 'GET' : 'POST',
    headers: { authorization: `Bearer ${token}`, 'content-type': 'application/json' },
    ...(body !== undefined && { body: JSON.stringify(body) }),
  });
  const json = await answer.json();
  expect({ status: answer.status, json }).toMatchObject({ status: 200 });
  return json;
}

it('is left by its children, not by its runs', async () => {
  const values = {
    model_name_or_path: 'model',
    data_path: ['data.json'],
    output_dir: 'run',
    model_max_length: '256',
    per_device_train_batch_size: '2',
    max_steps: '60',
    logging_steps: '1',
    save_strategy: 'no',
    threads: '1',
  };
  const { run } = await ask('/api/runs', { values });
  const { id } = await ask('/api/chat', { source: { model: 'model' } });
  const opened = await ask('/api/data/open', { files: ['data.json'], model: 'model' });
  await ask(`/api/data/${opened.data}/records/0`);
  const model = await until(async () => {
    const { models } = await ask('/api/chat');
    return models.find((one: { id: string; state: string }) => one.id === id && one.state === 'ready');
  }, 'the model');
  const { pid } = model.server;
  expect(isThere(pid)).toBe(true);
  kill();
  await until(() => (isThere(pid) ? undefined : true), 'the model to end');

  const next = await PageServer.start([place.folder], { commandLine: COMMAND_LINE, cwd: place.folder });
  const summary = await until(async () => {
    const { json } = await next.get(`/api/runs/${run}`);
    return ['finished', 'failed', 'killed'].includes(json?.summary.state) ? json.summary : undefined;
  }, 'the end of the run');
  expect(summary).toMatchObject({ state: 'finished', step: 60 });
  expect((await next.get('/api/chat')).json).toEqual({ models: [] });
  await next.close();
});

function isThere(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
}
