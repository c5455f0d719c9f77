/** Stored vision features: found again in later epochs and runs, the same numbers, bounded, unharmed by damage, crashes and company. */
import {
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { MiniCPMV } from '@minicpm-finetune/minicpm-v';
import { liveTensors, noGrad, ops, type Tensor } from '@minicpm-finetune/torch';
import { afterAll, afterEach, beforeEach, describe, expect, it } from 'vitest';
import { BACKWARD, expectNear, FORWARD } from '../../../torch/test/precision.js';
import { collate } from '../../src/engine/collate.js';
import { evaluateBatch } from '../../src/engine/micro-batch.js';
import { type Gradients, lossAndGradients } from '../../src/engine/step.js';
import { tuneFully } from '../../src/engine/trainables.js';
import { storableLevel, VisionCache } from '../../src/engine/vision-cache.js';
import { VisionStore } from '../../src/engine/vision-store.js';
import { train } from '../../src/train/train.js';
import { largestDifference, modelInMemory, noiseSample } from '../support/model-in-memory.js';
import { configOf, eventsOf, lossesOf, makePlace } from '../support/run-place.js';

let folder: string;
const notices: string[] = [];
const notice = (message: string): void => void notices.push(message);
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'vision-'));
  notices.length = 0;
});
afterEach(() => rmSync(folder, { recursive: true }));

const files = (): string[] =>
  readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name));

describe('VisionStore', () => {
  const open = (options: { space?: string; limit?: number } = {}) =>
    new VisionStore({ root: folder, space: 'one', limit: 1e6, notice, ...options });
  const bytes = (length: number, value = 7) => new Uint8Array(length).fill(value);

  it('gives back what was put in, to other processes, too', () => {
    const store = open();
    expect(store.get('abcd', 5)).toBeNull();
    store.put('abcd', Uint8Array.of(1, 2, 3, 4, 5));
    expect([...store.get('abcd', 5)!]).toEqual([1, 2, 3, 4, 5]);
    expect([...open().get('abcd', 5)!]).toEqual([1, 2, 3, 4, 5]);
    expect(open({ space: 'two' }).get('abcd', 5)).toBeNull();
    expect(files()).toHaveLength(1);
  });

  it('takes what is damaged, cut off or of another length for absent, and puts it right', () => {
    const store = open();
    store.put('abcd', bytes(100));
    const [path] = files();
    const whole = readFileSync(path!);
    const damaged = Buffer.from(whole);
    damaged[50]! ^= 1;
    for (const content of [damaged, whole.subarray(0, 60), whole.subarray(0, 2), Buffer.alloc(0), Buffer.alloc(104)]) {
      writeFileSync(path!, content);
      expect(store.get('abcd', 100)).toBeNull();
    }
    store.put('abcd', bytes(100));
    expect(store.get('abcd', 100)).not.toBeNull();
    expect(store.get('abcd', 99)).toBeNull();
  });

  it('stops storing at its limit, and says so once', () => {
    const store = open({ limit: 1000 });
    for (let i = 0; i < 30; i++) store.put(`key${i}`, bytes(96));
    expect(files()).toHaveLength(10);
    expect(notices).toEqual([
      `Expected more room for vision features in ${folder} but it is full. No more are stored; those not there are computed.`,
    ]);
    expect(store.get('key3', 96)).not.toBeNull();
  });

  it('counts what other processes store', () => {
    const stores = [open({ limit: 1000 }), open({ limit: 1000 }), open({ limit: 1000 })];
    for (let i = 0; i < 10; i++) for (const [s, store] of stores.entries()) store.put(`key${s}${i}`, bytes(46));
    expect(files().reduce((sum, path) => sum + statSync(path).size, 0)).toBeLessThanOrEqual(1000 + 2 * 50);
  });

  it('lets the oldest files of other models make way, and removes what dead processes left', () => {
    const old = open({ space: 'old', limit: 1000 });
    for (let i = 0; i < 10; i++) old.put(`key${i}`, bytes(96));
    for (const [i, path] of files().entries()) utimesSync(path, 1000 + i, 1000 + i);
    mkdirSync(join(folder, 'one'));
    writeFileSync(join(folder, 'one', 'left.tmp'), '');
    utimesSync(join(folder, 'one', 'left.tmp'), 1000, 1000);
    const store = open({ limit: 1000 });
    for (let i = 0; i < 3; i++) store.put(`key${i}`, bytes(96));
    expect(files().filter((path) => path.includes('/old/'))).toHaveLength(7);
    expect(files().filter((path) => path.includes('/one/'))).toHaveLength(3);
    expect(notices).toEqual([]);
  });

  it('goes on without a folder to write to', () => {
    writeFileSync(join(folder, 'file'), '');
    const store = new VisionStore({ root: join(folder, 'file'), space: 'one', limit: 1e6, notice });
    store.put('abcd', bytes(3));
    store.put('abce', bytes(3));
    expect(store.get('abcd', 3)).toBeNull();
    expect(notices).toEqual([expect.stringContaining('cannot be stored')]);
  });
});

describe('VisionCache', () => {
  let model: MiniCPMV;
  beforeEach(() => {
    model = modelInMemory();
  });
  afterEach(() => model.dispose());

  const freezeVision = (withResampler: boolean): void => {
    tuneFully(model, { tuneVision: false, tuneLlm: true });
    if (withResampler) for (const [, { data }] of model.connector.namedParameters()) data.requiresGrad = false;
  };
  const cache = (limit = 1e9) => new VisionCache(model, { folder, limit, notice });
  const batch = () =>
    collate([
      noiseSample(model, 12, [[4, 4]], 1),
      noiseSample(
        model,
        40,
        [
          [2, 6],
          [4, 4],
          [2, 6],
        ],
        2,
      ),
      noiseSample(model, 7, [], 3),
      noiseSample(model, 12, [[4, 4]], 1),
    ]);
  const compute = (vision: VisionCache | null): Gradients =>
    lossAndGradients(model, [batch()], { recompute: false, perMicroBatch: false, vision });

  it.each([
    ['features', false],
    ['tokens', true],
  ] as const)('stores %s, with the same losses and gradients bit for bit', (level, withResampler) => {
    freezeVision(withResampler);
    expect(storableLevel(model)).toBe(level);
    const plain = compute(null);
    const vision = cache();
    const [first, second, later] = [compute(vision), compute(vision), compute(cache())];
    expect([vision.pictures, vision.hits]).toEqual([10, 5]);
    expect(files()).toHaveLength(4); // one picture is there twice
    for (const cached of [second, later]) {
      expect(cached.loss).toBe(first.loss);
      expect(largestDifference(first.gradients, cached.gradients)).toBe(0);
    }
    expectNear(first.loss, plain.loss, FORWARD); // pictures are computed in other batches
    expect(largestDifference(plain.gradients, first.gradients)).toBeLessThan(BACKWARD);
    for (const gradients of [plain, first, second, later]) gradients.dispose();
    const evaluated = evaluateBatch(model, batch(), vision);
    expectNear(evaluated.sum / evaluated.count, plain.loss, FORWARD);
    expect(vision.hits).toBe(10);
  });

  it('leaves no tensor behind', () => {
    freezeVision(false);
    const vision = cache();
    compute(vision).dispose();
    const before = liveTensors().tensors;
    compute(vision).dispose();
    compute(cache()).dispose();
    expect(liveTensors().tensors).toBe(before);
  });

  it('finds nothing when weights, pictures, grids or levels differ', () => {
    freezeVision(false);
    compute(cache()).dispose();
    const count = files().length;
    const weights: Tensor = [...model.vpm.namedParameters()][0]![1].data;
    noGrad(() => ops.mulScalar_(weights, 1.5));
    const other = cache();
    compute(other).dispose();
    expect(other.hits).toBe(0);
    expect(files()).toHaveLength(2 * count);
    freezeVision(true);
    const tokens = cache();
    compute(tokens).dispose();
    expect(tokens.hits).toBe(0);
    const shifted = lossAndGradients(model, [collate([noiseSample(model, 12, [[2, 8]], 1)])], {
      ...{ recompute: false, perMicroBatch: false },
      vision: tokens,
    });
    expect(tokens.hits).toBe(0);
    shifted.dispose();
  });

  it('stores nothing of a tower that trains', () => {
    tuneFully(model, { tuneVision: true, tuneLlm: true });
    expect(storableLevel(model)).toBeNull();
    expect(() => cache()).toThrow('frozen vision tower');
  });

  it('computes what does not fit', () => {
    freezeVision(false);
    const plain = compute(null);
    const cached = compute(cache(10));
    expect(files()).toEqual([]);
    expect(notices).toHaveLength(1);
    expectNear(cached.loss, plain.loss, FORWARD);
    for (const gradients of [plain, cached]) gradients.dispose();
  });
});

describe('--cache_vision', () => {
  const place = makePlace(8);
  afterAll(() => rmSync(place.folder, { recursive: true }));
  const flags = { tune_vision: false, max_steps: 6, per_device_train_batch_size: 4, eval_data_path: place.data };
  const run = async (name: string, more: Readonly<Record<string, unknown>>): Promise<string> => {
    const config = configOf(place, name, { ...flags, ...more });
    await train(config);
    return config.output.output_dir;
  };

  it('changes no loss, and tells how many pictures were found', async () => {
    const plain = await run('plain', { do_eval: true });
    const cached = await run('cached', { do_eval: true, cache_vision: folder });
    expect(lossesOf(cached)).toHaveLength(6);
    expectNear(lossesOf(cached), lossesOf(plain), FORWARD);
    const [a, b] = [plain, cached].map((path) => eventsOf(path, 'eval')[0]!.loss!);
    expectNear(b!, a!, FORWARD);
    const rates = eventsOf(cached, 'step').map(({ vision_hit_rate }) => vision_hit_rate);
    expect(rates[0]).toBeLessThan(1);
    expect(rates.slice(2)).toEqual([1, 1, 1, 1]); // four pictures, seen in the first epoch
    const end = eventsOf(cached, 'run_end')[0]!.vision_cache!;
    expect(end.pictures).toBeGreaterThan(end.hits);
    expect(eventsOf(plain, 'run_end')[0]!.vision_cache).toBeUndefined();
    const again = await run('cached-again', { cache_vision: folder });
    expect(eventsOf(again, 'run_end')[0]!.vision_cache).toMatchObject({ hits: 24, pictures: 24 });
  });

  it('is automatic with a frozen tower and more than one epoch, in the cache folder of the user', async () => {
    const before = process.env.XDG_CACHE_HOME;
    process.env.XDG_CACHE_HOME = folder;
    try {
      await run('auto', { cache_vision: 'auto', max_steps: 3 });
      expect(files().every((path) => path.startsWith(join(folder, 'minicpm-finetune', 'vision')))).toBe(true);
      expect(files()).not.toEqual([]);
      rmSync(join(folder, 'minicpm-finetune'), { recursive: true });
      await run('auto-one-epoch', { cache_vision: 'auto', max_steps: 2 });
      await run('auto-trains', { cache_vision: 'auto', max_steps: 3, tune_vision: true });
      expect(files()).toEqual([]);
    } finally {
      if (before === undefined) delete process.env.XDG_CACHE_HOME;
      else process.env.XDG_CACHE_HOME = before;
    }
  });

  it('is without effect, and says so, where the tower trains', async () => {
    const output = await run('trains', { cache_vision: folder, tune_vision: true, max_steps: 1 });
    expect(files()).toEqual([]);
    expect(eventsOf(output, 'run_end')[0]!.vision_cache).toBeUndefined();
  });
});
