/** Folders and files that are no checkpoint, given to every command: each says what they are. */
import { copyFileSync, cpSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { LONG } from '../../../torch/test/support/long.js';
import { EXIT } from '../../src/cli/exit.js';
import { main } from '../../src/cli/main.js';
import { makePlace, type Place } from '../support/run-place.js';
import { tinyAdapter } from '../support/tiny-model.js';

let place: Place;
let adapter: string;
beforeAll(() => {
  place = makePlace(2);
  adapter = tinyAdapter(place.model, join(place.folder, 'adapter'));
});
afterAll(() => rmSync(place.folder, { recursive: true }));

class Captured {
  text = '';
  write(text: string): void {
    this.text += text;
  }
}

/** What a command line prints as an error; it has to be a user's mistake, said once. */
async function refused(...words: string[]): Promise<string> {
  for (const name of ['out', 'o.jsonl', 'o.jsonl.settings.json', 'merged'])
    rmSync(join(place.folder, name), { recursive: true, force: true });
  const [stdout, stderr] = [new Captured(), new Captured()];
  const code = await main(words, { stdout, stderr, env: {} });
  expect(code, stderr.text).toBe(EXIT.usage);
  expect(stderr.text.match(/^error: /gm), stderr.text).toHaveLength(1);
  expect(stderr.text).not.toMatch(/^ {4}at /m); // a stack
  return stderr.text.slice(stderr.text.indexOf('error: '));
}

/** Every command with a model in the place of its model. */
const COMMANDS: Readonly<Record<string, (model: string) => string[]>> = {
  train: (model) => [
    ...['train', '--model_name_or_path', model, '--data_path', place.data],
    ...['--output_dir', join(place.folder, 'out'), '--max_steps', '1', '--progress', 'quiet'],
  ],
  'train --dry_run': (model) => [...COMMANDS.train!(model), '--dry_run'],
  'check-data': (model) => ['check-data', '--model_name_or_path', model, '--data_path', place.data],
  render: (model) => ['render', '--model_name_or_path', model, '--data_path', place.data],
  generate: (model) => [
    'generate',
    '--model',
    model,
    '--data_path',
    place.data,
    '--output',
    join(place.folder, 'o.jsonl'),
  ],
  chat: (model) => ['chat', '--model', model, '--prompt', 'x'],
  merge: (model) => ['merge', '--model', model, '--adapter', adapter, '--output_dir', join(place.folder, 'merged')],
};

/** What is wrong, for a command: in the short part all of it for one command, the first for each other. */
const some = <T>(command: string, all: readonly T[]): readonly T[] =>
  LONG || command === 'generate' ? all : all.slice(0, 1);

/** A copy of the model with one file replaced. */
function changed(name: string, content: string | Buffer): string {
  const folder = join(place.folder, `changed-${name}`);
  rmSync(folder, { recursive: true, force: true });
  cpSync(place.model, folder, { recursive: true });
  writeFileSync(join(folder, name), content);
  return folder;
}

describe.each(Object.entries(COMMANDS))('%s', (_, words) => {
  it('says which file a path is, also when it looks like the id of a model', async () => {
    const before = process.cwd();
    process.chdir(place.folder);
    try {
      mkdirSync('folder', { recursive: true });
      writeFileSync(join('folder', 'config.json'), '{}');
      expect(await refused(...words('folder/config.json'))).toMatch(/received the file "folder\/config\.json"/);
    } finally {
      process.chdir(before);
    }
  });
});

/** A run folder with two checkpoints, each with this file; and files beside them. */
function runFolder(name: string, file: string, beside: readonly string[] = []): string {
  const folder = join(place.folder, name);
  for (const step of [9, 10]) {
    mkdirSync(join(folder, `checkpoint-${step}`), { recursive: true });
    for (const each of [file, 'manifest.json']) writeFileSync(join(folder, `checkpoint-${step}`, each), '{}');
  }
  for (const each of beside) cpSync(join(adapter, each), join(folder, each));
  return folder;
}

describe('a run folder that has checkpoints only', () => {
  it.each(Object.entries(COMMANDS))('as the model of %s names the newest of them', async (_, words) => {
    const full = await refused(...words(runFolder('full-run', 'config.json')));
    expect(full).toMatch(/full-run, a run folder that has checkpoints only/);
    expect(full).toMatch(/The run was not finished\. Give its newest checkpoint: .*checkpoint-10\./);
    const lora = await refused(...words(runFolder('lora-run', 'adapter_config.json')));
    expect(lora).toMatch(/Give its base as the model, and its newest checkpoint as the adapter: .*checkpoint-10\./);
  });

  it.each(Object.entries(COMMANDS))('is not what %s calls a finished adapter with checkpoints', async (_, words) => {
    const files = ['adapter_config.json', 'adapter_model.safetensors'];
    const error = await refused(...words(runFolder('finished-run', 'adapter_config.json', files)));
    expect(error).toMatch(/received that of an adapter, ".*finished-run"/);
    expect(error).not.toMatch(/not finished/);
  });

  it.each([
    ['generate', '--adapter'],
    ['chat', '--adapter'],
    ['check-data', '--adapter'],
    ['render', '--adapter'],
    ['train', '--lora_weight_path'],
    ['train --dry_run', '--lora_weight_path'],
  ] as const)('as the adapter of %s names the newest of them', async (name, flag) => {
    const lora = flag === '--adapter' ? [] : ['--use_lora'];
    const folder = runFolder('lora-run', 'adapter_config.json');
    const error = await refused(...COMMANDS[name]!(place.model), ...lora, flag, folder);
    expect(error).toMatch(/received ".*lora-run", a run folder that has checkpoints only/);
    expect(error).toMatch(/Give its newest checkpoint: .*checkpoint-10\./);
  });
});

/** A copy of the model with keys added to its configuration. */
function configured(keys: object): string {
  const config = JSON.parse(readFileSync(join(place.model, 'config.json'), 'utf8')) as object;
  return changed('config.json', JSON.stringify({ ...config, ...keys }));
}

const LFS = 'version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n';
const HTML = '<!DOCTYPE html><html><body>404 Not Found</body></html>';

describe.each(Object.keys(COMMANDS))('%s', (command) => {
  const run = (model: string): Promise<string> => {
    return refused(...COMMANDS[command]!(model));
  };

  it('names an adapter, and its base', async () => {
    const text = await run(adapter);
    expect(text).toContain('but received that of an adapter');
    expect(text).toContain(place.model);
    if (command.startsWith('train')) expect(text).toContain(`or continue it with --lora_weight_path ${adapter}`);
  });

  it.each(
    some<[object, string]>(command, [
      [{ quant_method: 'bitsandbytes', load_in_4bit: true }, 'int4 of bitsandbytes'],
      [{ load_in_4bit: true, bnb_4bit_quant_type: 'nf4' }, 'int4 of bitsandbytes'],
      [{ quant_method: 'bitsandbytes', _load_in_8bit: true }, 'int8 of bitsandbytes'],
      [{ quant_method: 'gptq', bits: 4 }, 'int4 of GPTQ'],
      [{ quant_method: 'awq', w_bit: 4 }, 'int4 of AWQ'],
      [{ quant_method: 'fp8' }, 'the quantization of "fp8"'],
    ]),
  )('names a quantized checkpoint: %j', async (quantization_config, name) => {
    const text = await run(configured({ quantization_config }));
    expect(text).toContain(`received a checkpoint in ${name}`);
    expect(text).toContain('Start from the unquantized model; --q_lora keeps it in 4 bits.');
  });

  it('names a tokenizer that is larger than the model', async () => {
    expect(await run(configured({ vocab_size: 300 }))).toMatch(
      /at most 300 tokens, the vocab_size of config.json, but received one of \d+/,
    );
  });

  it.each(
    some<[string, string | Buffer, string]>(command, [
      ['config.json', LFS, 'a Git LFS pointer'],
      ['config.json', HTML, 'an HTML page: it says "404 Not Found"'],
      ['config.json', '{"a"：1}', '"：" (U+FF1A)'],
      ['tokenizer.json', LFS, 'a Git LFS pointer'],
      ['tokenizer_config.json', HTML, 'an HTML page'],
      ['tokenizer.json', Buffer.from('{"a": 1}', 'utf16le'), 'The text is UTF-16 (LE, without byte order mark).'],
    ]),
  )('names %s that is something else', async (name, content, what) => {
    expect(await run(changed(name, content))).toContain(what);
  });

  it('names folders around checkpoints, and files', async () => {
    const outer = join(place.folder, 'outer');
    mkdirSync(join(outer, 'checkpoint-20'), { recursive: true });
    mkdirSync(join(outer, 'checkpoint-100'), { recursive: true });
    for (const name of ['checkpoint-20', 'checkpoint-100'])
      copyFileSync(join(place.model, 'config.json'), join(outer, name, 'config.json'));
    expect(await run(outer)).toContain(`Did you mean ${join(outer, 'checkpoint-100')}?`);
    const gguf = join(place.folder, 'model.gguf');
    writeFileSync(gguf, 'GGUF0000000000000000');
    expect(await run(gguf)).toContain('a GGUF file of llama.cpp');
    expect(await run(`${place.model} `)).toContain(`Did you mean ${place.model} (the path ends in a space)?`);
  });
});

describe.each(['train', 'train --dry_run', 'generate', 'chat', 'merge'])('%s', (command) => {
  it.each(
    some<[string | Buffer, string]>(command, [
      [LFS, 'a Git LFS pointer, which stands for the file (of 12345 bytes)'],
      [HTML, 'an HTML page'],
      ['', 'an empty file'],
      [Buffer.from('PK\x03\x04........................archive/data.pkl'), 'a Python pickle'],
      [Buffer.from('\x80\x02}q\x00....', 'latin1'), 'a Python pickle'],
    ]),
  )('names model.safetensors that is something else', async (content, what) => {
    const text = await refused(...COMMANDS[command]!(changed('model.safetensors', content)));
    expect(text).toContain(`Expected weights in model.safetensors but received ${what}`);
  });
});

it.each([
  ['adapter_model.safetensors', LFS, 'received a Git LFS pointer'],
  ['adapter_model.safetensors', HTML, 'received an HTML page'],
  ['adapter_config.json', LFS, 'received a Git LFS pointer'],
  ['adapter_config.json', '{“r”: 4}', '"“" (U+201C)'],
])('an adapter with %s that is something else', async (name, content, what) => {
  const folder = join(place.folder, 'bad adapter');
  rmSync(folder, { recursive: true, force: true });
  cpSync(adapter, folder, { recursive: true });
  writeFileSync(join(folder, name), content);
  expect(await refused('chat', '--model', place.model, '--adapter', folder, '--prompt', 'x')).toContain(what);
});
