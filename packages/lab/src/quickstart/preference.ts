/**
 * `npm run quickstart -- --preference`: right answers win. A digit reader that was taught wrong answers in part learns to prefer right ones.
 *
 * It goes on from the quickstart's reader, which it trains where it is not there. Most examples of the digits from 5 on are taught with another
 * digit's name, so the model reads them wrong. Then pairs of the right and the wrong answer correct it: DPO on a small adapter. The last line on standard output is JSON: accuracy before and after, and seconds.
 */
import { existsSync, mkdirSync, rmSync } from 'node:fs';
import { type DigitRecord, type DigitSet, writeRecords } from './digits.js';
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

/** Of ten examples of a digit from 5 on, those that are taught wrong. */
const WRONG_OF_TEN = 7;
const FIRST_WRONG = 5;
/** One in so many digits is taught; another one makes a pair. */
const TAUGHT_EVERY = 4;

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

async function mislead(): Promise<void> {
  title('A reader of digits is taught wrong answers: most examples of 5 to 9 have the name of another digit');
  await run('train', {
    model_name_or_path: inFolder('full'),
    data_path: inFolder('data', 'misled.json'),
    output_dir: inFolder('misled'),
    tune_vision: false,
    tune_llm: true,
    model_max_length: 256,
    per_device_train_batch_size: 32,
    num_train_epochs: 1,
    learning_rate: 5e-4,
    lr_scheduler_type: 'cosine',
    warmup_steps: 5,
    logging_steps: 10,
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
    warmup_steps: 5,
    logging_steps: 10,
    save_strategy: 'no',
  });
}

/** The reader of the quickstart: it is trained unless it is there. */
async function reader(): Promise<DigitSet> {
  mkdirSync(inFolder(), { recursive: true });
  const digits = await makeData();
  if (existsSync(inFolder('full', 'config.json'))) {
    progress.print(`The reader of the quickstart is in ${inFolder('full')}.`);
    return digits;
  }
  for (const name of ['untrained', 'base', 'full']) rmSync(inFolder(name), { recursive: true, force: true });
  makeModel();
  await trainOnText();
  await trainOnDigits();
  return digits;
}

/** @throws Error if a command fails or nothing was learned */
export async function preferenceQuickstart(): Promise<void> {
  const started = performance.now();
  const { train } = await reader();
  for (const name of ['misled', 'preferred', 'misled.jsonl', 'preferred.jsonl']) {
    rmSync(inFolder(name), { recursive: true, force: true });
    if (name.endsWith('.jsonl')) rmSync(inFolder(`${name}.settings.json`), { force: true });
  }
  const [taught, compared] = [0, 1].map((rest) => train.filter((_, i) => i % TAUGHT_EVERY === rest)) as [
    DigitRecord[],
    DigitRecord[],
  ];
  writeRecords(inFolder('data', 'misled.json'), misled(taught));
  writeRecords(inFolder('data', 'pairs.json'), pairsOf(compared));
  await mislead();
  const before = await accuracy(inFolder('misled'), 'misled');
  const seconds = await prefer();
  const after = await accuracy(inFolder('misled'), 'preferred', inFolder('preferred'));
  progress.print(
    `\nHeld-out accuracy ${(100 * before).toFixed(1)} % before DPO, ${(100 * after).toFixed(1)} % after it.`,
  );
  if (after <= before) throw new Error(`Expected a higher accuracy after DPO but received ${after} after ${before}.`);
  console.log(
    JSON.stringify({
      accuracy_before: before,
      accuracy_after: after,
      dpo_seconds: Math.round(seconds),
      seconds: Math.round((performance.now() - started) / 100) / 10,
    }),
  );
}
