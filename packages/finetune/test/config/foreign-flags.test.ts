import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { CHAT_FLAGS, CHAT_TEXT } from '../../src/cli/chat/flags.js';
import { parseFlags } from '../../src/cli/command.js';
import { COMMANDS } from '../../src/cli/commands.js';
import { FOREIGN_NAMES, foreignFlag } from '../../src/config/foreign-flags.js';
import { TRAIN_FLAGS } from '../../src/config/train-flags.js';
import { base, refusal, userError } from '../support/config-words.js';

describe("other tools' names of flags", () => {
  it.each([
    ['--lora_rank', 'It is called --lora_r here.'],
    ['--lora_target', 'It is called --lora_target_modules here.'],
    ['--target_modules', 'It is called --lora_target_modules here.'],
    ['--cutoff_len', 'It is called --model_max_length here.'],
    ['--max_seq_length', 'It is called --model_max_length here.'],
    ['--num_epochs', 'It is called --num_train_epochs here.'],
    ['--batch_size', 'It is called --per_device_train_batch_size here.'],
    ['--model_id_or_path', 'It is called --model_name_or_path here.'],
    ['--model', 'It is called --model_name_or_path here.'],
    ['--dataset', 'It is called --data_path here.'],
    ['--val_dataset', 'It is called --eval_data_path here.'],
    ['--train_type', 'Write --use_lora true instead.'],
    ['--finetuning_type', 'Write --use_lora true instead.'],
    ['--load_in_4bit', 'Write --q_lora true instead.'],
    ['--freeze_vit', 'Write --tune_vision false instead.'],
    ['--freeze-llm', 'Write --tune_llm false instead.'],
    ['--torch_dtype', 'It is called --dtype here.'],
    ['--lr', 'It is called --learning_rate here.'],
    ['--adapters', 'It is called --lora_weight_path here.'],
    ['--flash_attn', 'Leave it out: attention chooses its kernel itself.'],
  ])('train %s', (name, cure) => {
    const error = refusal([...base, name, '8']);
    expect(error.message).toBe(`Expected a known flag but received ${name}.`);
    expect(error.flag).toBe(name);
    expect(error.cure).toBe(`${cure} \`minicpm-finetune train --help\` lists all flags.`);
  });

  it.each([
    ['--model_name_or_path', '--model'],
    ['--lora_weight_path', '--adapter'],
    ['--adapter_name_or_path', '--adapter'],
    ['--query', '--prompt'],
    ['--images', '--image'],
    ['--max_tokens', '--max_new_tokens'],
  ])('chat %s is %s', (name, right) => {
    const error = userError(() => parseFlags(CHAT_TEXT, CHAT_FLAGS, [name, 'x']));
    expect(error.cure).toMatch(`It is called ${right} here.`);
  });

  it.each(COMMANDS.map(({ text, flags }) => [text.name, flags] as const))(
    '%s answers each with a sentence',
    (_, flags) => {
      const own = new Set(flags.map(({ name }) => name));
      for (const name of [
        'lora_rank',
        'lora_target',
        'cutoff_len',
        'num_epochs',
        'batch_size',
        'model_id_or_path',
        'train_type',
      ]) {
        if (own.has(name)) continue;
        const cure = foreignFlag(name, own, 'command line')!;
        const suggested = /^(?:It is called|Write) --(\w+)/.exec(cure)?.[1];
        if (suggested === undefined)
          expect(cure).toMatch(/^Leave it out: it means --\w+, which this command does not have\.$/);
        else expect(own.has(suggested), cure).toBe(true);
      }
    },
  );

  it('in a recipe', () => {
    const folder = mkdtempSync(join(tmpdir(), 'foreign-'));
    const file = join(folder, 'r.yaml');
    writeFileSync(file, 'use_lora: true\nlora_rank: 8\n');
    const error = refusal([...base, '--recipe', file]);
    expect([error.message, error.line]).toEqual(['Expected a known key for the recipe but received lora_rank.', 2]);
    expect(error.cure).toMatch(/^It is called lora_r here\. /);
    writeFileSync(file, 'lora:\n  freeze_vit: true\n');
    expect(refusal([...base, '--recipe', file]).cure).toMatch(/^Write tune_vision: false instead\. /);
    rmSync(folder, { recursive: true });
  });

  it('are listed once, and none is a flag of train', () => {
    expect(FOREIGN_NAMES.filter((name, i) => FOREIGN_NAMES.indexOf(name) !== i)).toEqual([]);
    const own = new Set(TRAIN_FLAGS.map(({ name }) => name));
    const elsewhere = ['model_name_or_path', 'lora_weight_path'];
    expect(FOREIGN_NAMES.filter((name) => own.has(name) && !elsewhere.includes(name))).toEqual([]);
  });

  it('each lead to a flag of some command', () => {
    const all = COMMANDS.map(({ flags }) => new Set(flags.map(({ name }) => name)));
    for (const name of FOREIGN_NAMES) {
      expect(
        all.some((known) =>
          /^(It is called|Write|Leave it out: (?!it means))/.test(foreignFlag(name, known, 'command line')!),
        ),
        name,
      ).toBe(true);
    }
  });

  it('leave mistyped names to the nearest flag', () => {
    expect(refusal([...base, '--lora_aplha', '3']).cure).toMatch(/^Did you mean --lora_alpha\?/);
  });
});
