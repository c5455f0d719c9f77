/**
 * Checks of what a run takes from its machine. How long steps wait for their data, and what a run says when a device has
 * no memory left.
 */
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { UserError } from '@minicpm-finetune/run';
import { deviceMemory, emptyDeviceCache, ops, type Tensor } from '@minicpm-finetune/torch';
import { resolveConfig, train } from 'minicpm-finetune';
import type { Outcome } from './board.js';
import { copyTokenizer, noise, type Place, trainIn } from './place.js';

/** Share of the time of steps that may be spent waiting for data. */
const MOST_WAITING = 0.02;
const RECORDS = 64;
/** A picture that is not cut into slices. */
const [WIDTH, HEIGHT] = [480, 400];
const BATCH = 8;
/** An answer of this many sentences has some 700 tokens. */
const LENGTH = 60;

interface StepLine {
  readonly event: string;
  readonly data_wait_share?: number;
  readonly step?: number;
}

/**
 * LoRA steps with pictures of a usual size, through all that a run does.
 *
 * @param model a checkpoint without tokenizer, or the place's
 */
export async function fed(place: Place, model: string, device: string, steps: number): Promise<Outcome> {
  if (model !== place.model) copyTokenizer(model);
  const folder = join(place.folder, 'feeding-data');
  mkdirSync(folder);
  const records = Array.from({ length: RECORDS }, (_, i) => {
    writeFileSync(join(folder, `${i}.bmp`), noise(WIDTH, HEIGHT, i));
    const conversations = [
      { role: 'user', content: '<image>\nWhat is this?' },
      { role: 'assistant', content: 'it is a yellow house by the sea '.repeat(LENGTH).trim() },
    ];
    return { id: String(i), image: `${i}.bmp`, conversations };
  });
  const data = join(folder, 'data.json');
  writeFileSync(data, JSON.stringify(records));
  await trainIn({ ...place, model, data }, 'feeding', device, steps, {
    ...{ use_lora: true, lora_modules_to_save: '', tune_vision: false, bf16: true, model_max_length: 2048 },
    ...{ per_device_train_batch_size: BATCH, gradient_accumulation_steps: 1, logging_steps: Math.ceil(steps / 3) },
    dataloader_num_workers: device === 'cpu' ? 1 : 8,
  });
  const lines = readFileSync(join(place.folder, 'feeding', 'events.jsonl'), 'utf8')
    .trim()
    .split('\n');
  const shares = lines
    .map((text) => JSON.parse(text) as StepLine)
    .filter(({ event }) => event === 'step')
    .map(({ data_wait_share: share }) => share!);
  const later = shares.slice(1); // in the first steps the workers start
  const share = later.reduce((sum, value) => sum + value, 0) / later.length;
  return {
    ok: device === 'cpu' ? null : share < MOST_WAITING,
    found: `steps of ${BATCH} pictures wait ${(100 * share).toFixed(2)} % of their time for data (allowed ${100 * MOST_WAITING} %), the first ones ${(100 * shares[0]!).toFixed(1)} %`,
    figures: { share, shares, steps },
  };
}

/** A run on a device whose memory is nearly all taken: it ends with one message that says by what, and what would fit. */
export async function withoutMemory(place: Place, device: string): Promise<Outcome> {
  for (const left of [96, 48, 24, 12, 6]) {
    emptyDeviceCache(device);
    const { free } = deviceMemory(device);
    const taken: Tensor = ops.empty([free - left * 2 ** 20], { dtype: 'uint8', device });
    try {
      const { config } = resolveConfig({
        ...{
          model_name_or_path: place.model,
          data_path: [place.data],
          device: device as 'cuda',
          model_max_length: 256,
        },
        ...{ output_dir: join(place.folder, `no-memory-${left}`), per_device_train_batch_size: 32, max_steps: 2 },
        ...{ save_strategy: 'no', cache_vision: 'off', dataloader_num_workers: 0 },
      });
      await train(config);
    } catch (error) {
      if (!(error instanceof UserError)) throw error;
      const inStep = /weights .*optimizer .*gradients .*activations at least/.test(error.message);
      return { ok: inStep && error.cure !== undefined, found: `${left} MiB left: ${error.message} ${error.cure}` };
    } finally {
      taken.dispose();
      emptyDeviceCache(device);
    }
  }
  return { ok: false, found: 'a run with 6 MiB of memory ended well' };
}
