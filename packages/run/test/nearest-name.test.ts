import { describe, expect, it } from 'vitest';
import { nearestName } from '../src/index.js';

const flags = ['--learning_rate', '--lora_r', '--lora_alpha', '--bf16', '--fp16', '--max_steps', '--eval_steps'];

describe('nearestName', () => {
  it.each([
    ['--learning-rate', '--learning_rate'],
    ['--learnign_rate', '--learning_rate'],
    ['--lr_learning_rate', '--learning_rate'],
    ['--lora_apha', '--lora_alpha'],
    ['--BF16', '--bf16'],
    ['--max_step', '--max_steps'],
    ['--lorar', '--lora_r'],
  ])('%s -> %s', (name, nearest) => {
    expect(nearestName(name, flags)).toBe(nearest);
  });

  it('prefers a swap of neighbours over a substitution elsewhere', () => {
    expect(nearestName('abdc', ['abcd', 'abdx'])).toBe('abcd');
  });

  it('stays silent when nothing is near', () => {
    expect(nearestName('--temperature', flags)).toBeUndefined();
    expect(nearestName('x', flags)).toBeUndefined();
    expect(nearestName('--bf16', [])).toBeUndefined();
  });
});
