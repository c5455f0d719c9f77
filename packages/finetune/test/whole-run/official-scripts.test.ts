/**
 * The argument lists of the official finetune_ds.sh and finetune_lora.sh with their DeepSpeed file, on a tiny model. Only the variables
 * (model, data, format) are ours, and the number of steps: four, or in the long part 1000 of the 10 000, so that evaluation and saving come
 * when the scripts say.
 */
import { mkdirSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { LONG } from '../../../torch/test/support/long.js';
import { CLI, checkpointsIn, type Ended, start } from '../support/cli-run.js';
import { ZERO2 } from '../support/official-zero2.js';
import { eventsOf, makePlace, type Place, readJson } from '../support/run-place.js';

/** As a shell splits it: words, and quoted words. */
const split = (text: string): string[] => [...text.matchAll(/"([^"]*)"|\S+/g)].map(([word, quoted]) => quoted ?? word);

const BOTH = `
  --model_name_or_path $MODEL --llm_type $LLM_TYPE --data_path $DATA --eval_data_path $EVAL_DATA
  --remove_unused_columns false --label_names "labels" --prediction_loss_only false`;
const REST = `
  --logging_strategy "steps" --per_device_train_batch_size 2 --per_device_eval_batch_size 1 --gradient_accumulation_steps 1
  --evaluation_strategy "steps" --save_strategy "steps" --save_steps 1000 --save_total_limit 10
  --learning_rate 1e-6 --weight_decay 0.1 --adam_beta2 0.95 --warmup_ratio 0.01 --lr_scheduler_type "cosine" --logging_steps 1
  --gradient_checkpointing true --deepspeed ds_config_zero2.json --report_to "tensorboard"`;

const SCRIPTS = {
  'finetune_ds.sh': `${BOTH}
    --bf16 true --bf16_full_eval true --fp16 false --fp16_full_eval false --do_train --do_eval --tune_vision true --tune_llm true
    --model_max_length 2048 --max_slice_nums 9 --max_steps 10000 --eval_steps 1000
    --output_dir output/output_minicpmv2 --logging_dir output/output_minicpmv2 ${REST}`,
  'finetune_lora.sh': `${BOTH}
    --bf16 false --bf16_full_eval false --fp16 true --fp16_full_eval true --do_train --do_eval --tune_vision true --tune_llm false
    --use_lora true --lora_target_modules "llm\\..*layers\\.\\d+\\.self_attn\\.(q_proj|k_proj|v_proj|o_proj)"
    --model_max_length 2048 --max_slice_nums 9 --max_steps 10000 --eval_steps 1000
    --output_dir output/output_minicpmv2_lora --logging_dir output/output_minicpmv2_lora ${REST}`,
};

const DEEPSPEED = {
  ...ZERO2,
  zero_optimization: { ...ZERO2.zero_optimization, reduce_bucket_size: 2e8 },
};

let place: Place;
beforeAll(() => {
  place = makePlace(4);
  writeFileSync(join(place.folder, 'ds_config_zero2.json'), JSON.stringify(DEEPSPEED));
});
afterAll(() => rmSync(place.folder, { recursive: true }));

/** Runs a list in the place's folder. The words behind it, if any, override what is in it. */
async function run(script: keyof typeof SCRIPTS, data: string, ...more: readonly string[]): Promise<Ended> {
  const variables: Record<string, string> = { $MODEL: place.model, $LLM_TYPE: 'qwen', $DATA: data, $EVAL_DATA: data };
  const words = split(SCRIPTS[script]).map((word) => variables[word] ?? word);
  const limit = LONG ? 900_000 : 60_000;
  return await start(process.execPath, [CLI, 'train', ...words, ...more], place.folder, limit).ended;
}

describe.each([
  ['finetune_ds.sh', 'output_minicpmv2', 'model.safetensors', 'bfloat16'],
  ['finetune_lora.sh', 'output_minicpmv2_lora', 'adapter_model.safetensors', 'float16'],
] as const)('%s', (script, output, weights, dtype) => {
  const folder = () => join(place.folder, 'output', output);

  it('runs to the end, evaluates, saves and logs', async () => {
    const { code, output: text } = await run(
      script,
      place.data,
      ...split('--max_steps 4 --eval_steps 2 --save_steps 2'),
    );
    expect(code, text).toBe(0);
    expect(readJson(folder(), 'run.json')).toMatchObject({
      precision: { dtype },
      optimizer: { learning_rate: 1e-6, weight_decay: 0.1, adam_beta2: 0.95 },
      schedule: { lr_scheduler_type: 'cosine', warmup_ratio: 0.01 },
    });
    expect(eventsOf(folder(), 'step').map(({ step }) => step)).toEqual([1, 2, 3, 4]);
    expect(eventsOf(folder(), 'eval').map(({ step }) => step)).toContain(2);
    expect(eventsOf(folder(), 'run_end')).toMatchObject([{ status: 'finished', step: 4 }]);
    expect(checkpointsIn(folder())).toEqual({ complete: ['checkpoint-2', 'checkpoint-4'], hidden: [] });
    const files = readdirSync(folder());
    expect(files).toContain(weights);
    expect(files.some((file) => file.startsWith('events.out.tfevents'))).toBe(true);
    rmSync(join(place.folder, 'output'), { recursive: true });
    mkdirSync(join(place.folder, 'output'));
  });

  it.runIf(LONG)('a thousand steps, everything else as it is', { timeout: 900_000 }, async () => {
    const { code, output: text } = await run(script, place.text, '--max_steps', '1000');
    expect(code, text.slice(-2000)).toBe(0);
    expect(eventsOf(folder(), 'step')).toHaveLength(1000);
    expect(eventsOf(folder(), 'eval').map(({ step }) => step)).toContain(1000);
    expect(checkpointsIn(folder()).complete).toEqual(['checkpoint-1000']);
  });
});
