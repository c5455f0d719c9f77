import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { VERSIONS } from '@minicpm-finetune/processor';
import { describe, expect, it } from 'vitest';
import { resolveConfig } from '../../finetune/src/config/resolve.js';

const FOLDER = join(import.meta.dirname, '..', '..', '..', 'recipes');
const METHODS = ['full', 'lora', 'qlora'] as const;

describe('recipes', () => {
  it('are there for every model and method', () => {
    const names = Object.keys(VERSIONS).flatMap((model) => METHODS.map((method) => `${model}-${method}.yaml`));
    expect(readdirSync(FOLDER).sort()).toEqual(names.sort());
  });

  it.each(readdirSync(FOLDER))('%s says what its name says, and nothing without effect', (name) => {
    const [, model, method] = /^(.*)-(\w+)\.yaml$/.exec(name)!;
    const { title } = VERSIONS[model as keyof typeof VERSIONS];
    const { config, notices } = resolveConfig({ recipe: join(FOLDER, name) });
    expect(notices).toEqual([]);
    expect(config.model.model_name_or_path).toBe(`openbmb/${title}`);
    expect(config.lora.use_lora).toBe(method !== 'full');
    expect(config.lora.q_lora).toBe(method === 'qlora');
    expect(config.trainables.tune_llm).toBe(method === 'full');
    expect(readFileSync(join(FOLDER, name), 'utf8')).toContain(`--recipe recipes/${name}`);
  });
});
