/** The command as another program starts it: lines of JSON, the key, its end. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { randomAdapter } from '../../../minicpm-v/test/support/random-adapter.js';
import { tinyCheckpoint } from '../../../minicpm-v/test/support/tiny.js';
import { main } from '../../src/cli/main.js';
import { freePort } from '../support/launched.js';

const MAIN = join(import.meta.dirname, '..', '..', 'bin', 'minicpm-finetune.js');
const work = mkdtempSync(join(tmpdir(), 'serve-cli-'));
let base: string;
let adapter: string;
const started: ChildProcess[] = [];

beforeAll(() => {
  base = tinyCheckpoint(work, 'minicpm-v-2_6');
  adapter = randomAdapter(base, join(work, 'adapter'), 1);
});
afterEach(() => {
  for (const child of started.splice(0)) child.kill('SIGKILL');
});
afterAll(() => rmSync(work, { recursive: true }));

interface Line {
  readonly event: 'listening' | 'ready';
  readonly url: string;
  readonly port: number;
  readonly pid: number;
  readonly models: readonly string[];
}

interface Child {
  readonly process: ChildProcess;
  readonly listening: Line;
  readonly ready: Line;
  /** Exit code and signal. */
  readonly ended: Promise<[number | null, NodeJS.Signals | null]>;
}

async function start(...flags: string[]): Promise<Child> {
  const words = [MAIN, 'serve', '--model', base, '--json', ...flags];
  const child = spawn(process.execPath, words, {
    stdio: ['pipe', 'pipe', 'inherit'],
    env: { ...process.env, MINICPM_API_KEY: 'k' },
  });
  started.push(child);
  const ended = once(child, 'exit') as Child['ended'];
  const lines: Line[] = [];
  for await (const line of createInterface({ input: child.stdout! })) {
    lines.push(JSON.parse(line));
    if (lines.length === 2) break;
  }
  return { process: child, listening: lines[0]!, ready: lines[1]!, ended };
}

const get = (url: string, key = 'k'): Promise<Response> => fetch(url, { headers: { authorization: `Bearer ${key}` } });

/** The text of an answer of the command line that fails. */
async function failure(...words: string[]): Promise<string> {
  let text = '';
  const stream = { write: (part: string) => (text += part) } as unknown as NodeJS.WriteStream;
  expect(await main(['serve', ...words], { stdout: stream, stderr: stream, env: {} })).toBe(2);
  return text;
}

describe('serve as a child process', () => {
  it('tells its port, then that it is ready; ends cleanly at SIGTERM', async () => {
    const child = await start('--port', '0', '--adapter', `small=${adapter}`);
    expect(child.listening).toEqual({
      event: 'listening',
      url: `http://127.0.0.1:${child.listening.port}`,
      port: child.listening.port,
      pid: child.process.pid,
    });
    expect(child.ready).toMatchObject({ event: 'ready', models: ['minicpm-v-2_6', 'small'] });
    expect(await (await fetch(`${child.ready.url}/health`)).json()).toEqual({ status: 'ok' });
    expect((await get(`${child.ready.url}/v1/models`, 'wrong')).status).toBe(401);
    const list = (await (await get(`${child.ready.url}/v1/models`)).json()) as {
      data: { id: string; parent: string | null }[];
    };
    expect(list.data.map(({ id, parent }) => [id, parent])).toEqual([
      ['minicpm-v-2_6', null],
      ['small', 'minicpm-v-2_6'],
    ]);
    child.process.kill('SIGTERM');
    expect(await child.ended).toEqual([0, null]);
  });

  it('ends with the program that started it, if asked to', async () => {
    const child = await start('--port', '0', '--exit_with_parent');
    child.process.stdin!.end();
    expect(await child.ended).toEqual([0, null]);
  });

  it('is there again on its port after kill -9', async () => {
    const first = await start('--port', String(await freePort()));
    first.process.kill('SIGKILL');
    expect(await first.ended).toEqual([null, 'SIGKILL']);
    const again = await start('--port', String(first.listening.port));
    expect((await get(`${again.ready.url}/v1/models`)).status).toBe(200);
    again.process.kill('SIGTERM');
    expect(await again.ended).toEqual([0, null]);
  });
});

describe('serve refuses', () => {
  it('a server for other machines without a key', async () => {
    expect(await failure('--model', base, '--host', '0.0.0.0')).toContain('MINICPM_API_KEY');
  });

  it('a key that no header can hold, without showing it', async () => {
    for (const key of ['sesame open', 'sesame\n', ' sesame', 'sésame']) {
      const said = await failure('--model', base, '--api_key', key);
      expect(said).toContain('without white space');
      expect(said).not.toMatch(/s[eé]same/);
    }
  });

  it('adapters without a name, folders that are not there, origins that are none', async () => {
    expect(await failure('--model', base, '--adapter', adapter)).toContain(`--adapter adapter=${adapter}`);
    expect(await failure('--model', base, '--adapter', 'a=/nowhere')).toContain('adapter folder');
    expect(await failure('--model', base, '--adapter_root', '/nowhere')).toContain('--adapter_root');
    expect(await failure('--model', base, '--cors', 'example.com')).toContain('--cors');
    expect(await failure('--model', base, '--media_path', MAIN)).toContain('Expected a folder for --media_path');
    for (const flag of ['--allowed_host', '--allow_image_host'])
      for (const host of ['https://example.com', 'example.com/', 'a b', '*', 'user@example.com', 'a:b'])
        expect(await failure('--model', base, flag, host)).toContain(
          `a host such as example.com or example.com:8443 for ${flag}`,
        );
    expect(await failure('--model', adapter)).toContain('--adapter');
    expect(await failure()).toContain('--model');
  });

  it('a name twice, and a port that is taken', async () => {
    const port = ['--port', '0'];
    const twice = ['--adapter', `a=${adapter}`, '--adapter', `a=${adapter}`];
    expect(await failure('--model', base, ...port, ...twice)).toContain('received "a" twice');
    expect(await failure('--model', base, ...port, '--adapter', `minicpm-v-2_6=${adapter}`)).toContain(
      'the name of the base',
    );
    const other = createServer();
    await new Promise<void>((resolve) => other.listen(0, '127.0.0.1', resolve));
    const { port: taken } = other.address() as { port: number };
    expect(await failure('--model', base, '--port', String(taken))).toContain(`${taken} is taken`);
    other.close();
  });
});
