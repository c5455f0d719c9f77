/** `minicpm-finetune export`: files, what it prints, and what it refuses. */
import { execFileSync } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { contentOfFile } from '@minicpm-finetune/run';
import { setThreads } from '@minicpm-finetune/torch';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { EXIT } from '../../src/cli/exit.js';
import { adapterServer, llamaCpp, ollama } from '../../src/cli/export/programs.js';
import { main } from '../../src/cli/main.js';
import { tinyAdapter, tinyModel } from '../support/tiny-model.js';

setThreads(1);
const work = mkdtempSync(join(tmpdir(), 'export-'));
let model: string;
let adapter: string;
beforeAll(() => {
  model = tinyModel(join(work, 'model'));
  adapter = tinyAdapter(model, join(work, 'adapter'));
});
afterAll(() => rmSync(work, { recursive: true }));

class Captured {
  text = '';
  write(text: string): void {
    this.text += text;
  }
}

async function run(...words: string[]) {
  const [stdout, stderr] = [new Captured(), new Captured()];
  const code = await main(['export', ...words], { stdout, stderr, env: {} });
  return { code, stdout: stdout.text, stderr: stderr.text };
}

/** sha256 of a file. */
const hash = (path: string): string => contentOfFile(path).sha256;

let count = 0;
const fresh = (): string => join(work, `out-${count++}`);

it('writes a model with its adapter, and says how to run it and what llama.cpp does otherwise', async () => {
  const output = fresh();
  const words = ['--model', model, '--adapter', adapter, '--outtype', 'q4_k_m', '--output', output];
  const { code, stdout, stderr } = await run(...words);
  expect(stderr).toMatch(/Exporting/);
  expect(stderr).toMatch(/notice: llama\.cpp cuts a picture into slices if one of its sides is longer than \d+ pixels/);
  expect(code).toBe(EXIT.ok);
  const [language, mmproj] = [join(output, 'MiniCPM-V-2_6-q4_k_m.gguf'), join(output, 'mmproj-MiniCPM-V-2_6-f16.gguf')];
  const files = `-m ${language} --mmproj ${mmproj} --jinja -c 8192`;
  expect(stdout.split('\n')).toEqual([
    expect.stringMatching(/MiniCPM-V-2_6-q4_k_m\.gguf: .*B, written and read back\.$/),
    expect.stringMatching(/mmproj-MiniCPM-V-2_6-f16\.gguf: .*B, written and read back\.$/),
    'Run it with llama.cpp:',
    `  llama-mtmd-cli ${files} --image photo.jpg -p "What is this?"`,
    `  llama-server ${files}`,
    'Or with Ollama:',
    `  ollama create ${output.slice(work.length + 1)} -f ${join(output, 'Modelfile')}`,
    '',
  ]);
  expect([language, mmproj, join(output, 'Modelfile')].every((file) => existsSync(file))).toBe(true);
  const again = await run(...words);
  expect(again).toMatchObject({ code: EXIT.usage, stderr: expect.stringContaining('new or empty folder') });
});

it('writes folders for vLLM and SGLang: merged, or an adapter without what it saved whole', async () => {
  const merged = fresh();
  const { code, stdout, stderr } = await run(
    ...['--model', model, '--adapter', adapter, '--format', 'safetensors', '--output', merged],
  );
  expect(code).toBe(EXIT.ok);
  expect(stdout).toMatch(
    /^\d+ tensors in .*, [1-9]\d* of them changed by adapters\.\nRun it with vLLM or SGLang:\n {2}vllm serve /,
  );
  expect(stderr).toContain('has no preprocessor_config.json: vLLM and SGLang need');
  expect(readdirSync(merged)).toEqual(expect.arrayContaining(['config.json', 'model.safetensors', 'tokenizer.json']));
  const plain = fresh();
  expect((await run('--model', model, '--format', 'safetensors', '--output', plain)).stdout).toMatch(
    / 0 of them changed/,
  );

  const alone = ['--model', model, '--adapter', adapter, '--lora', '--format', 'safetensors'];
  const refused = await run(...alone, '--output', fresh());
  expect(refused).toMatchObject({
    code: EXIT.usage,
    stderr: expect.stringMatching(/low-rank parts alone.*trained whole[\s\S]*--strip_modules_to_save/),
  });
  const output = fresh();
  const stripped = await run(...alone, '--strip_modules_to_save', '--output', output);
  expect(stripped).toMatchObject({
    code: EXIT.ok,
    stderr: expect.stringMatching(/tensors that were trained whole are left out/),
  });
  const config = JSON.parse(readFileSync(join(output, 'adapter_config.json'), 'utf8'));
  expect(config).toMatchObject({ modules_to_save: null, peft_type: 'LORA' });
});

it('writes into a new folder inside the base, of which nothing changes', async () => {
  const base = tinyModel(join(work, 'outer'));
  const files = (): [string, string][] =>
    readdirSync(base, { withFileTypes: true })
      .filter((entry) => entry.isFile())
      .map(({ name }) => [name, hash(join(base, name))]);
  const before = files();
  const output = join(base, 'served');
  expect((await run('--model', base, '--format', 'safetensors', '--output', output)).code).toBe(EXIT.ok);
  expect(files()).toEqual(before);
  expect(readdirSync(base).filter((name) => name.startsWith('.'))).toEqual([]);
  expect(hash(join(output, 'model.safetensors'))).toBe(hash(join(base, 'model.safetensors')));
  const again = fresh(); // the folder in the base is no part of it
  expect((await run('--model', base, '--format', 'safetensors', '--output', again)).code).toBe(EXIT.ok);
  expect(readdirSync(again).sort()).toEqual(readdirSync(output).sort());
});

it.each([
  [['--outtype', 'f16', '--format', 'safetensors'], /Expected --outtype only with --format gguf/],
  [['--dtype', 'float32'], /Expected --dtype only with --format safetensors, without --lora/],
  [['--strip_modules_to_save'], /Expected --strip_modules_to_save only with --lora --format safetensors/],
  [['--lora'], /Expected one --adapter for --lora but received 0/],
  [['--outtype', 'q3_k'], /f32, f16, bf16, q8_0 or q4_k_m|"q3_k"/],
])('refuses %s', async (words, message) => {
  const { code, stderr } = await run('--model', model, '--output', fresh(), ...words);
  expect(code).toBe(EXIT.usage);
  expect(stderr).toMatch(message);
});

it('prints commands that a shell reads back, wherever the folder is', () => {
  const [model, mmproj] = ["it's 项 目/m.gguf", "it's 项 目/p.gguf"];
  const asRead = (line: string): string[] =>
    execFileSync('sh', ['-c', `for word in ${line}; do printf '%s\\n' "$word"; done`], { encoding: 'utf8' }).split(
      '\n',
    );
  for (const line of llamaCpp({ model, mmproj })) expect(asRead(line)).toEqual(expect.arrayContaining([model, mmproj]));
  expect(asRead(ollama("it's 项 目", 'a b/Modelfile')[0]!).slice(0, 5)).toEqual([
    ...['ollama', 'create', 'it-s-', '-f', 'a b/Modelfile'],
  ]);
  expect(ollama('项目', 'm')).toEqual(['  ollama create minicpm -f m']);
  expect(asRead(adapterServer('the base', 'my adapter')[0]!)).toContain('my adapter=my adapter');
});
