import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { base, refusal, resolve } from '../support/config-words.js';
import { ZERO2 } from '../support/official-zero2.js';

let folder: string;
let file: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'deepspeed-'));
  file = join(folder, 'ds.json');
});
afterAll(() => rmSync(folder, { recursive: true }));

function withFile(content: unknown, ...words: string[]) {
  writeFileSync(file, typeof content === 'string' ? content : JSON.stringify(content));
  const { config, notices } = resolve('--deepspeed', file, ...words);
  return { config, notices: notices.map((notice) => notice.replaceAll(file, 'F')) };
}

function refused(content: unknown, ...words: string[]) {
  writeFileSync(file, typeof content === 'string' ? content : JSON.stringify(content));
  return refusal([...base, '--deepspeed', file, ...words]);
}

/** The keys of the official ZeRO-2 file that matter here. */
const zero2 = {
  ...ZERO2,
  zero_optimization: { ...ZERO2.zero_optimization, overlap_comm: true },
};

/** The same for ZeRO-3: with a scheduler of its own. */
const zero3 = {
  ...zero2,
  scheduler: { type: 'WarmupLR', params: { warmup_min_lr: 'auto', warmup_max_lr: 'auto', warmup_num_steps: 'auto' } },
  zero_optimization: { stage: 3, offload_optimizer: { device: 'cpu' }, offload_param: { device: 'none' } },
};

const lossScale = [
  '--deepspeed F: fp16.loss_scale sets fp16_loss_scale to 0.',
  '--deepspeed F: fp16.initial_scale_power sets fp16_initial_scale_power to 16.',
  '--deepspeed F: fp16.loss_scale_window sets fp16_loss_scale_window to 1000.',
  '--deepspeed F: fp16.hysteresis sets fp16_hysteresis to 2.',
  '--deepspeed F: fp16.min_loss_scale sets fp16_min_loss_scale to 1.',
];

describe('the official files', () => {
  it('ZeRO-2: auto is the flag, and the stage is taken', () => {
    const { config, notices } = withFile(zero2, '--bf16', '--learning_rate', '1e-6', '--adam_beta2', '0.95');
    expect(config.precision.dtype).toBe('bfloat16');
    expect(config.optimizer).toMatchObject({
      learning_rate: 1e-6,
      adam_beta1: 0.9,
      adam_beta2: 0.95,
      max_grad_norm: 1,
    });
    expect(notices).toEqual([
      ...lossScale,
      '--deepspeed F: zero_optimization.stage sets zero_stage to "2".',
      '--deepspeed F: zero_optimization.overlap_comm: nothing to set here, ignored.',
      '--deepspeed F: steps_per_print, wall_clock_breakdown: nothing to set here, ignored.',
    ]);
  });

  it('ZeRO-3: its WarmupLR loses against a scheduler flag, and the run says why', () => {
    const { config, notices } = withFile(zero3, '--lr_scheduler_type', 'cosine');
    expect(config.schedule).toMatchObject({ lr_scheduler_type: 'cosine', lr_scheduler_kwargs: null });
    expect(notices).toContain(
      '--deepspeed F: scheduler.type is "WarmupLR", but --lr_scheduler_type "cosine" was given and wins, ' +
        'being the more explicit of the two (transformers would have trained with "WarmupLR" and ignored it).',
    );
    expect(notices).toContain('--deepspeed F: zero_optimization.stage sets zero_stage to "3".');
    expect(notices).toContain(
      '--deepspeed F: zero_optimization.offload_optimizer.device sets offload_optimizer to "cpu".',
    );
  });

  it('ZeRO-3: offload is to host memory or to a folder, and the rest of it is said', () => {
    const nvme = { device: 'nvme', nvme_path: '/fast', pin_memory: true, buffer_count: 4 };
    const of = (zero: object) => ({ ...zero2, zero_optimization: { stage: 3, ...zero } });
    const both = withFile(of({ offload_optimizer: { device: 'cpu', pin_memory: true }, offload_param: nvme }));
    expect(both.config.engine).toMatchObject({ offload_optimizer: 'cpu', offload_params: '/fast' });
    expect(both.notices.filter((notice) => notice.includes('offload'))).toEqual([
      '--deepspeed F: zero_optimization.offload_optimizer.device sets offload_optimizer to "cpu".',
      '--deepspeed F: pin_memory of zero_optimization.offload_optimizer: nothing to set here, ignored.',
      '--deepspeed F: zero_optimization.offload_param.nvme_path sets offload_params to "/fast".',
      '--deepspeed F: pin_memory, buffer_count of zero_optimization.offload_param: nothing to set here, ignored.',
    ]);
    const weights = withFile(of({ offload_param: { device: 'cpu' } })).config.engine;
    expect(weights).toMatchObject({ offload_optimizer: 'cpu', offload_params: 'cpu' });
    const none = withFile(of({ offload_optimizer: { device: 'none' }, offload_param: { device: 'none' } }));
    expect(none.config.engine).toMatchObject({ offload_optimizer: 'none', offload_params: 'none' });
    const own = withFile(of({ offload_optimizer: { device: 'cpu' } }), '--offload_optimizer', '/mine');
    expect(own.config.engine.offload_optimizer).toBe('/mine');
  });

  it.each([
    [{ offload_optimizer: { device: 'gpu' } }, /Expected "none", "cpu" or "nvme" for .*offload_optimizer\.device/],
    [{ offload_param: { device: 'nvme' } }, /Expected a folder for .*offload_param\.nvme_path/],
  ])('ZeRO-3: offload to %o is refused', (zero, message) => {
    expect(refused({ ...zero2, zero_optimization: { stage: 3, ...zero } }).message).toMatch(message);
  });

  it('ZeRO-3: without the flag WarmupLR trains, its warmup from the flags', () => {
    const { config, notices } = withFile(zero3, '--warmup_ratio', '0.01');
    expect(config.schedule).toMatchObject({
      lr_scheduler_type: 'WarmupLR',
      lr_scheduler_kwargs: null,
      warmup_ratio: 0.01,
    });
    expect(notices).toContain('--deepspeed F: scheduler.type sets lr_scheduler_type to "WarmupLR".');
  });
});

describe('numbers in the file', () => {
  it('stand in for defaults', () => {
    const { config } = withFile({
      bf16: { enabled: true },
      optimizer: { type: 'Adam', params: { lr: 2e-5, betas: [0.8, 0.9], eps: 1e-6, weight_decay: 0.2 } },
      scheduler: {
        type: 'WarmupLR',
        params: { warmup_min_lr: 1e-6, warmup_max_lr: 2e-5, warmup_num_steps: 30, warmup_type: 'linear' },
      },
      gradient_clipping: 0.5,
      gradient_accumulation_steps: 4,
      train_micro_batch_size_per_gpu: 2,
      train_batch_size: 8,
    });
    expect(config.precision.dtype).toBe('bfloat16');
    expect(config.optimizer).toMatchObject({
      learning_rate: 2e-5,
      adam_beta1: 0.8,
      adam_beta2: 0.9,
      adam_epsilon: 1e-6,
      weight_decay: 0.2,
      max_grad_norm: 0.5,
    });
    expect(config.batch).toMatchObject({ gradient_accumulation_steps: 4, per_device_train_batch_size: 2 });
    expect(config.schedule).toMatchObject({
      lr_scheduler_type: 'WarmupLR',
      warmup_steps: 30,
      lr_scheduler_kwargs: { warmup_min_lr: 1e-6, warmup_max_lr: 2e-5, warmup_type: 'linear' },
    });
  });

  it('lose against flags, with a notice', () => {
    const content = { fp16: { enabled: true }, optimizer: { params: { lr: 2e-5 } }, train_batch_size: 64 };
    const { config, notices } = withFile(content, '--bf16', '--learning_rate', '1e-6');
    expect(config.precision.dtype).toBe('bfloat16');
    expect(config.optimizer.learning_rate).toBe(1e-6);
    expect(notices).toEqual([
      '--deepspeed F: fp16.enabled is "float16", but --dtype "bfloat16" was given and wins, being the more explicit of the two (transformers would have refused to start).',
      '--deepspeed F: optimizer.params.lr is 0.00002, but --learning_rate 0.000001 was given and wins, being the more explicit of the two (transformers would have refused to start).',
      '--deepspeed F: train_batch_size is 64, but per_device_train_batch_size × gradient_accumulation_steps × devices is 8 and wins (transformers would have refused to start).',
    ]);
  });

  it('lose against a recipe, too', () => {
    const recipe = join(folder, 'r.yaml');
    writeFileSync(recipe, 'learning_rate: 1e-6\n');
    const { config, notices } = withFile({ optimizer: { params: { lr: 2e-5 } } }, '--recipe', recipe);
    expect(config.optimizer.learning_rate).toBe(1e-6);
    expect(notices[0]).toContain("the recipe's learning_rate 0.000001 was given and wins");
  });

  it('say nothing where they agree', () => {
    const content = { optimizer: { params: { lr: 1e-6 } }, bf16: { enabled: true }, train_batch_size: 8 };
    expect(withFile(content, '--bf16', '--learning_rate', '1e-6').notices).toEqual([]);
  });

  it('a precision switched off is heard', () => {
    expect(withFile({ bf16: { enabled: false } }, '--bf16').notices).toEqual([
      '--deepspeed F: bf16.enabled is false, but bfloat16 was asked for and wins.',
    ]);
    expect(withFile({ bf16: { enabled: false } }).notices).toEqual([]);
  });
});

describe('mistakes', () => {
  it.each<[unknown, RegExp]>([
    ['{', /Expected a key in double quotes in the JSON of the DeepSpeed file but received the end/],
    [[1], /Expected a JSON object for --deepspeed but received \[1\]/],
    [{ optimizer: { type: 'Lamb' } }, /Expected "AdamW" for optimizer.type but received "Lamb"/],
    [{ optimizer: { type: 'Adam', params: { adam_w_mode: false } } }, /Expected "AdamW" for optimizer.type/],
    [{ scheduler: { type: 'OneCycle' } }, /Expected "WarmupLR" for scheduler.type but received "OneCycle"/],
    [{ optimizer: { params: { lr: 'high' } } }, /a number of at least 0 for optimizer.params.lr but received "high"/],
    [{ gradient_clipping: -1 }, /a number of at least 0 for gradient_clipping but received -1/],
    [{ bf16: { enabled: 'yes' } }, /true, false or "auto" for bf16.enabled but received "yes"/],
    [{ bf16: { enabled: true }, fp16: { enabled: true } }, /one precision but received both/],
    [{ scheduler: { type: 'WarmupLR', params: { warmup_type: 'cubic' } } }, /one of log, linear for warmup_type/],
  ])('%j', (content, message) => {
    expect(refused(content).message).toMatch(message);
  });

  it('a missing file', () => {
    expect(refusal([...base, '--deepspeed', join(folder, 'missing.json')]).message).toMatch(/--deepspeed .*ENOENT/);
  });

  it('another scheduler loses against the flag like WarmupLR does', () => {
    const { config } = withFile({ scheduler: { type: 'OneCycle' } }, '--lr_scheduler_type', 'cosine');
    expect(config.schedule.lr_scheduler_type).toBe('cosine');
  });
});
