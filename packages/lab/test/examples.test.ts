import { spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { makePlace } from '../../finetune/test/support/run-place.js';
import { tinyAdapter, tinyModel, writePicture } from '../../finetune/test/support/tiny-model.js';

const ROOT = join(import.meta.dirname, '..', '..', '..');
const work = mkdtempSync(join(tmpdir(), 'examples-'));
const place = makePlace(4);
afterAll(() => {
  for (const folder of [work, place.folder]) rmSync(folder, { recursive: true });
});

/** Runs a compiled example and returns what it printed. */
function run(name: string, ...words: string[]): string {
  const file = join(ROOT, 'examples', 'dist', `${name}.js`);
  const { status, stdout, stderr } = spawnSync(process.execPath, [file, ...words], { cwd: work, encoding: 'utf8' });
  expect(status, stderr).toBe(0);
  return stdout;
}

/** One test for each file of examples/. */
const EXAMPLES: Readonly<Record<string, () => void>> = {
  tensors: () => {
    expect(run('tensors')).toContain('y = 2.00 x + 1.00');
  },
  chat: () => {
    const model = tinyModel(join(work, 'model'));
    const adapter = tinyAdapter(model, join(work, 'adapter'));
    const output = run('chat', model, writePicture(join(work, 'picture.bmp'), 1), adapter);
    const answers = JSON.parse(output.trim().split('\n').at(-1)!) as { first: string; second: string };
    expect(output.startsWith(answers.first)).toBe(true); // the streamed answer begins as the shorter one of the batch
    expect(answers.second).not.toBe('');
  },
  train: () => {
    const output = join(work, 'run');
    const lines = run('train', place.model, place.data, output).trim().split('\n');
    expect(lines.slice(0, -1).map((line) => line.replace(/[\d.]+$/, ''))).toEqual(['step 1: loss ', 'step 2: loss ']);
    expect(JSON.parse(lines.at(-1)!)).toMatchObject({ stopped: null, steps: 2 });
    expect(existsSync(join(output, 'adapter_model.safetensors'))).toBe(true);
  },
  answers: () => {
    const adapter = tinyAdapter(place.model, join(work, 'answers-adapter'));
    const output = join(work, 'merged');
    const [summary] = run('answers', place.model, adapter, place.data, output).trim().split('\n');
    expect(JSON.parse(summary!)).toMatchObject({ records: 4, resumed: 0 });
    expect(readFileSync(`${output}.jsonl`, 'utf8').trim().split('\n')).toHaveLength(4);
    expect(existsSync(join(output, 'model.safetensors'))).toBe(true);
  },
};

describe('examples', () => {
  const files = readdirSync(join(ROOT, 'examples')).filter((name) => name.endsWith('.ts'));

  it.each(files)('%s works', (file) => {
    const test = EXAMPLES[file.replace('.ts', '')];
    expect(test, `a test for examples/${file} in this file`).toBeDefined();
    test!();
  });

  it.each(files)('%s has at most 40 lines', (file) => {
    expect(
      readFileSync(join(ROOT, 'examples', file), 'utf8')
        .trimEnd()
        .split('\n').length,
    ).toBeLessThanOrEqual(40);
  });
});
