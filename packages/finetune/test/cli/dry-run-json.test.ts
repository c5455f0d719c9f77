/** `train --dry_run json`: one object with what a dry run finds, or with the mistake. */
import { existsSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import { EXIT } from '../../src/cli/exit.js';
import { main } from '../../src/cli/main.js';
import { resolveTrainConfig } from '../support/config-words.js';
import { makePlace, type Place } from '../support/run-place.js';

let place: Place;
const at = (name: string): string => join(place.folder, name);
beforeAll(() => {
  place = makePlace(8);
  vi.stubEnv('XDG_CACHE_HOME', at('cache'));
});
afterAll(() => {
  vi.unstubAllEnvs();
  rmSync(place.folder, { recursive: true });
});

async function dry(...words: readonly string[]) {
  const parts: string[] = [];
  const stdout = { write: (part: string) => parts.push(part) };
  const code = await main(['train', ...words, '--dry_run=json'], { stdout, stderr: { write: () => {} }, env: {} });
  return { code, json: JSON.parse(parts.join('')) };
}

const needed = (): string[] => [
  `--model_name_or_path=${place.model}`,
  `--data_path=${place.data}`,
  `--output_dir=${at('out')}`,
  '--device=cpu',
  '--model_max_length=256',
];

describe('--dry_run json', () => {
  it('has configuration, recipe, numbers, and the memory by category, and starts nothing', async () => {
    const { code, json } = await dry(...needed(), '--use_lora=true', '--do_train=true');
    expect(code).toBe(EXIT.ok);
    expect(json.config).toEqual(resolveTrainConfig([...needed(), '--use_lora=true']).config);
    expect(json.recipe).toContain('use_lora: true\n');
    expect(json.notices).toContain('--do_train true: accepted, without effect: this command always trains.');
    expect(json.lines).toContain('LoRA scale = 64 / 64 = 1');
    const { memory } = json;
    expect(memory).toMatchObject({ device: 'cpu', total: expect.any(Number) });
    const sum = memory.by.reduce((all: number, { bytes }: { bytes: number }) => all + bytes, 0);
    expect(sum).toBeCloseTo(memory.bytes, 0);
    expect(existsSync(at('out'))).toBe(false);
  });

  it('has a mistake with its flag and its cure', async () => {
    const { code, json } = await dry(...needed(), '--use_lora=true', '--tune_llm=true');
    expect(code).toBe(EXIT.usage);
    expect(json).toMatchObject({ config: null, recipe: null, memory: null });
    expect(json.error).toMatchObject({ flag: '--tune_llm', cure: expect.stringMatching(/--tune_llm false/) });
  });

  it('has what a recipe gives, also where the rest is missing; short forms are the flags that they stand for', async () => {
    writeFileSync(at('r.yaml'), 'bf16: true\nlora:\n  lora_r: 8\n');
    const { json } = await dry(`--recipe=${at('r.yaml')}`, '--lora_r=16');
    expect(json.given).toEqual({ dtype: 'bfloat16', lora_r: 16 });
    expect(json.error).toMatchObject({ flag: '--model_name_or_path' });
  });

  it('names file and line of a bad recipe', async () => {
    writeFileSync(at('bad.yaml'), 'lora_r: 8\nlearning_rat: 1\n');
    const { json } = await dry(`--recipe=${at('bad.yaml')}`);
    expect(json).toMatchObject({ given: {}, error: { file: at('bad.yaml'), line: 2 } });
  });
});
