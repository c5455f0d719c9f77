/** finetune_ds.sh and finetune_lora.sh of the repository's root, under the shells that are `sh` somewhere: dash (Debian, Ubuntu) and bash. */
import { spawnSync } from 'node:child_process';
import { copyFileSync, mkdirSync, mkdtempSync, renameSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { RunConfig } from '@minicpm-finetune/run';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { parse } from 'yaml';
import { LONG } from '../../../torch/test/support/long.js';
import { eventsOf, makePlace } from '../support/run-place.js';

const ROOT = fileURLToPath(new URL('../../../..', import.meta.url));
const SHELLS = ['dash', 'bash'].filter((shell) => spawnSync(shell, ['-c', 'exit 0']).status === 0);
/** Under these every case runs the program. */
const FULLY = LONG ? SHELLS : SHELLS.slice(0, 1);

let folder: string;
/** The repository under a name with a space and letters beyond ASCII. */
let spaced: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'scripts-'));
  mkdirSync(join(folder, 'a b'));
  spaced = join(folder, 'a b', '项目');
  symlinkSync(ROOT, spaced);
  const { model, text, folder: made } = makePlace(2);
  renameSync(model, join(folder, 'my model'));
  for (const name of ['my data.json', 'my eval.json', 'd']) copyFileSync(text, join(folder, name));
  rmSync(made, { recursive: true });
});
afterAll(() => rmSync(folder, { recursive: true }));

/** Runs a script of the repository from another folder. */
function run(shell: string, script: string, variables: Record<string, string>, ...words: string[]) {
  const env = { PATH: process.env.PATH, ...variables };
  return spawnSync(shell, [join(spaced, script), ...words], { cwd: folder, env, encoding: 'utf8' });
}

function config(shell: string, script: string, variables: Record<string, string>, ...words: string[]): RunConfig {
  const { status, stdout, stderr } = run(shell, script, variables, ...words, '--dry_run');
  expect(status, stderr).toBe(0);
  return parse(stdout) as RunConfig;
}

const variables = { MODEL: 'my model', DATA: 'my data.json', EVAL_DATA: 'my eval.json', LLM_TYPE: 'qwen' };

describe.each(FULLY)('finetune_ds.sh under %s', (shell) => {
  it('trains everything, with the variables of the official script', () => {
    const {
      model,
      data,
      trainables,
      lora,
      precision,
      schedule,
      eval: evaluation,
    } = config(shell, 'finetune_ds.sh', variables);
    expect(model).toMatchObject({ model_name_or_path: 'my model', llm_type: 'qwen' });
    expect(data).toMatchObject({ data_path: ['my data.json'], eval_data_path: ['my eval.json'] });
    expect(trainables).toEqual({ tune_vision: true, tune_llm: true });
    expect([lora.use_lora, precision.dtype]).toEqual([false, 'bfloat16']);
    expect(schedule).toMatchObject({ max_steps: 10_000, lr_scheduler_type: 'cosine', warmup_ratio: 0.01 });
    expect(evaluation).toMatchObject({ do_eval: true, eval_strategy: 'steps', eval_steps: 1000 });
  });

  it('goes without evaluation and chat format, and lets further flags win', () => {
    const {
      model,
      eval: evaluation,
      optimizer,
    } = config(shell, 'finetune_ds.sh', { DATA: 'd' }, '--learning_rate', '1e-5');
    expect(model).toMatchObject({ model_name_or_path: 'openbmb/MiniCPM-V-2_6', llm_type: null });
    expect(evaluation).toMatchObject({ do_eval: false, eval_strategy: 'no' });
    expect(optimizer).toMatchObject({ learning_rate: 1e-5, weight_decay: 0.1, adam_beta2: 0.95 });
  });

  it('starts as many processes and machines as the variables of the official script say', () => {
    const given = { ...variables, GPUS_PER_NODE: '2', NNODES: '3', NODE_RANK: '1', MASTER_PORT: '6001' };
    const started = run(shell, 'finetune_ds.sh', { ...given, MASTER_ADDR: '10.0.0.1' }, '--dry_run', '--device', 'cpu');
    expect(started.stderr).toContain('total batch = 1 records × 1 accumulation × 6 devices = 6');
    const refused = run(shell, 'finetune_ds.sh', { ...given, MASTER_ADDR: 'localhost' }, '--dry_run');
    expect([refused.status, refused.stderr]).toEqual([
      2,
      expect.stringContaining('--master_addr but received localhost'),
    ]);
  });

  it('hands on a DeepSpeed file and the exit code', () => {
    const { status, stderr } = run(shell, 'finetune_ds.sh', { DEEPSPEED: 'missing file.json' });
    expect(status).toBe(2);
    expect(stderr).toContain('--deepspeed');
    expect(stderr).toContain('missing file.json');
  });
});

describe.each(FULLY)('finetune_lora.sh under %s', (shell) => {
  it('trains adapters', () => {
    const { trainables, lora, batch } = config(shell, 'finetune_lora.sh', variables);
    expect(trainables).toEqual({ tune_vision: true, tune_llm: false });
    expect(lora).toMatchObject({
      use_lora: true,
      lora_r: 64,
      lora_target_modules: 'llm\\..*layers\\.\\d+\\.self_attn\\.(q_proj|k_proj|v_proj|o_proj)',
      lora_modules_to_save: ['resampler', 'vpm'],
    });
    expect(batch.per_device_train_batch_size).toBe(2);
  });

  it('keeps spaces, stars and empty words of further flags', () => {
    const words = ['--lora_modules_to_save', '', '--run_name', '  two  *  "words" '];
    const { lora, output } = config(shell, 'finetune_lora.sh', variables, ...words);
    expect(lora.lora_modules_to_save).toEqual([]);
    expect(output.run_name).toBe('  two  *  "words" ');
  });

  it('trains a tiny model from the repository, the model, the data and into an output folder whose paths have spaces', () => {
    const { model, data, folder: made } = makePlace(4);
    try {
      symlinkSync(made, join(folder, `数 据 ${shell}`));
      const within = (path: string) => join(folder, `数 据 ${shell}`, path.slice(made.length + 1));
      const output = join(folder, `out put ${shell}`);
      const words = ['--max_steps', '2', '--lora_r', '4', '--threads', '1', '--report_to', 'none'];
      const places = { MODEL: within(model), DATA: within(data), OUTPUT_DIR: output, LLM_TYPE: 'qwen' };
      const { status, stderr } = run(shell, 'finetune_lora.sh', places, ...words);
      expect(status, stderr).toBe(0);
      expect(eventsOf(output, 'run_end')).toMatchObject([{ status: 'finished', step: 2 }]);
    } finally {
      rmSync(made, { recursive: true });
    }
  });
});

describe.each(['finetune_ds.sh', 'finetune_lora.sh'])('%s', (script) => {
  it.each([
    variables,
    { DATA: 'd' },
    { ...variables, GPUS_PER_NODE: '2', NNODES: '3', NODE_RANK: '1', MASTER_ADDR: '10.0.0.1', MASTER_PORT: '6001' },
    { ...variables, DEEPSPEED: 'a file.json', OUTPUT_DIR: 'out put' },
  ])('gives the program the same words under every shell: %j', (given) => {
    const programs = join(folder, 'programs');
    mkdirSync(programs, { recursive: true });
    const node = '#!/bin/sh\nfor word; do printf "<%s>\\n" "$word"; done\n';
    writeFileSync(join(programs, 'node'), node, { mode: 0o755 });
    const [first, ...others] = SHELLS.map((shell) => {
      const PATH = `${programs}:${process.env.PATH}`;
      const { status, stdout, stderr } = run(shell, script, { ...given, PATH }, '--run_name', '  two  *  "words" ', '');
      return { status, stderr, words: stdout.split('\n') };
    });
    expect(first).toMatchObject({ status: 0, words: expect.arrayContaining(['<--data_path>', `<${given.DATA}>`]) });
    expect(first!.words.slice(-4)).toEqual(['<--run_name>', '<  two  *  "words" >', '<>', '']);
    for (const other of others) expect(other).toEqual(first);
  });
});

it('is tested under at least one shell that has no pipefail', () => {
  expect(SHELLS).toContain('dash');
});
