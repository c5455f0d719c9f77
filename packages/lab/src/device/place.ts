/** Runs the command line on a tiny model. With data in a temporary folder: the checks of training compare such runs. */
import { type ChildProcess, spawn } from 'node:child_process';
import { cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { createModel, saveCheckpoint } from '@minicpm-finetune/minicpm-v';
import { type ModelConfig, parseConfig } from '@minicpm-finetune/processor';
import { TINY_CONFIG } from '../quickstart/tiny-config.js';

const HERE = dirname(fileURLToPath(import.meta.url));
const COMMAND = join(HERE, '..', '..', '..', 'finetune', 'bin', 'minicpm-finetune.js');
const TOKENIZER = join(HERE, '..', '..', 'assets', 'tokenizer');
const RECORDS = 32;

/** The quickstart's model; heads share keys in pairs, and every head size is a multiple of 8, as flash attention wants it. */
export const TINY = parseConfig(JSON.stringify(TINY_CONFIG), 'check:device');

export interface Place {
  readonly folder: string;
  readonly model: string;
  readonly data: string;
  /** Of the trainings, beside this process's own. */
  readonly env?: NodeJS.ProcessEnv;
}

/** Writes a random model with a tokenizer, and returns its folder. */
export function makeModel(folder: string, config: ModelConfig): string {
  const model = createModel(config, { seed: 0 });
  saveCheckpoint(model, folder);
  model.dispose();
  copyTokenizer(folder);
  return folder;
}

/** Makes the model and records with a picture of noise each. */
export function makePlace(): Place {
  const folder = mkdtempSync(join(tmpdir(), 'check-device-'));
  makeModel(join(folder, 'model'), TINY);
  mkdirSync(join(folder, 'data'));
  const words = ['red', 'blue', 'a green one', 'seven of them', 'it is a yellow house by the sea'];
  const records = Array.from({ length: RECORDS }, (_, i) => {
    writeFileSync(join(folder, 'data', `${i}.bmp`), noise(40 + (i % 3) * 24, 56, i));
    const question = `<image>\n${i % 2 === 0 ? 'What is this?' : 'Name the colour of the thing in the middle.'}`;
    const conversations = [
      { role: 'user', content: question },
      { role: 'assistant', content: words[i % words.length]! },
    ];
    return { id: String(i), image: `${i}.bmp`, conversations };
  });
  writeFileSync(join(folder, 'data', 'data.json'), JSON.stringify(records));
  return { folder, model: join(folder, 'model'), data: join(folder, 'data', 'data.json') };
}

export function copyTokenizer(folder: string): void {
  cpSync(TOKENIZER, folder, { recursive: true });
}

/** A BMP file of noise. */
export function noise(width: number, height: number, seed: number): Buffer {
  const row = Math.ceil((width * 3) / 4) * 4;
  const bytes = Buffer.alloc(54 + row * height);
  bytes.write('BM');
  bytes.writeUInt32LE(bytes.length, 2);
  bytes.writeUInt32LE(54, 10);
  bytes.writeUInt32LE(40, 14);
  bytes.writeInt32LE(width, 18);
  bytes.writeInt32LE(height, 22);
  bytes.writeUInt16LE(1, 26);
  bytes.writeUInt16LE(24, 28);
  for (let i = 54; i < bytes.length; i++) bytes[i] = (Math.imul(i + 977 * seed, 2654435761) >>> 24) & 255;
  return bytes;
}

/** What a program printed, and how it ended. */
export interface Finished {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs a program to its end. */
export async function runProgram(
  program: string,
  words: readonly string[],
  env: NodeJS.ProcessEnv = {},
): Promise<Finished> {
  const child = spawn(program, words, { stdio: ['ignore', 'pipe', 'pipe'], env: { ...process.env, ...env } });
  const text = { stdout: '', stderr: '' };
  child.stdout.setEncoding('utf8').on('data', (chunk: string) => {
    text.stdout += chunk;
  });
  child.stderr.setEncoding('utf8').on('data', (chunk: string) => {
    text.stderr += chunk;
  });
  const code = await new Promise<number>((resolve, reject) => {
    child.on('error', reject);
    child.on('close', (status) => resolve(status ?? 1));
  });
  return { code, ...text };
}

const wordsOf = (name: string, flags: Readonly<Record<string, unknown>>): string[] => [
  COMMAND,
  name,
  ...Object.entries(flags).flatMap(([flag, value]) => [`--${flag}`, String(value)]),
];

/** Runs a command of `minicpm-finetune`. */
export async function command(
  name: string,
  flags: Readonly<Record<string, unknown>>,
  env: NodeJS.ProcessEnv = {},
): Promise<Finished> {
  return await runProgram(process.execPath, wordsOf(name, flags), env);
}

/** Starts one; `text` is what it has printed so far. */
export function startCommand(
  name: string,
  flags: Readonly<Record<string, unknown>>,
  env: NodeJS.ProcessEnv = {},
): { readonly child: ChildProcess; readonly text: () => string } {
  const child = spawn(process.execPath, wordsOf(name, flags), {
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { ...process.env, ...env },
  });
  let text = '';
  for (const stream of [child.stdout, child.stderr])
    stream.setEncoding('utf8').on('data', (chunk: string) => {
      text += chunk;
    });
  return { child, text: () => text };
}

export interface Losses {
  readonly losses: readonly number[];
  readonly gradNorms: readonly number[];
  /** Most bytes of tensors on the device. */
  readonly peak: number;
}

/** Trains in `<place>/<name>` and returns the figures of every step of the run folder. Throws what the command said when it failed. */
export async function trainIn(
  place: Place,
  name: string,
  device: string,
  steps: number,
  flags: Readonly<Record<string, unknown>> = {},
): Promise<Losses> {
  const output = join(place.folder, name);
  const given = {
    model_name_or_path: place.model,
    data_path: place.data,
    output_dir: output,
    device,
    model_max_length: 256,
    per_device_train_batch_size: 2,
    gradient_accumulation_steps: 2,
    max_steps: steps,
    learning_rate: 5e-4,
    lr_scheduler_type: 'constant',
    logging_steps: 1,
    save_strategy: 'no',
    cache_vision: 'off',
    dataloader_num_workers: 0,
    progress: 'quiet',
    ...flags,
  };
  const done = await command('train', given, place.env);
  if (done.code !== 0) throw new Error(`train in ${name} ended with code ${done.code}: ${done.stderr || done.stdout}`);
  return figuresOf(output);
}

interface StepLine {
  readonly event: string;
  readonly step?: number;
  readonly loss?: number | null;
  readonly grad_norm?: number | null;
  readonly memory?: { readonly device_peak?: number };
}

/** Losses and gradient norms by step; where a step was logged twice, the later line counts. */
function figuresOf(output: string): Losses {
  const file = join(output, 'events.jsonl');
  if (!existsSync(file)) throw new Error(`Expected ${file} but there is none`);
  const lines = readFileSync(file, 'utf8').trim().split('\n');
  const steps = new Map<number, StepLine>();
  for (const text of lines) {
    const event = JSON.parse(text) as StepLine;
    if (event.event === 'step') steps.set(event.step!, event);
  }
  const ordered = [...steps].sort(([a], [b]) => a - b).map(([, step]) => step);
  return {
    losses: ordered.map(({ loss }) => loss ?? Number.NaN),
    gradNorms: ordered.map(({ grad_norm }) => grad_norm ?? Number.NaN),
    peak: Math.max(0, ...ordered.map(({ memory }) => memory?.device_peak ?? 0)),
  };
}
