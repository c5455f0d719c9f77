/** Whole training runs on a tiny model, for tests: data with a picture or without, a configuration, and what the run left behind. */
import { mkdtempSync, readFileSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { RunConfig, StampedEvent } from '@minicpm-finetune/run';
import { resolveTrainConfig } from './config-words.js';
import { tinyModel, writePicture } from './tiny-model.js';

export interface Place {
  readonly folder: string;
  readonly model: string;
  /** Records with one picture each, answers of different lengths. */
  readonly data: string;
  /** The same number of records without pictures. */
  readonly text: string;
}

const ANSWERS = ['red', 'a blue one', 'green and small', 'it is a yellow house by the sea'];

/** Makes a model and data files of `records` records in a temporary folder. `sizes`: of the model, in its configuration. */
export function makePlace(records = 16, sizes: object = {}): Place {
  const folder = mkdtempSync(join(tmpdir(), 'train-'));
  const model = tinyModel(join(folder, 'model'), 1, sizes);
  for (let i = 0; i < 4; i++) writePicture(join(folder, `${i}.bmp`), i * 977);
  const all = Array.from({ length: records }, (_, i) => ({
    id: String(i),
    image: `${i % 4}.bmp`,
    conversations: [
      { role: 'user', content: i % 3 === 0 ? '<image>\nWhat is this?' : '<image>\nName the colour.' },
      { role: 'assistant', content: ANSWERS[i % 4]! },
    ],
  }));
  const data = join(folder, 'data.json');
  writeFileSync(data, JSON.stringify(all));
  const text = join(folder, 'text.json');
  const plain = all.map(({ id, conversations: [question, answer] }) => ({
    id,
    conversations: [{ ...question, content: question!.content.replace('<image>\n', '') }, answer],
  }));
  writeFileSync(text, JSON.stringify(plain));
  return { folder, model, data, text };
}

/** The configuration of a run in `<place>/<name>`, two records a step, every step logged, nothing saved on the way. */
export function configOf(place: Place, name: string, flags: Readonly<Record<string, unknown>> = {}): RunConfig {
  const all = {
    model_name_or_path: place.model,
    data_path: place.data,
    output_dir: join(place.folder, name),
    model_max_length: 256,
    per_device_train_batch_size: 2,
    max_steps: 2,
    learning_rate: 1e-3,
    lr_scheduler_type: 'constant',
    logging_steps: 1,
    save_strategy: 'no',
    dataloader_num_workers: 0,
    progress: 'quiet',
    threads: 1,
    cache_vision: 'off',
    ...flags,
  };
  return resolveTrainConfig(Object.entries(all).flatMap(([flag, value]) => [`--${flag}`, String(value)])).config;
}

/** The events of a run, all or of one kind. */
export function eventsOf<K extends StampedEvent['event']>(
  folder: string,
  kind: K,
): Extract<StampedEvent, { event: K }>[] {
  const lines = readFileSync(join(folder, 'events.jsonl'), 'utf8').trim().split('\n');
  const events = lines.map((line) => JSON.parse(line) as StampedEvent);
  return events.filter((event): event is Extract<StampedEvent, { event: K }> => event.event === kind);
}

/** The losses of a run's steps. */
export function lossesOf(folder: string): number[] {
  return eventsOf(folder, 'step').map(({ loss }) => loss ?? Number.NaN);
}

export const readJson = <T>(...path: string[]): T => JSON.parse(readFileSync(join(...path), 'utf8')) as T;
