/** The memory of a run, estimated before its weights are loaded, and measured. */
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { createModel, MiniCPMV, saveCheckpoint } from '@minicpm-finetune/minicpm-v';
import { type ModelConfig, parseConfig } from '@minicpm-finetune/processor';
import { formatBytes, OwnFiles, type RunConfig } from '@minicpm-finetune/run';
import { liveTensors } from '@minicpm-finetune/torch';
import { afterAll, describe, expect, it } from 'vitest';
import { LONG } from '../../../torch/test/support/long.js';
import { Sampler } from '../../src/data/sampler.js';
import { SILENT } from '../../src/report/reporter.js';
import { RunLog } from '../../src/report/run-log.js';
import { checkMemory, largestMicroBatch, type Room, type RunEstimate } from '../../src/train/estimate/check.js';
import { summary } from '../../src/train/estimate/describe.js';
import { type Estimate, estimate } from '../../src/train/estimate/estimate.js';
import { type Changes, changedConfig, type FitOptions, fit } from '../../src/train/estimate/fit.js';
import { largestShape } from '../../src/train/estimate/shape.js';
import { startOf } from '../../src/train/resume.js';
import { closeRun, openRun, type Run } from '../../src/train/run.js';
import { train } from '../../src/train/train.js';
import { configOf, eventsOf, makePlace } from '../support/run-place.js';

const BUILT = join(import.meta.dirname, '..', '..', 'dist');
/** Measures configurations that are given on standard input. */
const MEASURE = `
import { readFileSync } from 'node:fs';
const { cases, folder } = JSON.parse(readFileSync(0, 'utf8'));
const { measureMemory } = await import(${JSON.stringify(join(BUILT, 'train/estimate/measure.js'))});
const { SILENT } = await import(${JSON.stringify(join(BUILT, 'report/reporter.js'))});
const { tensorBytes } = await import('@minicpm-finetune/torch');
const measured = cases.map(({ config, rank, size }) => measureMemory(config, folder, SILENT, { rank, size }));
console.log(JSON.stringify({ measured, left: tensorBytes().inUse }));
`;

const place = makePlace(16);
afterAll(() => rmSync(place.folder, { recursive: true }));

let runs = 0;

async function withRun(flags: Readonly<Record<string, unknown>>, body: (run: Run) => void): Promise<void> {
  const config = configOf(place, `opened ${runs++}`, flags);
  const output = { own: new OwnFiles(config.output.output_dir), earlier: [] };
  const start = { ...startOf(config), output };
  const log = new RunLog(config, { startStep: 0 });
  const run = await openRun(config, log, start);
  try {
    body(run);
  } finally {
    await closeRun(run);
    log.close();
  }
}

describe('the largest micro-batch', () => {
  const lengths = Uint32Array.from([5, 900, 7, 11, 13, 17, 800, 3]);
  it.each([
    ['in random order', {}],
    ['by length', { lengths }],
    ['packed', { packing: { lengths, capacity: 1000 } }],
  ])('is that of the plan %s', (_, more) => {
    const sampler = new Sampler({ sizes: [8], seed: 3, shuffle: true, batchSize: 1, accumulation: 2, ...more });
    const plans = Array.from({ length: sampler.stepsPerEpoch }, (__, step) => sampler.plan(step));
    const sizes = plans.flatMap(({ step, batches }) =>
      batches.map((batch) => ({ step: step + 1, tokens: batch.reduce((sum, i) => sum + lengths[i]!, 0) })),
    );
    const most = Math.max(...sizes.map(({ tokens }) => tokens));
    const found = largestMicroBatch(sampler, lengths, 0, 100);
    expect(found.tokens).toBe(most);
    expect(sizes).toContainEqual({ step: found.step, tokens: found.tokens });
    expect(found.records.reduce((sum, length) => sum + length, 0)).toBe(most);
  });
});

const room = (now: number, whole: number): Room => ({ now, whole });
const quiet = { reporter: { notice: () => {}, task: SILENT.task } };

describe('the memory check', () => {
  const warnings: string[] = [];
  const log = { ...quiet, warn: (_: string, message: string) => void warnings.push(message) };
  const estimated = async (flags: Record<string, unknown>): Promise<RunEstimate> => {
    let found: RunEstimate | null = null;
    await withRun({ per_device_train_batch_size: 8, max_steps: 4, ...flags }, (run) => {
      found = run.estimated;
    });
    return found!;
  };

  it('warns where there is too little now, and refuses what exceeds all of the memory', async () => {
    const run = await estimated({});
    checkMemory(run, log, room(1e12, 1e12));
    expect(warnings).toEqual([]);
    checkMemory(run, log, room(1e6, 1e12));
    expect(warnings.splice(0)).toEqual([
      expect.stringMatching(
        /^THE LARGEST BATCH MAY NOT FIT: step \d has \d+ tokens at once, .* and cpu has 1\.0 MB\. /,
      ),
    ]);
    expect(() => checkMemory(run, log, room(1e6, 1e6))).toThrow(
      /^Expected at most 1\.0 MB, which cpu has, but received a run that takes about .* without pictures/,
    );
  });

  it('counts what is offloaded to the host', async () => {
    const run: RunEstimate = { ...(await estimated({})), device: 'cuda' };
    const roomy = { now: 1e12, whole: 1e12 };
    const each = run.likely.hostBytes / run.worldSize;
    checkMemory(run, log, { ...roomy, host: { now: each, whole: each } });
    expect(warnings).toEqual([]);
    checkMemory(run, log, { ...roomy, host: { now: each - 1e6, whole: each } });
    expect(warnings.splice(0)).toEqual([
      expect.stringMatching(/^THE HOST MAY HAVE TOO LITTLE MEMORY: .*--offload_params/),
    ]);
    expect(() => checkMemory(run, log, { ...roomy, host: { now: 1e6, whole: each / 2 } })).toThrow(
      /^Expected at most .* of host memory for each process but received a run that takes about /,
    );
  });

  it('only warns with --memory_check warn, and is silent with off', async () => {
    const run = await estimated({ memory_check: 'warn' });
    checkMemory(run, log, room(1e6, 1e6));
    expect(warnings.splice(0)).toHaveLength(1);
    await withRun({ memory_check: 'off' }, (off) => expect(off.estimated).toBeNull());
  });

  it('is not there in a run that fits', async () => {
    await train(configOf(place, 'fits'));
    expect(eventsOf(join(place.folder, 'fits'), 'warning')).toEqual([]);
  });
});

/** A model whose tensors are large enough for the allocator to count them. */
function countedModel(): { folder: string; read: ModelConfig } {
  const folder = mkdtempSync(join(place.folder, 'counted-'));
  const text = JSON.stringify({
    ...(JSON.parse(readFileSync(join(place.model, 'config.json'), 'utf8')) as object),
    ...{ hidden_size: 512, intermediate_size: 1024, num_attention_heads: 4, num_key_value_heads: 4, vocab_size: 2048 },
    num_hidden_layers: 3,
    torch_dtype: 'bfloat16',
  });
  const read = parseConfig(text, join(folder, 'config.json'));
  const model = createModel(read, { seed: 1, dtype: 'bfloat16' });
  saveCheckpoint(model, folder);
  model.dispose();
  return { folder, read };
}

describe('an estimate', () => {
  const { folder, read } = countedModel();
  const config = (flags: Readonly<Record<string, unknown>>): RunConfig =>
    configOf(place, 'estimated', {
      ...{
        model_name_or_path: folder,
        model_max_length: 1024,
        per_device_train_batch_size: 1,
        device: 'cpu',
        bf16: true,
      },
      ...flags,
    });

  /** Flags, and which rank of how many. */
  type Case = readonly [flags: Readonly<Record<string, unknown>>, rank?: number, size?: number];
  const CASES: readonly Case[] = [
    [{ gradient_checkpointing: true }],
    [{ bf16: false }],
    [{ packing: true, per_device_train_batch_size: 2 }],
    [{ use_lora: true, q_lora: true, gradient_checkpointing: true }],
    [{ preference: 'dpo', precompute_ref: false, gradient_checkpointing: true }],
    [{ gradient_checkpointing: true }, 3, 4],
    [{ use_lora: true, zero_stage: 3, gradient_checkpointing: true }, 1, 2],
    [{ offload_params: join(folder, 'states'), gradient_checkpointing: true, gradient_accumulation_steps: 2 }],
  ];
  /** Of the long part. */
  const MORE: readonly Case[] = [
    [{}],
    [{ bf16_master_weights: false, gradient_checkpointing: true }],
    [{ gradient_checkpointing: true, gradient_accumulation_steps: 2 }],
    [{ fused_backward: true }],
    [{ bf16: false, fp16: true }],
    [{ use_lora: true }],
    [{ use_lora: true, use_dora: true, gradient_checkpointing: true }],
    [{ use_lora: true, tune_vision: false, gradient_checkpointing: true }],
    [{ use_lora: true, q_lora: true, q_lora_type: 'int8', tune_vision: false }],
    [{ preference: 'dpo', precompute_ref: false, gradient_checkpointing: true }, 0, 2],
    [{ gradient_checkpointing: true, zero_stage: 0 }, 1, 2],
    [{ gradient_checkpointing: true, zero_stage: 2 }, 0, 4],
    [{ gradient_checkpointing: true }, 0, 2],
    [{ gradient_checkpointing: true }, 0, 8],
    [{ gradient_checkpointing: true, fused_backward: true }, 0, 2],
    [{ offload_optimizer: join(folder, 'states'), gradient_checkpointing: true }],
    [{ offload_params: join(folder, 'states'), gradient_checkpointing: true }],
    [{ offload_params: join(folder, 'states'), fused_backward: true }],
    [{ offload_params: join(folder, 'states'), gradient_checkpointing: true }, 0, 2],
  ];

  it('is within 10 % of what is measured', { timeout: 300_000 }, () => {
    const chosen = LONG ? [...CASES, ...MORE] : CASES;
    const small = { model_max_length: 512 };
    const cases = chosen.map(([flags, rank = 0, size = 1]) => ({ config: config({ ...small, ...flags }), rank, size }));
    // in a process of its own: what is measured is of a process
    const out = execFileSync(process.execPath, ['--input-type=module', '-e', MEASURE], {
      ...{ input: JSON.stringify({ cases, folder }), encoding: 'utf8' },
      ...{ cwd: import.meta.dirname, env: { ...process.env, OMP_NUM_THREADS: '1' } },
    });
    const { measured, left } = JSON.parse(out) as { measured: { estimated: number; measured: number }[]; left: number };
    const off = measured.map((one) => one.estimated / one.measured - 1);
    const far = chosen.map((one, i) => ({ one, off: off[i] })).filter((one) => Math.abs(one.off!) > 0.1);
    expect(far).toEqual([]);
    for (const one of measured) expect(one.measured).toBeGreaterThan(20e6);
    expect(left).toBeLessThan(1e6);
  });

  it('has weights, masters and moments to the byte', () => {
    const one = estimate(config({}), read, largestShape(config({}), read, 1), { device: 'cpu', worlds: [1] })[0]!;
    const model = new MiniCPMV(read);
    const count = (pick: (name: string) => boolean): number =>
      [...model.namedParameters()]
        .filter(([name]) => pick(name))
        .reduce((sum, [, { shape }]) => sum + shape.reduce((product, size) => product * size, 1), 0);
    const table = (name: string): boolean => name.includes('embed_tokens');
    const bytes = new Map(one.device.map((line) => [line.category, line.bytes]));
    expect(bytes.get('weights')).toBe(2 * count(() => true));
    expect(bytes.get('masters')).toBe(4 * count(() => true));
    expect(bytes.get('moments')).toBe(8 * (count((name) => !table(name)) + 1024 * 512));
    for (const { bytes: all, terms } of [...one.device, ...one.host])
      expect(all).toBeCloseTo(
        terms.reduce((sum, term) => sum + term.count * term.bytes, 0),
        3,
      );
    expect(one.deviceBytes).toBe(one.device.reduce((sum, line) => sum + line.bytes, 0));
  });

  it('has the copy of what trains that is the reference, for which --precompute_ref true is the cure', () => {
    const of = (flags: object, epochs?: number): Estimate => {
      const own = config({ preference: 'dpo', ...flags });
      const options = { device: 'cuda', worlds: [1], ...(epochs === undefined ? {} : { epochs }) } as const;
      return estimate(own, read, largestShape(own, read, 1), options)[0]!;
    };
    const copied = (one: Estimate): number => one.device.find(({ category }) => category === 'reference')!.bytes;
    const [live, once] = [of({ precompute_ref: false }), of({})];
    expect(copied(live)).toBe(2 * live.totalNumbers);
    expect(Math.abs(live.deviceBytes - once.deviceBytes - copied(live))).toBeLessThan(1e3);
    expect(summary(live)).toContain(`+ reference ${formatBytes(copied(live))} + `);
    expect(copied(of({ use_lora: true }, 1))).toBeGreaterThan(0); // of modules that train whole
    for (const flags of [{ preference: 'simpo', precompute_ref: false }, { use_lora: true }, {}])
      expect(copied(of(flags))).toBe(0);
    const own = config({ preference: 'dpo', precompute_ref: false, gradient_checkpointing: true });
    const options: FitOptions = {
      ...{ device: 'cuda', world: 1, given: new Set(), shapeOf: (one) => largestShape(one, read, 1) },
      withChanges: (changes) => changedConfig(own, changes),
    };
    const { deviceBytes } = of({ gradient_checkpointing: true });
    expect(fit(own, read, deviceBytes, options)!.changes).toEqual({ precompute_ref: 'true' });
  });

  it('has what is offloaded where it is', () => {
    const at = (device: 'cpu' | 'cuda', flags: object): Estimate[] => {
      const own = config({ gradient_checkpointing: true, ...flags });
      return estimate(own, read, largestShape(own, read, 1), { device, worlds: [1, 4] });
    };
    const [none, cpu] = [at('cuda', {}), at('cuda', { offload_params: 'cpu' })];
    const folder = at('cuda', { offload_params: 'cpu', offload_optimizer: '/fast' });
    const of = (lines: Estimate['device'], category: string) =>
      lines.find((line) => line.category === category)?.bytes ?? 0;
    for (const [i, { device }] of none.entries()) {
      const world = [1, 4][i]!;
      for (const category of ['masters', 'moments']) {
        expect(of(cpu[i]!.device, category)).toBe(0);
        expect(of(cpu[i]!.host, category)).toBe(of(folder[i]!.disk, category));
        expect(of(cpu[i]!.host, category) / of(device, category) / world).toBeCloseTo(1, 6);
      }
      expect(cpu[i]!.deviceBytes).toBeLessThan(none[i]!.deviceBytes);
      expect([none[i]!.diskBytes, cpu[i]!.diskBytes]).toEqual([0, 0]);
    }
    const weights = of(cpu[0]!.device, 'weights') + of(cpu[0]!.host, 'weights');
    expect(weights).toBe(of(none[0]!.device, 'weights'));
    expect(at('cpu', { offload_params: 'cpu' })).toEqual(at('cpu', {})); // host memory is what the CPU has
  });

  it('shares states among devices by stage', () => {
    const own = config({ gradient_checkpointing: true });
    const all = estimate(own, read, largestShape(own, read, 1), { device: 'cuda', worlds: [1, 2, 4, 8] });
    expect(all.map(({ stage }) => stage)).toEqual([0, 3, 3, 3]);
    const of = (category: string): number[] =>
      all.map(({ device }) => device.find((line) => line.category === category)!.bytes);
    const [masters, ...shares] = of('masters');
    shares.forEach((bytes, i) => {
      expect(bytes / (masters! / 2 ** (i + 1))).toBeCloseTo(1, 2);
    });
    // Of the table's rows a rank has those that occur on any rank: as many as on one, up to all of its own.
    const [moments, ...others] = of('moments');
    const table = 8 * 512 * 1024;
    others.forEach((bytes, i) => {
      const rows = Math.min(table, (8 * 512 * 2048) / 2 ** (i + 1));
      expect(bytes / ((moments! - table) / 2 ** (i + 1) + rows)).toBeCloseTo(1, 2);
    });
    const [whole, , , eighth] = of('weights');
    expect(eighth).toBeLessThan(whole! / 4);
    const lora = config({ use_lora: true });
    expect(estimate(lora, read, largestShape(lora, read, 1), { device: 'cuda', worlds: [2] })[0]!.stage).toBe(2);
  });

  it('has the whole model that answers need under stage 3, which --eval_generate 0 cures', () => {
    const lora = { use_lora: true, tune_vision: false, zero_stage: 3 };
    const short = { ...lora, gradient_checkpointing: true, model_max_length: 64 };
    const asks = config({ ...short, eval_generate: 2, eval_data_path: place.data, eval_strategy: 'epoch' });
    const of = (own: RunConfig) => estimate(own, read, largestShape(own, read, 1), { device: 'cuda', worlds: [8] })[0]!;
    const [one, other] = [of(asks), of(config(short))];
    expect(one.moment).toBe('answers of an evaluation, with all weights');
    const gathered = one.device.find(({ category }) => category === 'communication')!.bytes;
    expect(gathered).toBeGreaterThan(1.9 * one.totalNumbers);
    expect(other.moment).not.toBe(one.moment);
    expect(other.deviceBytes).toBeLessThan(one.deviceBytes);
    const options: FitOptions = {
      ...{ device: 'cuda', world: 8, given: new Set(), shapeOf: (own) => largestShape(own, read, 1) },
      withChanges: (changes) => changedConfig(asks, changes),
    };
    expect(fit(asks, read, other.deviceBytes, options)!.changes).toEqual({ eval_generate: 0 });
  });

  it('leaves no tensor', () => {
    const before = liveTensors().tensors;
    estimate(config({ use_lora: true, q_lora: true }), read, largestShape(config({}), read, 1), {
      device: 'cpu',
      worlds: [1],
    });
    expect(liveTensors().tensors).toBe(before);
  });
});

describe('settings that fit', () => {
  const { read } = countedModel();
  const options = (given: string[]): FitOptions => ({
    ...{ device: 'cuda', world: 1, given: new Set(given), shapeOf: (one) => largestShape(one, read, 1) },
    withChanges: (changes) => changedConfig(base, changes),
  });
  const base = configOf(place, 'fitted', { per_device_train_batch_size: 4, model_max_length: 1024 });
  const bytes = (changes: Changes): number => {
    const own = changedConfig(base, changes)!;
    return estimate(own, read, largestShape(own, read, 1), { device: 'cuda', worlds: [1] })[0]!.deviceBytes;
  };

  it('change as little as needed, in the order of their cost', () => {
    expect(fit(base, read, 1e12, options([]))!.changes).toEqual({});
    const recompute = { gradient_checkpointing: true };
    const small = { ...recompute, per_device_train_batch_size: 1, gradient_accumulation_steps: 4 };
    for (const changes of [recompute, small])
      expect(fit(base, read, bytes(changes), options([]))!.changes).toEqual(changes);
    expect(fit(base, read, 1e6, options([]))).toBeNull();
  });

  it('offload before they change what is learned, as far as the host has room', () => {
    const small = { gradient_checkpointing: true, per_device_train_batch_size: 1, gradient_accumulation_steps: 4 };
    const optimizer = { ...small, offload_optimizer: 'cpu' };
    const params = { ...optimizer, offload_params: 'cpu' };
    for (const changes of [optimizer, params])
      expect(fit(base, read, bytes(changes), options([]))!.changes).toEqual(changes);
    const { estimate: offloaded } = fit(base, read, bytes(params), options([]))!;
    const less = { ...options([]), hostRoom: offloaded.hostBytes - 1 };
    const words = Object.keys(fit(base, read, bytes(optimizer), less)!.changes);
    expect(words).not.toContain('offload_params');
    const cpu = { ...options([]), device: 'cpu' as const };
    expect(JSON.stringify(fit(base, read, bytes(params) / 1.5, cpu)?.changes ?? {})).not.toContain('offload');
  });

  it('have no change that can be left out', () => {
    const { changes, estimate: found } = fit(base, read, bytes({ use_lora: true, tune_llm: false }), options([]))!;
    for (const name of Object.keys(changes)) {
      const { [name]: _, ...rest } = changes;
      const own = changedConfig(base, rest);
      if (own !== null && name !== 'gradient_accumulation_steps')
        expect(bytes(rest), name).toBeGreaterThan(found.deviceBytes);
    }
  });

  it('leave what was given', () => {
    const { changes } = fit(
      base,
      read,
      bytes({ per_device_train_batch_size: 1, gradient_accumulation_steps: 4 }),
      options(['gradient_checkpointing']),
    )!;
    expect(changes).toEqual({ per_device_train_batch_size: 1, gradient_accumulation_steps: 4 });
  });
});
