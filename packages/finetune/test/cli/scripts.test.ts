import { spawnSync } from 'node:child_process';
import { tmpdir } from 'node:os';
import { fileURLToPath } from 'node:url';
import type { RunConfig } from '@minicpm-finetune/run';
import { describe, expect, it } from 'vitest';
import { parse } from 'yaml';

/** Runs a script of the repository's root from another folder. */
function run(script: string, variables: Record<string, string>, ...words: string[]) {
  const path = fileURLToPath(new URL(`../../../../${script}`, import.meta.url));
  const env = { PATH: process.env.PATH, ...variables };
  return spawnSync('bash', [path, ...words], { cwd: tmpdir(), env, encoding: 'utf8' });
}

function config(script: string, variables: Record<string, string>, ...words: string[]): RunConfig {
  const { status, stdout, stderr } = run(script, variables, ...words, '--dry_run');
  expect(status, stderr).toBe(0);
  return parse(stdout) as RunConfig;
}

const variables = { MODEL: 'my model', DATA: 'my data.json', EVAL_DATA: 'my eval.json', LLM_TYPE: 'llama3' };

describe('finetune_ds.sh', () => {
  it('trains everything, with the variables of the official script', () => {
    const {
      model,
      data,
      trainables,
      lora,
      precision,
      schedule,
      eval: evaluation,
    } = config('finetune_ds.sh', variables);
    expect(model).toMatchObject({ model_name_or_path: 'my model', llm_type: 'llama3' });
    expect(data).toMatchObject({ data_path: ['my data.json'], eval_data_path: ['my eval.json'] });
    expect(trainables).toEqual({ tune_vision: true, tune_llm: true });
    expect([lora.use_lora, precision.dtype]).toEqual([false, 'bfloat16']);
    expect(schedule).toMatchObject({ max_steps: 10_000, lr_scheduler_type: 'cosine', warmup_ratio: 0.01 });
    expect(evaluation).toMatchObject({ do_eval: true, eval_strategy: 'steps', eval_steps: 1000 });
  });

  it('goes without evaluation and chat format, and lets further flags win', () => {
    const { model, eval: evaluation, optimizer } = config('finetune_ds.sh', { DATA: 'd' }, '--learning_rate', '1e-5');
    expect(model).toMatchObject({ model_name_or_path: 'openbmb/MiniCPM-V-2_6', llm_type: null });
    expect(evaluation).toMatchObject({ do_eval: false, eval_strategy: 'no' });
    expect(optimizer).toMatchObject({ learning_rate: 1e-5, weight_decay: 0.1, adam_beta2: 0.95 });
  });

  it('hands on a DeepSpeed file and the exit code', () => {
    const { status, stderr } = run('finetune_ds.sh', { DEEPSPEED: 'missing.json' });
    expect(status).toBe(2);
    expect(stderr).toContain('--deepspeed');
  });
});

describe('finetune_lora.sh', () => {
  it('trains adapters', () => {
    const { trainables, lora, batch } = config('finetune_lora.sh', variables);
    expect(trainables).toEqual({ tune_vision: true, tune_llm: false });
    expect(lora).toMatchObject({
      use_lora: true,
      lora_r: 64,
      lora_target_modules: 'llm\\..*layers\\.\\d+\\.self_attn\\.(q_proj|k_proj|v_proj|o_proj)',
      lora_modules_to_save: ['resampler', 'vpm'],
    });
    expect(batch.per_device_train_batch_size).toBe(2);
  });
});
