/** Pictures staged ahead: the batch is the same, a picture is handed over once, nothing stays behind. */
import { liveTensors } from '@minicpm-finetune/torch';
import { describe, expect, it } from 'vitest';
import { type Batch, collate, collateAll, disposeBatch } from '../../src/engine/collate.js';
import { Staging } from '../../src/engine/staging.js';
import { modelInMemory, noiseSample } from '../support/model-in-memory.js';

const model = modelInMemory();
const sizes: readonly (readonly [number, number])[] = [
  [4, 4],
  [2, 6],
];
const samples = [noiseSample(model, 24, sizes, 1), noiseSample(model, 20, [], 2), noiseSample(model, 30, [[3, 5]], 3)];
model.dispose();

const pictures = ({ inputs }: Batch): unknown =>
  inputs.pictures.flat().map(({ pixels, rows, cols }) => ({ pixels: pixels.toNumbers(), rows, cols }));

describe('staged pictures', () => {
  it.each([[[0, 1, 2]], [[2]], [[]]])('make the same batch when these of three samples are staged: %j', (staged) => {
    using staging = new Staging('cpu');
    staging.stage(staged.map((i) => samples[i]!));
    staging.stage(staged.map((i) => samples[i]!)); // are there already
    const [plain, [ahead]] = [collate(samples), collateAll([{ samples }], 'cpu', staging)];
    expect(pictures(ahead!)).toEqual(pictures(plain));
    expect(staging.bytes).toBe(0);
    disposeBatch(plain);
    disposeBatch(ahead!);
  });

  it('are on the device, handed over once, and freed when nobody takes them', () => {
    const before = liveTensors().tensors;
    const staging = new Staging('meta');
    staging.stage(samples);
    expect(staging.bytes).toBe(
      samples.flatMap((sample) => sample.pictures).reduce((n, { pixels }) => n + pixels.length, 0),
    );
    const taken = staging.take(samples[0]!)!;
    expect(taken.map(({ device, shape }) => ({ device, shape }))).toEqual(
      samples[0]!.pictures.map(({ shape }) => ({ device: 'meta', shape })),
    );
    expect(staging.take(samples[0]!)).toBeNull();
    for (const picture of taken) picture.dispose();
    staging.dispose();
    expect(liveTensors().tensors).toBe(before);
  });

  it('count as a wait for data where the device had nothing to do', () => {
    using staging = new Staging('cpu'); // is always done with everything
    staging.stage([]);
    expect(staging.idleSeconds).toBe(0);
    staging.stage(samples);
    expect(staging.idleSeconds).toBeGreaterThan(0);
  });
});
