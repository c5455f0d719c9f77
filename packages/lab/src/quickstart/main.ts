/**
 * `npm run quickstart`: a tiny model learns to read digits. With `-- --preference` it is taught wrong answers in part and learns to prefer
 * right ones.
 *
 * `-- --model 4.6` takes a tiny MiniCPM-V 4.6. It is made of the ordinary commands; each is printed before it runs, to be taken over. Everything lands in
 * `quickstart/` (`quickstart-4.6/`) of the working folder. The last line on standard output is JSON: accuracy before and after, and seconds.
 */
import { existsSync, mkdirSync, rmSync } from 'node:fs';
import { relative } from 'node:path';
import { loadModel } from '@minicpm-finetune/minicpm-v';
import type { DigitRecord } from './digits.js';
import { preferenceQuickstart } from './preference.js';
import {
  accuracy,
  inFolder,
  makeData,
  makeModel,
  progress,
  run,
  tiny,
  title,
  trainOnDigits,
  trainOnText,
} from './tools.js';

async function trainWording(): Promise<number> {
  title('LoRA: a small adapter on top changes the wording of the answers');
  return await run('train', {
    model_name_or_path: inFolder('full'),
    data_path: inFolder('data', 'wording.json'),
    output_dir: inFolder('lora'),
    use_lora: true,
    tune_vision: false,
    lora_modules_to_save: '',
    lora_r: 8,
    lora_alpha: 16,
    lora_target_modules: tiny.loraTargets,
    model_max_length: 256,
    per_device_train_batch_size: 32,
    max_steps: 150,
    learning_rate: 4e-3,
    lr_scheduler_type: 'cosine',
    warmup_steps: 10,
    logging_steps: 50,
    save_strategy: 'no',
  });
}

/** Loads model and adapter as a program would, and asks. */
async function showAnswers(records: readonly DigitRecord[]): Promise<void> {
  title(`Answers: await loadModel({ model: '${inFolder('full')}', adapter: '${inFolder('lora')}' })`);
  using before = await loadModel({ model: inFolder('full') });
  using after = await loadModel({ model: inFolder('full'), adapter: inFolder('lora') });
  for (const { image, conversations } of records) {
    const text = conversations[0]!.content.replace('<image>\n', '');
    const path = inFolder('data', image);
    const ask = [{ role: 'user' as const, content: [{ image: path }, text] }];
    const [plain, worded] = await Promise.all([
      before.generate([ask], { maxNewTokens: 24 }),
      after.generate([ask], { maxNewTokens: 24 }),
    ]);
    progress.print(
      `  ${relative(tiny.folder, path)}  ${text}  full: ${plain[0]!.text}  with adapter: ${worded[0]!.text}`,
    );
  }
}

async function main(): Promise<void> {
  const started = performance.now();
  const seconds = (): number => Math.round((performance.now() - started) / 100) / 10;
  mkdirSync(tiny.folder, { recursive: true });
  for (const made of ['untrained', 'base', 'full', 'lora', 'before.jsonl', 'after.jsonl']) {
    rmSync(inFolder(made), { recursive: true, force: true });
    if (made.endsWith('.jsonl')) rmSync(inFolder(`${made}.settings.json`), { force: true });
  }
  const digits = await makeData();
  makeModel();
  const textSeconds = await trainOnText();
  const before = await accuracy(inFolder('base'), 'before');
  const trainSeconds = await trainOnDigits();
  const after = await accuracy(inFolder('full'), 'after');
  const loraSeconds = await trainWording();
  await showAnswers(digits.test.filter((_, i) => i % 167 === 0));
  progress.print(
    `\nAsk yourself:\n$ npx minicpm-finetune chat --model ${inFolder('full')} --adapter ${inFolder('lora')} --image ${inFolder('data', digits.test[0]!.image)} --prompt 'What digit is this?'\n`,
  );
  if (!existsSync(inFolder('lora', 'adapter_model.safetensors')))
    throw new Error('Expected the adapter to be saved but it is not there.');
  console.log(
    JSON.stringify({
      accuracy_before: before,
      accuracy_after: after,
      text_seconds: Math.round(textSeconds),
      train_seconds: Math.round(trainSeconds),
      lora_seconds: Math.round(loraSeconds),
      seconds: seconds(),
    }),
  );
}

try {
  await (process.argv.includes('--preference') ? preferenceQuickstart() : main());
} catch (error) {
  console.error((error as Error).message);
  process.exitCode = 1;
} finally {
  progress.close();
}
