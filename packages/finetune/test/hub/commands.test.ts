/** Commands and model arguments that name a model of the hub. */
import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { EXIT } from '../../src/cli/exit.js';
import { main } from '../../src/cli/main.js';
import { blob, expectWeights, home, hub, refusal, resolve, root, said, useHub } from '../support/hub.js';
import { COMMIT, REPO, sha256 } from '../support/hub-server.js';
import { tinyModel } from '../support/tiny-model.js';

useHub();

async function run(...words: string[]) {
  let [stdout, stderr] = ['', ''];
  const io = {
    stdout: {
      write: (text: string) => {
        stdout += text;
      },
    },
    stderr: {
      write: (text: string) => {
        stderr += text;
      },
    },
  };
  const code = await main(words, { ...io, env: {} });
  return { code, stdout, stderr };
}

describe('a model argument', () => {
  it('is a folder', async () => {
    const folder = join(home, 'checkpoint');
    mkdirSync(folder);
    expect(await refusal(resolve(folder))).toContain('which has no config.json: it is empty');
    writeFileSync(join(folder, 'config.json'), '{}');
    expect(await resolve(folder)).toBe(folder);
    expect(await refusal(resolve(home))).toMatch(/which holds others[\s\S]*Did you mean .*checkpoint\?/);
    expect(hub.requests).toEqual([]);
  });

  it('is neither a folder nor an id', async () => {
    for (const argument of ['./nothing', '/no/such/folder', 'nothing', 'a/../b', 'a--b/c'])
      expect(await refusal(resolve(argument))).toMatch(/or the id of a model of the hub, but received .*no folder/);
    const file = join(home, 'a.txt');
    writeFileSync(file, '');
    expect(await refusal(resolve(file))).toMatch(/received the file ".*a.txt", an empty file/);
    expect(hub.requests).toEqual([]);
  });

  it('is downloaded with a notice, and then found without network', async () => {
    const folder = await resolve(REPO);
    expect(said).toContain(`notice: there is no folder ${REPO}, so the model of that name is downloaded from the hub`);
    await hub.stop();
    const before = said;
    expect(await resolve(REPO)).toBe(folder);
    expect(said).toBe(before);
    await hub.start();
  });

  it('may do without weights, which come when they are needed', async () => {
    const folder = await resolve(REPO, { weights: false });
    expect(readdirSync(folder)).not.toContain('model.safetensors');
    hub.requests.length = 0;
    expect(await resolve(REPO, { weights: false })).toBe(folder);
    expect(hub.requests).toEqual([]);
    expect(await resolve(REPO)).toBe(folder);
    expectWeights(folder);
  });

  it('is complete only with every shard', async () => {
    const shards = ['model-00001-of-00002.safetensors', 'model-00002-of-00002.safetensors'] as const;
    const weight_map = { a: shards[0], b: shards[1] };
    hub.files.delete('model.safetensors');
    hub.files.set('model.safetensors.index.json', { content: Buffer.from(JSON.stringify({ weight_map })) });
    for (const name of shards) hub.files.set(name, { content: Buffer.from(name), lfs: true });
    const folder = await resolve(REPO);
    rmSync(blob(sha256(Buffer.from(shards[1]))));
    hub.requests.length = 0;
    expect(await resolve(REPO)).toBe(folder);
    expect(hub.requests.at(-1)).toBe(`GET /storage/${shards[1]}`);
    expect(readFileSync(join(folder, shards[1]), 'utf8')).toBe(shards[1]);
  });

  it('is looked for in the cache that is named', async () => {
    const cacheDir = join(home, 'elsewhere');
    const folder = await resolve(REPO, { cacheDir });
    expect(dirname(dirname(folder))).toBe(join(cacheDir, 'models--openbmb--Tiny-V'));
    expect(await resolve(REPO, { cacheDir })).toBe(folder);
  });
});

describe('minicpm-finetune download', () => {
  it('prints the folder', async () => {
    const folder = `${join(root(), 'snapshots', COMMIT)}\n`;
    expect(await run('download', REPO)).toMatchObject({ code: EXIT.ok, stdout: folder });
    expect(await run('download', '--model_name_or_path', REPO, '--revision', 'v1.0')).toMatchObject({
      code: EXIT.ok,
      stdout: folder,
    });
  });

  it('refuses nothing, and too much', async () => {
    expect(await run('download')).toMatchObject({
      code: EXIT.usage,
      stderr: expect.stringContaining('--model_name_or_path'),
    });
    expect(await run('download', REPO, 'b')).toMatchObject({
      code: EXIT.usage,
      stderr: expect.stringContaining('received "b"'),
    });
    expect(await run('download', REPO, '--revison', 'v1.0')).toMatchObject({
      code: EXIT.usage,
      stderr: expect.stringContaining('Did you mean --revision?'),
    });
  });
});

it('a model of the hub is checked against, trained and asked', async () => {
  const source = tinyModel(join(home, 'source'));
  hub.files.clear();
  for (const name of readdirSync(source))
    hub.files.set(name, { content: readFileSync(join(source, name)), lfs: name.endsWith('.safetensors') });
  const data = join(home, 'data.json');
  const conversations = [
    { role: 'user', content: 'What?' },
    { role: 'assistant', content: 'That.' },
  ];
  writeFileSync(data, JSON.stringify([{ conversations }, { conversations }]));
  const model = ['--model_name_or_path', REPO, '--data_path', data];
  const checked = await run('check-data', ...model, '--dataloader_num_workers', '0');
  expect(checked).toMatchObject({
    code: EXIT.ok,
    stderr: expect.stringContaining(`notice: there is no folder ${REPO}`),
  });
  expect(hub.requests.some((request) => request.includes('safetensors'))).toBe(false);

  const output = join(home, 'run');
  const flags = ['--max_steps', '1', '--use_lora', 'true', '--dataloader_num_workers', '0', '--progress', 'quiet'];
  expect(await run('train', ...model, '--output_dir', output, ...flags)).toMatchObject({ code: EXIT.ok });
  expect(hub.requests.some((request) => request.includes('safetensors'))).toBe(true);
  const adapter = JSON.parse(readFileSync(join(output, 'adapter_config.json'), 'utf8')) as object;
  expect(adapter).toMatchObject({ base_model_name_or_path: REPO });
  const record = JSON.parse(readFileSync(join(output, 'run.json'), 'utf8')) as object;
  expect(record).toMatchObject({ model: { model_name_or_path: REPO } });

  hub.requests.length = 0;
  const asked = ['--model', REPO, '--adapter', output, '--max_new_tokens', '2'];
  const generated = await run('generate', ...asked, '--data_path', data, '--output', join(home, 'a.jsonl'));
  expect(generated).toMatchObject({ code: EXIT.ok, stdout: expect.stringContaining('2 answers') });
  expect(await run('chat', ...asked, '--prompt', 'What?')).toMatchObject({ code: EXIT.ok, stderr: '' });
  const merged = ['--output_dir', join(home, 'merged')];
  expect(await run('merge', '--model', REPO, '--adapter', output, ...merged)).toMatchObject({
    code: EXIT.ok,
    stderr: '',
  });
  expect(hub.requests).toEqual([]);
});
