/** What a run says when its device has no memory left: what takes it, and which settings fit. */
import { rmSync } from 'node:fs';
import type { RunConfig } from '@minicpm-finetune/run';
import { OwnFiles, UserError } from '@minicpm-finetune/run';
import { type DeviceMemory, liveTensors, OutOfMemoryError, scope } from '@minicpm-finetune/torch';
import { afterAll, describe, expect, it } from 'vitest';
import { collate } from '../../src/engine/collate.js';
import { trainStep } from '../../src/engine/step.js';
import { RunLog } from '../../src/report/run-log.js';
import { explainRunMemory } from '../../src/train/memory-failure.js';
import { startOf } from '../../src/train/resume.js';
import { closeRun, openRun, type Run, stepOptions } from '../../src/train/run.js';
import { noiseSample } from '../support/model-in-memory.js';
import { configOf, makePlace } from '../support/run-place.js';

const place = makePlace(4);
afterAll(() => rmSync(place.folder, { recursive: true }));

const MIB = 2 ** 20;
let runs = 0;

async function withRun(
  flags: Readonly<Record<string, unknown>>,
  body: (run: Run, config: RunConfig) => void,
): Promise<void> {
  const config = configOf(place, `run${runs++}`, flags);
  const start = { ...startOf(config), output: { own: new OwnFiles(config.output.output_dir), earlier: [] } };
  const log = new RunLog(config, { startStep: 0 });
  const run = await openRun(config, log, start);
  try {
    body(run, config);
  } finally {
    await closeRun(run);
    log.close();
  }
}

const error = new OutOfMemoryError(
  'aten::mm(): CUDA out of memory. Tried to allocate 2.50 MiB. GPU 0 has a total capacity of …',
);

/** The figures of a device: what is left for this process is what other programs leave. */
const device =
  (peak: number, total: number, others = 0): (() => DeviceMemory) =>
  () => ({
    ...{ allocated: peak / 2, peak, reserved: peak, total, free: total - others - peak },
  });

const explained = (run: Run, memory: () => DeviceMemory): UserError => {
  const told = explainRunMemory(error, run, memory);
  expect(told).toBeInstanceOf(UserError);
  return told as UserError;
};

const bytesIn = (text: string, part: string): number => {
  const [, number, unit] = new RegExp(`${part} ([\\d.]+) (k|M|G)?B`).exec(text)!;
  return Number(number) * { k: 1e3, M: 1e6, G: 1e9 }[unit ?? 'k']!;
};

describe('a run without memory', () => {
  it('says what takes how much', async () => {
    await withRun({ bf16: true }, (run) => {
      const { message } = explained(run, device(20 * MIB, 21 * MIB, 0.5 * MIB));
      const numbers = [...run.training.model.namedParameters()].reduce((n, [, { data }]) => n + data.numel, 0);
      const near = (part: string, bytes: number): void => {
        expect(Math.abs(bytesIn(message, part) / bytes - 1), `${part}: ${message}`).toBeLessThan(0.06); // three digits or fewer
      };
      near('weights', 2 * numbers);
      near('optimizer', 4 * run.training.trainableNumbers);
      near('gradients and activations at least', 20 * MIB - 2 * numbers - 4 * run.training.trainableNumbers);
      near('the estimate was', run.estimated!.likely.deviceBytes);
      expect(message).toMatch(
        /^Expected memory for 2\.6 MB more on cpu but received none: a step takes at least 21 MB /,
      );
      expect(message).toContain('the allocator keeps 10 MB for later');
      expect(message).toContain('other programs take 524 kB');
    });
  });

  it.each<[Record<string, unknown>, number, RegExp]>([
    [{ per_device_train_batch_size: 4 }, 60, /^By the estimate the settings fit: free memory/],
    [
      { per_device_train_batch_size: 4 },
      4,
      /^By the estimate this fits, with .*: --per_device_train_batch_size 1 .* --use_lora true/,
    ],
    [{ per_device_train_batch_size: 4 }, 0.01, /^No other settings .* fit: take a smaller --model_max_length/],
  ])('names the settings that fit: %j in %d MiB', async (flags, room, expected) => {
    await withRun(flags, (run) => {
      const { cure } = explained(run, device(room * MIB, room * MIB));
      expect(cure).toMatch(expected);
    });
  });

  it('leaves other errors as they are', async () => {
    const other = new Error('no such thing');
    await withRun({}, (run) => expect(explainRunMemory(other, run)).toBe(other));
  });

  it.each([{}, { fused_backward: true }])('has freed what the step took: %j', async (flags) => {
    await withRun(flags, (run) => {
      const { model } = run.training;
      const step = (poison: boolean): void => {
        const batch = collate([noiseSample(model, 24, [[4, 4]], 1), noiseSample(model, 30, [], 2)]);
        let forward = 0;
        scope(() =>
          trainStep(model, [batch], run.optimizer, 1, {
            ...stepOptions(run),
            recompute: true,
            wrap: (plan) =>
              plan.map((node) => ({
                ...node,
                forward: (...inputs) => {
                  // the third block that the backward pass recomputes
                  if (poison && ++forward === plan.length + 3) throw error;
                  return node.forward(...inputs);
                },
              })),
          }),
        );
      };
      step(false); // makes the moments
      const before = liveTensors();
      expect(() => step(true)).toThrow(OutOfMemoryError);
      expect(liveTensors()).toEqual(before);
    });
  });
});
