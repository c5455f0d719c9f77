/** What the quickstarts share. The folder, commands that are printed and run, the model, and how well it reads. */
import { spawn } from 'node:child_process';
import { cpSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { createModel, saveCheckpoint } from '@minicpm-finetune/minicpm-v';
import { parseConfig } from '@minicpm-finetune/processor';
import { Progress } from 'minicpm-finetune/internal';
import { type DigitSet, reworded, withoutPictures, writeDigits, writeRecords } from './digits.js';
import { TINY_MODELS, type TinyModel } from './models.js';

const HERE = dirname(fileURLToPath(import.meta.url));
const COMMAND = join(HERE, '..', '..', '..', 'finetune', 'bin', 'minicpm-finetune.js');

export const progress = new Progress();
const [name, chosen] = chosenModel();
export const tiny: TinyModel = chosen;
export const inFolder = (...parts: string[]): string => join(tiny.folder, ...parts);

function chosenModel(): [name: string, tiny: TinyModel] {
  const options = { model: { type: 'string', default: '2.6' }, preference: { type: 'boolean' } } as const;
  const { model } = parseArgs({ options }).values;
  const found = TINY_MODELS[model];
  if (found !== undefined) return [model, found];
  console.error(`Expected --model ${Object.keys(TINY_MODELS).join(' or ')} but received ${model}.`);
  process.exit(1);
}

export function title(text: string): void {
  progress.print(`\n${text}`);
}

/** Prints a command line and runs it; returns the seconds it took. */
export async function run(command: string, flags: Record<string, string | number | boolean>): Promise<number> {
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

/** A model with random weights in the published layout. */
export function makeModel(): void {
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
export async function accuracy(model: string, file: string, adapter?: string): Promise<number> {
  const output = inFolder(`${file}.jsonl`);
  const flags = { model, ...(adapter && { adapter }), data_path: inFolder('data', 'test.json'), output };
  await run('generate', { ...flags, batch_size: 64, max_new_tokens: 8 });
  const lines = readFileSync(output, 'utf8').trim().split('\n');
  const answers = lines.map((line) => JSON.parse(line) as { answer: string; reference: string });
  const right = answers.filter(({ answer, reference }) => answer === reference).length;
  progress.print(
    `held-out digits read exactly right: ${right} of ${answers.length} = ${((100 * right) / answers.length).toFixed(1)} %`,
  );
  return right / answers.length;
}

/** Returns the seconds it took. */
export async function trainOnText(): Promise<number> {
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

const DIGITS = 10_000;
const HELD_OUT = 997;
/** More pictures made of each digit to train on. */
const VARIANTS = 2;

/** The digits, with records of all kinds of training. */
export async function makeData(): Promise<DigitSet> {
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

/** Returns the seconds it took. */
export async function trainOnDigits(): Promise<number> {
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
