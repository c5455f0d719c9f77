/**
 * `npm run quickstart`: a tiny model learns to read digits.
 *
 * `-- --model 4.6` takes a tiny MiniCPM-V 4.6. It is made of the ordinary commands; each is printed before it runs, to be taken over. Everything lands in
 * `quickstart/` (`quickstart-4.6/`) of the working folder. The last line on standard output is JSON: accuracy before and after, and seconds.
 */
import { spawn } from 'node:child_process';
import { cpSync, existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { createModel, loadModel, saveCheckpoint } from '@minicpm-finetune/minicpm-v';
import { parseConfig } from '@minicpm-finetune/processor';
import { Progress } from 'minicpm-finetune/internal';
import { type DigitRecord, type DigitSet, reworded, withoutPictures, writeDigits, writeRecords } from './digits.js';
import { TINY_MODELS, type TinyModel } from './models.js';

const HERE = dirname(fileURLToPath(import.meta.url));
const COMMAND = join(HERE, '..', '..', '..', 'finetune', 'bin', 'minicpm-finetune.js');
const DIGITS = 10_000;
const HELD_OUT = 997;
/** More pictures made of each digit to train on. */
const VARIANTS = 2;

const progress = new Progress();
const [name, tiny] = chosenModel();
const inFolder = (...parts: string[]): string => join(tiny.folder, ...parts);

function chosenModel(): [name: string, tiny: TinyModel] {
  const { model } = parseArgs({ options: { model: { type: 'string', default: '2.6' } } }).values;
  const found = TINY_MODELS[model];
  if (found !== undefined) return [model, found];
  console.error(`Expected --model ${Object.keys(TINY_MODELS).join(' or ')} but received ${model}.`);
  process.exit(1);
}

function title(text: string): void {
  progress.print(`\n${text}`);
}

/** Prints a command line and runs it; returns the seconds it took. */
async function run(command: string, flags: Record<string, string | number | boolean>): Promise<number> {
  const words = Object.entries(flags).flatMap(([name, value]) => [`--${name}`, String(value)]);
  progress.print(
    `$ minicpm-finetune ${command} ${words.map((word) => (word === '' || /[\s*|()<>?]/.test(word) ? `'${word}'` : word)).join(' ')}`,
  );
  const started = performance.now();
  const child = spawn(process.execPath, [COMMAND, command, ...words], { stdio: ['ignore', 2, 2] });
  const code = await new Promise<number>((resolve, reject) => {
    child.on('error', reject);
    child.on('exit', (status) => resolve(status ?? 1));
  });
  if (code !== 0) throw new Error(`Expected the command above to succeed but it ended with code ${code}.`);
  return (performance.now() - started) / 1000;
}

async function makeData(): Promise<DigitSet> {
  title('Data: 10 000 handwritten digits as PNG files, with questions in English and Chinese');
  const task = progress.task('Writing pictures', HELD_OUT + (DIGITS - HELD_OUT) * (1 + VARIANTS), 'files');
  const digits = await writeDigits(inFolder('data'), VARIANTS, (done) => task.update(done));
  task.finish(digits.train.length + digits.variants.length + digits.test.length);
  progress.print(
    `${digits.train.length} digits to train on, each also turned, resized and shifted a little in ${VARIANTS} ways; ${digits.test.length} held out`,
  );
  writeRecords(inFolder('data', 'train.json'), [...digits.train, ...digits.variants]);
  writeRecords(inFolder('data', 'test.json'), digits.test);
  writeRecords(inFolder('data', 'text.json'), withoutPictures(digits.train));
  writeRecords(inFolder('data', 'wording.json'), reworded(digits.train));
  return digits;
}

/** A model with random weights in the published layout. */
function makeModel(): void {
  title(`Model: MiniCPM-V ${name} in miniature, with random weights`);
  const preprocessor = tiny.preprocessor === null ? undefined : JSON.stringify(tiny.preprocessor, null, 1);
  const model = createModel(parseConfig(JSON.stringify(tiny.config), 'quickstart', preprocessor), { seed: 0 });
  const numbers = [...model.namedParameters()].reduce((sum, [, { data }]) => sum + data.numel, 0);
  saveCheckpoint(model, inFolder('untrained'));
  model.dispose();
  cpSync(tiny.tokenizer, inFolder('untrained'), { recursive: true });
  if (preprocessor !== undefined) writeFileSync(inFolder('untrained', 'preprocessor_config.json'), preprocessor);
  progress.print(`${(numbers / 1e6).toFixed(1)} million parameters in ${inFolder('untrained')}`);
}

/** Answers the held-out digits; returns the share that is exactly right. */
async function accuracy(model: string, file: string): Promise<number> {
  const output = inFolder(`${file}.jsonl`);
  const flags = { model, data_path: inFolder('data', 'test.json'), output, batch_size: 64, max_new_tokens: 8 };
  await run('generate', flags);
  const lines = readFileSync(output, 'utf8').trim().split('\n');
  const answers = lines.map((line) => JSON.parse(line) as { answer: string; reference: string });
  const right = answers.filter(({ answer, reference }) => answer === reference).length;
  progress.print(
    `held-out digits read exactly right: ${right} of ${answers.length} = ${((100 * right) / answers.length).toFixed(1)} %`,
  );
  return right / answers.length;
}

async function trainOnText(): Promise<number> {
  title('The language model learns how to answer, without seeing anything: it can only guess');
  return await run('train', {
    model_name_or_path: inFolder('untrained'),
    data_path: inFolder('data', 'text.json'),
    output_dir: inFolder('base'),
    tune_vision: false,
    model_max_length: 256,
    per_device_train_batch_size: 32,
    max_steps: 40,
    learning_rate: 1e-3,
    lr_scheduler_type: 'cosine',
    warmup_steps: 10,
    logging_steps: 20,
    save_strategy: 'no',
  });
}

async function trainOnDigits(): Promise<number> {
  title(`Full fine-tuning: vision tower, ${tiny.connector} and language model learn to read`);
  return await run('train', {
    model_name_or_path: inFolder('base'),
    data_path: inFolder('data', 'train.json'),
    output_dir: inFolder('full'),
    tune_vision: true,
    tune_llm: true,
    model_max_length: 256,
    per_device_train_batch_size: 32,
    num_train_epochs: 2,
    learning_rate: 1e-3,
    lr_scheduler_type: 'cosine',
    warmup_steps: 50,
    weight_decay: 0.05,
    adam_beta2: 0.95,
    logging_steps: 100,
    save_strategy: 'no',
  });
}

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
    progress.print(`  ${relative(tiny.folder, path)}  ${text}  full: ${plain[0]!.text}  with adapter: ${worded[0]!.text}`);
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
    `\nAsk yourself:\n$ minicpm-finetune chat --model ${inFolder('full')} --adapter ${inFolder('lora')} --image ${inFolder('data', digits.test[0]!.image)} --prompt 'What digit is this?'\n`,
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
  await main();
} catch (error) {
  console.error((error as Error).message);
  process.exitCode = 1;
} finally {
  progress.close();
}
