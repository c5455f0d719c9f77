import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { UserError } from '@minicpm-finetune/run';
import { liveTensors, noGrad, openSafetensors, ops, SafetensorsFile, setThreads } from '@minicpm-finetune/torch';
import { afterAll, describe, expect, it } from 'vitest';
import { FORWARD } from '../../../torch/test/precision.js';
import { loadAdapter } from '../../src/adapters/folder.js';
import { loraAdapters } from '../../src/adapters/lora.js';
import { type MergeOptions, mergeCheckpoint, mergeLora, replacedModules } from '../../src/adapters/merge.js';
import { randomAdapter } from '../support/random-adapter.js';
import { relativeDifference } from '../support/reference.js';
import { tinyCheckpoint, VERSION_NAMES } from '../support/tiny.js';
import { FIXTURES, toy } from '../support/toy.js';

setThreads(1);
const work = mkdtempSync(join(tmpdir(), 'merge-'));
afterAll(() => rmSync(work, { recursive: true }));

describe('adapters of PEFT, merged in memory', () => {
  for (const kind of ['plain', 'rslora', 'dora', 'patterns']) {
    it(`${kind}: the same logits without adapters`, () => {
      const expected = new SafetensorsFile(join(FIXTURES, kind, 'expected.safetensors'));
      const model = toy();
      const before = liveTensors().tensors;
      loadAdapter(join(FIXTURES, kind), model, { trainable: true });
      mergeLora(model);
      expect(liveTensors().tensors).toBe(before);
      expect(loraAdapters(model).next().done).toBe(true);
      const logits = noGrad(() => model.forward(expected.tensor('ids')));
      expect(relativeDifference(logits, expected.tensor('logits'))).toBeLessThan(FORWARD);
    });
  }

  it('rounds once into the type of the weights', () => {
    const half = toy('bfloat16');
    loadAdapter(join(FIXTURES, 'plain'), half, { trainable: false, dtype: 'float32' });
    mergeLora(half);
    const exact = toy();
    loadAdapter(join(FIXTURES, 'plain'), exact, { trainable: false });
    const q = exact.layers[0]!.q;
    const adapter = [...loraAdapters(exact)][0]![2];
    const rounded = ops.to(adapter.mergedWeight(ops.to(ops.to(q.weight.data, 'bfloat16'), 'float32')), 'bfloat16');
    expect(relativeDifference(half.layers[0]!.q.weight.data, rounded)).toBe(0);
  });
});

describe('checkpoints', () => {
  for (const version of VERSION_NAMES) {
    it(`${version}: every tensor of the base under its name, adapters in, the rest untouched`, () => {
      const base = tinyCheckpoint(work, version);
      const adapter = randomAdapter(base, join(work, `${version}-adapter`), 1);
      const before = liveTensors();
      const output = join(work, `${version}-merged`);
      const report = mergeCheckpoint({ model: base, adapters: [adapter], output, maxShardBytes: 200_000 });
      expect(liveTensors()).toEqual(before);
      const [source, merged] = [openSafetensors(base), openSafetensors(output)];
      expect([...merged.infos.keys()].sort()).toEqual([...source.infos.keys()].sort());
      expect(report.tensors).toBe(source.infos.size);
      expect(report.logitsError).toBeLessThan(2 * FORWARD); // sums of other numbers: W + BA in place of W and BA
      const changed = [...source.infos.keys()].filter(
        (name) => ops.equal(source.tensor(name), merged.tensor(name)) === false,
      );
      expect(
        changed.every((name) => /^(resampler|model\.merger)\.|\.(q_proj|v_proj|in_proj_qkv)\.weight$/.test(name)),
      ).toBe(true);
      expect(changed).toHaveLength(report.changed);
      expect(readdirSync(output).filter((name) => name.startsWith('model-')).length).toBeGreaterThan(1);
      const side = readdirSync(base).filter((name) => !name.endsWith('.safetensors'));
      expect(readdirSync(output)).toEqual(expect.arrayContaining(side));
      expect(readFileSync(join(output, 'config.json'), 'utf8')).toBe(readFileSync(join(base, 'config.json'), 'utf8'));
    });
  }

  it('in another type, from a bfloat16 base', () => {
    const base = tinyCheckpoint(mkdtempSync(join(work, 'x-')), 'minicpm-v-2_6', 1, 'bfloat16');
    const adapter = randomAdapter(base, join(work, 'half-adapter'), 3, { useDora: true });
    const half = mergeCheckpoint({ model: base, adapters: [adapter], output: join(work, 'half') });
    expect(half.logitsError).toBeGreaterThan(0);
    mergeCheckpoint({ model: base, adapters: [adapter], output: join(work, 'full'), dtype: 'float32' });
    const types = (folder: string): Set<string> =>
      new Set([...openSafetensors(join(work, folder)).infos.values()].map(({ dtype }) => dtype));
    expect([...types('half')]).toEqual(['bfloat16']);
    expect([...types('full')]).toEqual(['float32']);
    expect(JSON.parse(readFileSync(join(work, 'full', 'config.json'), 'utf8'))).toHaveProperty(
      'torch_dtype',
      'float32',
    );
  });
});

it('says which modules of an earlier adapter a later one replaces', () => {
  const base = tinyCheckpoint(mkdtempSync(join(work, 'x-')), 'minicpm-v-2_6');
  const [first, second] = [1, 2].map((seed) => randomAdapter(base, join(work, `both-${seed}`), seed));
  const { notices } = mergeCheckpoint({ model: base, adapters: [first!, second!], output: join(work, 'both') });
  expect(notices).toContain(`adapter ${second}: what it saved whole replaces that of an earlier adapter: resampler.`);
  expect(
    replacedModules([
      { adapter: 'a', saved: ['resampler'] },
      { adapter: 'b', saved: ['vpm'] },
    ]),
  ).toEqual([]);
  // the resampler of the result is that of the second
  const own = new SafetensorsFile(join(second!, 'adapter_model.safetensors'));
  const result = openSafetensors(join(work, 'both'));
  expect(ops.equal(result.tensor('resampler.query'), own.tensor('base_model.model.resampler.query'))).toBe(true);
});

it('refuses a file in the place of the folder', () => {
  const base = tinyCheckpoint(mkdtempSync(join(work, 'x-')), 'minicpm-v-2_6');
  const adapter = randomAdapter(base, join(work, 'to-a-file'), 1);
  const output = join(work, 'notes.txt');
  writeFileSync(output, 'mine');
  expect(() => mergeCheckpoint({ model: base, adapters: [adapter], output })).toThrow(
    'Expected a new or empty folder for the merged model but received a file.',
  );
  expect(readFileSync(output, 'utf8')).toBe('mine');
});

describe('refused', () => {
  const base = tinyCheckpoint(mkdtempSync(join(work, 'x-')), 'minicpm-v-2_6');
  const adapter = randomAdapter(base, join(work, 'the-adapter'), 1);
  const refusal = (options: Partial<MergeOptions>): string => {
    const all = { model: base, adapters: [adapter], output: join(work, 'refused'), ...options };
    try {
      mergeCheckpoint(all);
    } catch (error) {
      expect(error).toBeInstanceOf(UserError);
      expect(readdirSync(work).filter((name) => name.includes('unfinished'))).toEqual([]);
      return (error as UserError).format();
    }
    throw new Error('Expected a refusal');
  };

  it('a folder in use', () => {
    const output = join(work, 'used');
    mkdirSync(output);
    writeFileSync(join(output, 'notes.txt'), 'mine');
    expect(refusal({ output })).toContain('--output_dir');
    expect(readdirSync(output)).toEqual(['notes.txt']);
    expect(refusal({ output: base })).toContain('--output_dir');
  });

  it('no adapters, and adapters of another base, leaving nothing behind', () => {
    expect(refusal({ adapters: [] })).toContain('--adapter');
    const other = tinyCheckpoint(mkdtempSync(join(work, 'x-')), 'minicpm-v-2_6', 9);
    expect(refusal({ model: other })).toContain('trained on');
    expect(existsSync(join(work, 'refused'))).toBe(false);
  });

  it('an adapter that makes the weights NaN', () => {
    const broken = randomAdapter(base, join(work, 'broken-adapter'), 1);
    rmSync(join(broken, 'minicpm_manifest.json'));
    const file = join(broken, 'adapter_model.safetensors');
    const bytes = readFileSync(file);
    bytes.fill(0xff, bytes.length - 64); // NaN in the last tensor
    writeFileSync(file, bytes);
    expect(refusal({ adapters: [broken] })).toContain('NaN');
  });
});
