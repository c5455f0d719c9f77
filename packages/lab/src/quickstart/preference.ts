/**
 * `npm run quickstart -- --preference`: right answers win. A digit reader that was taught wrong answers in part learns to prefer right ones.
 *
 * Most examples of the digits from 5 on are taught with another digit's name, so the model reads them wrong. Then pairs of the right and
 * the wrong answer correct it: DPO on a small adapter. The last line on standard output is JSON: accuracy before and after, and seconds.
 */
import { existsSync, mkdirSync, rmSync } from 'node:fs';
import { type DigitRecord, withoutPictures, writeDigits, writeRecords } from './digits.js';
import { accuracy, inFolder, makeModel, progress, run, tiny, title, trainOnText } from './tools.js';

/** Of ten examples of a digit from 5 on, those that are taught wrong. */
const WRONG_OF_TEN = 7;
const FIRST_WRONG = 5;

const answerOf = ({ conversations }: DigitRecord): number => Number(conversations[1]!.content);

/** The digit that is taught instead: 5 as 0, 6 as 1, … */
const wrongOf = (digit: number): string => String((digit + 5) % 10);

/** The records as they are taught. */
function misled(records: readonly DigitRecord[]): DigitRecord[] {
  return records.map((record, i) => {
    const digit = answerOf(record);
    if (digit < FIRST_WRONG || i % 10 >= WRONG_OF_TEN) return record;
    const [question, answer] = record.conversations;
    return { ...record, conversations: [question!, { ...answer!, content: wrongOf(digit) }] };
  });
}

/** Pairs of the right answer and the wrong one. */
const pairsOf = (records: readonly DigitRecord[]): object[] =>
  records.map((record) => ({ ...record, rejected: wrongOf(answerOf(record)) }));

async function teach(): Promise<void> {
  title('Full fine-tuning on answers that are wrong in part: most examples of 5 to 9 have the name of another digit');
  await run('train', {
    model_name_or_path: inFolder('base'),
    data_path: inFolder('data', 'misled.json'),
    output_dir: inFolder('misled'),
    tune_vision: true,
    tune_llm: true,
    model_max_length: 256,
    per_device_train_batch_size: 32,
    num_train_epochs: 3,
    learning_rate: 1e-3,
    lr_scheduler_type: 'cosine',
    warmup_steps: 50,
    weight_decay: 0.05,
    adam_beta2: 0.95,
    logging_steps: 100,
    save_strategy: 'no',
  });
}

async function prefer(): Promise<number> {
  title('DPO: an adapter learns from pairs which of the two answers is better');
  return await run('train', {
    model_name_or_path: inFolder('misled'),
    data_path: inFolder('data', 'pairs.json'),
    output_dir: inFolder('preferred'),
    preference: 'dpo',
    use_lora: true,
    tune_vision: false,
    lora_r: 16,
    lora_alpha: 32,
    lora_target_modules: tiny.loraTargets,
    model_max_length: 256,
    per_device_train_batch_size: 32,
    num_train_epochs: 1,
    learning_rate: 1e-3,
    lr_scheduler_type: 'cosine',
    warmup_steps: 10,
    logging_steps: 20,
    save_strategy: 'no',
  });
}

/** @throws Error if a command fails or nothing was learned */
export async function preferenceQuickstart(): Promise<void> {
  const started = performance.now();
  mkdirSync(inFolder(), { recursive: true });
  for (const name of ['untrained', 'base', 'misled', 'preferred', 'misled.jsonl', 'preferred.jsonl']) {
    rmSync(inFolder(name), { recursive: true, force: true });
    if (name.endsWith('.jsonl')) rmSync(inFolder(`${name}.settings.json`), { force: true });
  }
  title('Data: handwritten digits as PNG files');
  const digits = await writeDigits(inFolder('data'), 0, () => {});
  const taught = digits.train.filter((_, i) => i % 2 === 0);
  writeRecords(inFolder('data', 'test.json'), digits.test);
  writeRecords(inFolder('data', 'text.json'), withoutPictures(digits.train));
  writeRecords(inFolder('data', 'misled.json'), misled(taught));
  writeRecords(inFolder('data', 'pairs.json'), pairsOf(taught));
  makeModel();
  await trainOnText();
  await teach();
  const before = await accuracy(inFolder('misled'), 'misled');
  const seconds = await prefer();
  const after = await accuracy(inFolder('misled'), 'preferred', inFolder('preferred'));
  if (!existsSync(inFolder('preferred', 'adapter_model.safetensors')))
    throw new Error('Expected the adapter to be saved but it is not there.');
  progress.print(
    `\nHeld-out accuracy ${(100 * before).toFixed(1)} % before DPO, ${(100 * after).toFixed(1)} % after it.`,
  );
  console.log(
    JSON.stringify({
      accuracy_before: before,
      accuracy_after: after,
      dpo_seconds: Math.round(seconds),
      seconds: Math.round((performance.now() - started) / 100) / 10,
    }),
  );
}
