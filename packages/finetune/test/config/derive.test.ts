import { derive } from '@minicpm-finetune/run';
import { describe, expect, it } from 'vitest';
import { resolve } from '../support/config-words.js';

function derived(samples: number, words: string, worldSize = 1) {
  return derive(resolve(...words.split(' ')).config, samples, worldSize);
}

describe('derive', () => {
  it('steps of a run by epochs', () => {
    const numbers = derived(9000, '--per_device_train_batch_size 64 --warmup_ratio 0.01');
    expect(numbers).toMatchObject({ stepsPerEpoch: 141, totalSteps: 423, epochs: 3, warmupSteps: 5 });
    expect(numbers.lines).toEqual([
      'steps per epoch = ceil(9000 / (64 × 1)) = 141',
      'total steps = ceil(3 × 141) = 423',
      'warmup steps = ceil(423 × 0.01) = 5',
    ]);
  });

  it('steps of a run by max_steps', () => {
    const numbers = derived(9000, '--per_device_train_batch_size 2 --max_steps 10000 --warmup_steps 7');
    expect(numbers).toMatchObject({ stepsPerEpoch: 4500, totalSteps: 10_000, warmupSteps: 7 });
    expect(numbers.epochs).toBeCloseTo(2.2222, 4);
    expect(numbers.lines).toEqual([
      'steps per epoch = ceil(9000 / (2 × 1)) = 4500',
      'epochs = 10000 steps / 4500 = 2.22',
    ]);
  });

  it('accumulation and devices, a fraction of an epoch, a last smaller batch', () => {
    const words = '--per_device_train_batch_size 2 --gradient_accumulation_steps 4 --num_train_epochs 0.5';
    const numbers = derived(97, words, 2);
    expect(numbers).toMatchObject({ stepsPerEpoch: 7, totalSteps: 4 });
    expect(numbers.lines[0]).toBe('steps per epoch = ceil(97 / (2 × 4 × 2 devices)) = 7');
    const dropped = derived(97, `${words} --dataloader_drop_last`, 2);
    expect(dropped).toMatchObject({ stepsPerEpoch: 6 });
    expect(dropped.lines[0]).toBe('steps per epoch = ceil(floor(97 / 2) / (4 × 2 devices)) = 6');
  });

  it('counts packed sequences', () => {
    const numbers = derived(41, '--packing --per_device_train_batch_size 2 --dataloader_drop_last');
    expect(numbers.lines[0]).toBe('steps per epoch = ceil(41 packed sequences / (2 × 1)) = 21');
  });

  it('is at least one step', () => {
    expect(derived(3, '--dataloader_drop_last --num_train_epochs 1')).toMatchObject({
      stepsPerEpoch: 1,
      totalSteps: 1,
    });
  });

  it('shares of all steps are rounded up', () => {
    const numbers = derived(
      1000,
      '--max_steps 101 --logging_steps 0.1 --eval_data_path e --eval_strategy steps --eval_steps 0.5 --save_steps 50 --warmup_steps 0.2',
    );
    expect(numbers).toMatchObject({ loggingSteps: 11, evalSteps: 51, saveSteps: 50, warmupSteps: 21 });
    expect(numbers.lines.slice(2)).toEqual([
      'warmup steps = ceil(101 × 0.2) = 21',
      'logging_steps = ceil(101 × 0.1) = 11',
      'eval_steps = ceil(101 × 0.5) = 51',
    ]);
  });

  it('no steps where the strategy is another; no warmup for a constant rate', () => {
    const numbers = derived(
      10,
      '--save_strategy epoch --logging_strategy no --lr_scheduler_type constant --warmup_steps 3',
    );
    expect(numbers).toMatchObject({
      loggingSteps: undefined,
      evalSteps: undefined,
      saveSteps: undefined,
      warmupSteps: 0,
    });
  });
});
