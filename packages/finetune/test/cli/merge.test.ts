import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { takeLock } from '@minicpm-finetune/run';
import { setThreads } from '@minicpm-finetune/torch';
import { afterAll, expect, it } from 'vitest';
import { EXIT } from '../../src/cli/exit.js';
import { main } from '../../src/cli/main.js';
import { tinyAdapter, tinyModel, writePicture } from '../support/tiny-model.js';

setThreads(1);
const work = mkdtempSync(join(tmpdir(), 'merge-'));
afterAll(() => rmSync(work, { recursive: true }));

class Captured {
  text = '';
  write(text: string): void {
    this.text += text;
  }
}

async function run(...words: string[]) {
  const [stdout, stderr] = [new Captured(), new Captured()];
  const code = await main(words, { stdout, stderr, env: {} });
  return { code, stdout: stdout.text, stderr: stderr.text };
}

it('base with adapter and merged folder give the same answers', async () => {
  const model = tinyModel(join(work, 'model'));
  const adapter = tinyAdapter(model, join(work, 'adapter'));
  writePicture(join(work, 'a.bmp'), 1);
  const record = (content: string) => ({
    image: 'a.bmp',
    conversations: [
      { role: 'user', content },
      { role: 'assistant', content: 'x' },
    ],
  });
  const data = join(work, 'data.json');
  writeFileSync(data, JSON.stringify([record('What?'), record('图片里是什么？')]));
  const generate = async (name: string, ...model: string[]): Promise<string> => {
    const output = join(work, name);
    const words = ['--data_path', data, '--output', output, '--max_new_tokens', '8', '--device', 'cpu'];
    const { code, stdout, stderr } = await run('generate', ...words, ...model);
    expect(stderr).toContain('Answering');
    expect(code).toBe(EXIT.ok);
    expect(stdout).toBe(`2 answers in ${output}. 0.0 % equal the reference (0 of 2).\n`);
    return readFileSync(output, 'utf8');
  };
  const adapted = await generate('adapted.jsonl', '--model', model, '--adapter', adapter);
  const merged = join(work, 'merged');
  const words = ['merge', '--model', model, '--adapter', adapter, '--output_dir', merged, '--max_shard_size', '500KB'];
  const { code, stdout } = await run(...words);
  expect(code).toBe(EXIT.ok);
  expect(stdout).toMatch(
    /^\d+ tensors in .*merged, \d+ of them changed\. Their logits differ from those of base and adapter by at most \d/,
  );
  expect(await generate('merged.jsonl', '--model', merged)).toBe(adapted);
  expect(await generate('base.jsonl', '--model', model)).not.toBe(adapted);
  expect(await run(...words)).toMatchObject({ code: EXIT.usage, stderr: expect.stringContaining('--output_dir') });
  expect(await run('merge', '--model', model)).toMatchObject({
    code: EXIT.usage,
    stderr: expect.stringContaining('Expected a value for --adapter'),
  });
});

it('the output belongs to one process, and what lies there stays', async () => {
  const model = tinyModel(join(work, 'own model'));
  const adapter = tinyAdapter(model, join(work, 'own adapter'));
  const output = join(work, 'own output');
  const merge = () => run('merge', '--model', model, '--adapter', adapter, '--output_dir', output);
  const lock = takeLock(`${output}.lock`, { what: output });
  expect(await merge()).toMatchObject({ code: EXIT.usage, stderr: expect.stringContaining('in use by process') });
  lock.release();
  mkdirSync(output);
  writeFileSync(join(output, 'notes.txt'), 'mine');
  expect(await merge()).toMatchObject({ code: EXIT.usage, stderr: expect.stringContaining('--output_dir') });
  expect(readdirSync(output)).toEqual(['notes.txt']);
  rmSync(join(output, 'notes.txt'));
  expect(await merge()).toMatchObject({ code: EXIT.ok });
  expect(readdirSync(work).filter((name) => /lock|unfinished/.test(name))).toEqual([]);
});
