/**
 * `npm run parity:data`: checks the data pipeline. `npm run parity:data -- DIR [--model NAME]` compares it with a
 * folder of reference results. Prints one line of JSON per check and ends with exit code 1 if any failed. Files that
 * DIR lacks are skipped.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { Tokenizer } from '@minicpm-finetune/processor';
import { UserError } from '@minicpm-finetune/run';
import { DataReference } from './data-folder.js';
import { checkNative } from './data-native.js';
import { checkImages, checkPixels, checkResize, checkSlices } from './data-pictures.js';
import type { CheckLine } from './data-report.js';
import { checkCollate, checkInference, checkSamples, type OpenedModel } from './data-samples.js';
import { checkTokenizer } from './data-text.js';

const USAGE = 'npm run parity:data -- DIR… [--model NAME], NAME as in minicpm-v-2_6 or minicpm-v-2_6.tiny';

/** Names (`<model>.<variant>`) of the tokenizers that a folder has results for. */
function modelNames(folder: DataReference, wanted: string | undefined): string[] {
  const inference = folder.json<{ cases: { tokenizer: string; variant: string }[] }>('inference.json')?.cases ?? [];
  const found = new Set([
    ...folder.list('tokenize'),
    ...folder.list('expected').filter((name) => name !== 'pixels'),
    ...inference.map(({ tokenizer, variant }) => `${tokenizer}.${variant}`),
  ]);
  const names = [...found].sort();
  const kept = names.filter((name) => wanted === undefined || name === wanted || name.startsWith(`${wanted}.`));
  if (wanted !== undefined && kept.length === 0) {
    throw new UserError(`Expected one of ${names.join(', ')} for the model but received ${wanted}.`, {
      flag: '--model',
    });
  }
  return kept;
}

type Lines = (CheckLine | undefined)[];

/** Carries out a group of checks. What it throws is a failure of this group alone. */
async function attempt(model: string, check: string, run: () => Lines | Promise<Lines>): Promise<Lines> {
  try {
    return await run();
  } catch (cause) {
    const message = cause instanceof Error ? cause.message : String(cause);
    return [{ model, check, error: 1, tolerance: 0, ok: false, cases: 1, failed: [message] }];
  }
}

function openModel(folder: DataReference, name: string): OpenedModel {
  const dot = name.lastIndexOf('.');
  const model = folder.model(name.slice(0, dot), name.slice(dot + 1));
  return { ...model, name, loaded: Tokenizer.load(model.folder) };
}

async function* checkModel(folder: DataReference, name: string): AsyncGenerator<CheckLine | undefined> {
  let model: OpenedModel | undefined;
  yield* await attempt(name, 'load', () => {
    model = openModel(folder, name);
    return [];
  });
  if (!model) return;
  const { loaded } = model;
  yield* await attempt(name, 'tokenize', () => checkTokenizer(folder, name, loaded));
  for (const [check, run] of Object.entries({
    samples: checkSamples,
    inference: checkInference,
    collate: checkCollate,
  })) {
    yield* await attempt(name, check, () => run(folder, model!));
  }
}

async function* checkFolder(root: string, wanted: string | undefined): AsyncGenerator<CheckLine | undefined> {
  const folder = new DataReference(root);
  const names = modelNames(folder, wanted);
  const common = { slices: checkSlices, resize: checkResize, images: checkImages, pixels: checkPixels };
  for (const [check, run] of Object.entries(common)) yield* await attempt('common', check, () => run(folder));
  for (const name of names) yield* checkModel(folder, name);
  if (wanted === undefined) yield* checkNewer(folder);
}

/** MiniCPM-V 4.6 and 4.7, which have a folder of their own inside. */
async function* checkNewer(folder: DataReference): AsyncGenerator<CheckLine | undefined> {
  const scratch = mkdtempSync(join(tmpdir(), 'parity-data-'));
  const groups = checkNative(folder, scratch);
  try {
    for (let done = false; !done; ) {
      yield* await attempt('v46', 'samples', async () => {
        const next = await groups.next();
        done = next.done === true;
        return next.value ?? [];
      });
    }
  } finally {
    rmSync(scratch, { recursive: true, force: true });
  }
}

async function main(): Promise<number> {
  const { values, positionals } = parseArgs({ options: { model: { type: 'string' } }, allowPositionals: true });
  if (positionals.length === 0)
    throw new UserError('Expected a folder of reference data but received none.', { cure: USAGE });
  let failures = 0;
  for (const root of positionals) {
    let checks = 0;
    for await (const line of checkFolder(resolve(root), values.model)) {
      if (!line) continue;
      checks++;
      if (!line.ok) failures++;
      console.log(JSON.stringify(line));
    }
    if (checks === 0) throw new UserError(`Expected reference data in ${root} but found none.`, { cure: USAGE });
  }
  return failures === 0 ? 0 : 1;
}

try {
  process.exitCode = await main();
} catch (error) {
  const mistake = error instanceof TypeError && 'code' in error ? new UserError(error.message, { cure: USAGE }) : error;
  if (!(mistake instanceof UserError)) throw error;
  console.error(mistake.format());
  process.exitCode = 1;
}
