/** Whole runs with other encodings of records: what the result keeps of them, and what commands make of that. */
import { spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { setThreads } from '@minicpm-finetune/torch';
import { afterAll, describe, expect, it } from 'vitest';
import { tinyCheckpoint } from '../../../minicpm-v/test/support/tiny.js';
import { command } from '../support/command.js';
import { writePicture } from '../support/tiny-model.js';

setThreads(1);
const work = mkdtempSync(join(tmpdir(), 'encoding-'));
afterAll(() => rmSync(work, { recursive: true }));
const at = (...path: string[]): string => join(work, ...path);

const model = tinyCheckpoint(work, 'minicpm-v-4_6');
const older = tinyCheckpoint(work, 'minicpm-v-2_6');
writePicture(at('a.bmp'), 1);
const data = at('data.json');
const conversations = [
  { role: 'user', content: '<image>\nWhat is it?' },
  { role: 'assistant', content: 'Noise.' },
];
writeFileSync(data, JSON.stringify([{ id: '0', image: 'a.bmp', conversations }]));

/** The standard error of a command that succeeds. */
async function said(...words: readonly string[]): Promise<string> {
  const { code, stderr } = await command(...words);
  expect(code, stderr).toBe(0);
  return stderr;
}

const json = (...path: string[]): Record<string, unknown> =>
  JSON.parse(readFileSync(at(...path), 'utf8')) as Record<string, unknown>;

const LORA = ['--use_lora', 'true', '--lora_r', '2', '--tune_vision', 'false', '--lora_modules_to_save', 'resampler'];

/** Trains a step. Returns what was said. */
async function train(base: string, output: string, ...words: readonly string[]): Promise<string> {
  const all = ['train', '--model_name_or_path', base, '--data_path', data, '--output_dir', at(output)];
  const rest = '--max_steps 1 --device cpu --threads 1 --learning_rate 0 --model_max_length 2048'.split(' ');
  return await said(...all, ...rest, ...words);
}

const ask = (base: string, ...words: readonly string[]): Promise<string> =>
  said('chat', '--model', base, '--prompt', 'What?', '--max_new_tokens', '1', '--device', 'cpu', ...words);

const AS_WRITTEN =
  'trained with --thinking as_written: a prompt ends with an empty think block, which answers without a thought did not have in training.';
const OFFICIAL =
  "trained with --compat official: prompts are not written as the official training code writes them, but as the model's own chat code does.";
const written = { compat: 'inference', thinking: 'as_written' };

/** What `serve` writes as one line of JSON when the model is ready, and its standard error until then. */
async function ready(...words: readonly string[]): Promise<{ notices: string[]; stderr: string }> {
  const bin = join(import.meta.dirname, '..', '..', 'bin', 'minicpm-finetune.js');
  const all = [bin, 'serve', ...words, '--port', '0', '--json', '--device', 'cpu', '--exit_with_parent'];
  const child = spawn(process.execPath, all, { stdio: ['pipe', 'pipe', 'pipe'] });
  let stderr = '';
  child.stderr.on('data', (text) => {
    stderr += text;
  });
  const ended = new Promise((resolve) => child.on('close', resolve));
  let notices: string[] | undefined;
  for await (const line of createInterface({ input: child.stdout })) {
    const happening = JSON.parse(line) as { event: string; notices?: string[] };
    if (happening.event !== 'ready') continue;
    notices = happening.notices;
    break;
  }
  child.stdin.end();
  await ended;
  expect(notices, stderr).toBeDefined();
  return { notices: notices!, stderr };
}

describe('think blocks of a training', () => {
  it('are in the manifest of its adapter, and every command uses them or says so', async () => {
    await train(model, 'adapter', '--thinking', 'as_written', ...LORA);
    const adapter = at('adapter');
    expect(json('adapter', 'minicpm_manifest.json').encoding).toEqual(written);
    const notice = `adapter ${adapter}: ${AS_WRITTEN}`;
    expect(await ask(model, '--adapter', adapter)).toContain(notice);
    expect(await ask(model)).not.toContain('--thinking');
    const answers = ['--data_path', data, '--output', at('answers.jsonl'), '--max_new_tokens', '1', '--device', 'cpu'];
    expect(await said('generate', '--model', model, '--adapter', adapter, ...answers)).toContain(notice);
    expect((await ready('--model', model, '--adapter', `own=${adapter}`)).stderr).toContain(notice);

    const used = 'records are encoded as in the training: compat inference, thinking as_written.';
    const looks = ['--model_name_or_path', model, '--data_path', data, '--adapter', adapter];
    const checked = await command('check-data', ...looks);
    expect(checked.stderr).toContain(used);
    const rendered = await command('render', ...looks);
    expect(rendered.stderr).toContain(used);
    expect(rendered.stdout).not.toContain('<think>');
    const other = await command('render', ...looks, '--thinking', 'inference');
    expect(other.stderr).not.toContain('as in the training');
    expect(other.stdout).toContain('<think>');
  }, 60_000);

  it('are those of the next training unless a flag says otherwise, and of the merged model', async () => {
    const adapter = at('adapter');
    const again = ['--use_lora', 'true', '--lora_weight_path', adapter];
    await train(model, 'next', ...again);
    expect(json('next', 'minicpm_manifest.json').encoding).toEqual(written);
    expect(await train(model, 'other', ...again, '--thinking', 'every_turn')).toContain(
      '--thinking "every_turn": the adapter was trained with "as_written"; the given value is used.',
    );
    expect(json('other', 'minicpm_manifest.json').encoding).toEqual({ compat: 'inference', thinking: 'every_turn' });
    const merge = ['merge', '--model', model, '--adapter', adapter, '--output_dir', at('merged')];
    expect(await said(...merge)).toContain(AS_WRITTEN);
    expect(json('merged', 'config.json').record_encoding).toEqual(written);
    expect(await ask(at('merged'))).toContain(`the model: ${AS_WRITTEN}`);
  }, 60_000);

  it('are in the config.json of a full training, which otherwise stays as it was', async () => {
    await train(model, 'full', '--thinking', 'as_written');
    const { record_encoding: encoding, ...rest } = json('full', 'config.json');
    expect(encoding).toEqual(written);
    expect(rest).toEqual(json('minicpm-v-4_6', 'config.json'));
    const { notices, stderr } = await ready('--model', at('full'));
    expect(notices).toEqual([`the model: ${AS_WRITTEN}`]);
    expect(stderr).toContain(`notice: the model: ${AS_WRITTEN}`);
    const exported = ['export', '--model', at('full'), '--output', at('exported'), '--format', 'safetensors'];
    expect(await said(...exported)).toContain(`the model: ${AS_WRITTEN}`);
    expect(json('exported', 'config.json').record_encoding).toEqual(written);
    expect(await train(at('full'), 'published')).toContain(
      'records are encoded with compat inference, thinking inference, the checkpoint was trained with compat inference, thinking as_written.',
    );
    expect(await ask(at('published'))).not.toContain('--thinking');
  }, 60_000);
});

it('says that a training was official, and without effect what a model has no use for', async () => {
  await train(older, 'official', '--compat', 'official', ...LORA);
  expect(json('official', 'minicpm_manifest.json').encoding).toEqual({ compat: 'official', thinking: 'inference' });
  expect(await ask(older, '--adapter', at('official'))).toContain(`adapter ${at('official')}: ${OFFICIAL}`);
  await train(older, 'thoughtless', '--thinking', 'as_written', ...LORA);
  expect(json('thoughtless', 'minicpm_manifest.json').encoding).toEqual({ compat: 'inference', thinking: 'inference' });
  expect(await ask(older, '--adapter', at('thoughtless'))).not.toContain('--thinking');
}, 60_000);
