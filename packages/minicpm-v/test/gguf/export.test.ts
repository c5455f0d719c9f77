/** Exports of models with adapters, what is refused, and what is said. */
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { UserError } from '@minicpm-finetune/run';
import {
  keep,
  liveTensors,
  ops,
  SafetensorsFile,
  scope,
  setThreads,
  type Tensor,
  writeSafetensors,
} from '@minicpm-finetune/torch';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { mergeCheckpoint } from '../../src/adapters/merge.js';
import { exportGguf, exportGgufAdapter } from '../../src/gguf/export.js';
import { readGguf } from '../../src/gguf/reader.js';
import { writeGguf } from '../../src/gguf/writer.js';
import { randomAdapter } from '../support/random-adapter.js';
import { ggufCheckpoint, tinyCheckpoint } from '../support/tiny.js';

setThreads(1);
const work = mkdtempSync(join(tmpdir(), 'gguf-export-'));
afterAll(() => rmSync(work, { recursive: true }));

/** Numbers of all tensors of a file in float32. */
function numbersOf(path: string): Map<string, Float32Array> {
  const data = readFileSync(path);
  return new Map(
    [...readGguf(path).tensors].map(([name, { offset, bytes }]) => [
      name,
      new Float32Array(data.buffer.slice(data.byteOffset + offset, data.byteOffset + offset + bytes)),
    ]),
  );
}

let count = 0;
const fresh = (): string => join(work, `out-${count++}`);
const failure = (run: () => unknown): UserError => {
  try {
    run();
  } catch (error) {
    if (error instanceof UserError) return error;
    throw error;
  }
  throw new Error('Expected a UserError but nothing was thrown');
};

describe.each(['minicpm-v-2_6', 'minicpm-v-4'] as const)('%s', (version) => {
  let base: string;
  let adapters: string[];
  beforeAll(() => {
    base = tinyCheckpoint(join(work, 'base'), version);
    adapters = [
      randomAdapter(base, join(work, `${version}-a`), 1),
      randomAdapter(base, join(work, `${version}-b`), 2, { useDora: true, bias: 'all', modulesToSave: [] }),
    ];
  });

  it('holds what adapters made of the language model and of the resampler, as a merged checkpoint does', () => {
    const merged = join(work, `${version}-merged`);
    mergeCheckpoint({ model: base, adapters, output: merged, dtype: 'float32' });
    const before = liveTensors();
    const ours = exportGguf({ model: base, adapters, outtype: 'f32', output: fresh() });
    expect(liveTensors()).toEqual(before);
    const expected = exportGguf({ model: merged, outtype: 'f32', output: fresh() });
    const plain = exportGguf({ model: base, outtype: 'f32', output: fresh() });
    for (const part of ['model', 'mmproj'] as const) {
      const [is, should, was] = [ours, expected, plain].map((made) => numbersOf(made[part]!)) as [
        Map<string, Float32Array>,
        Map<string, Float32Array>,
        Map<string, Float32Array>,
      ];
      let changed = 0;
      for (const [name, numbers] of should) {
        const most = numbers.reduce((sum, x) => Math.max(sum, Math.abs(x)), 0);
        const off = is.get(name)!.reduce((sum, x, i) => Math.max(sum, Math.abs(x - numbers[i]!)), 0);
        expect(off, name).toBeLessThanOrEqual(1e-6 * most);
        if (Buffer.compare(Buffer.from(numbers.buffer), Buffer.from(was.get(name)!.buffer)) !== 0) changed++;
      }
      expect(changed).toBeGreaterThan(3);
    }
  });

  it('an adapter that has more than low-rank parts on the language model has no file of its own', () => {
    const options = { model: base, output: fresh() };
    const saved = failure(() => exportGgufAdapter({ ...options, adapter: adapters[0]! }));
    expect(saved.message).toMatch(/low-rank parts alone .* has modules that were trained whole: resampler\./);
    expect(saved.cure).toMatch(/Leave --lora out/);
    const dora = randomAdapter(base, fresh(), 3, { useDora: true, modulesToSave: [] });
    expect(failure(() => exportGgufAdapter({ ...options, adapter: dora })).message).toMatch(
      /without DoRA .* use_dora true/,
    );
    const vision = randomAdapter(base, fresh(), 3, { targetModules: 'vpm\\..*\\.q_proj', modulesToSave: [] });
    expect(failure(() => exportGgufAdapter({ ...options, adapter: vision })).message).toMatch(
      /on the language model alone .* has low-rank parts on vpm\.encoder\.layers\.0\.self_attn\.q_proj/,
    );
    const biases = randomAdapter(base, fresh(), 3, { bias: 'all', modulesToSave: [] });
    expect(failure(() => exportGgufAdapter({ ...options, adapter: biases })).message).toMatch(
      /trained whole: .*\.bias/,
    );
    expect(existsSync(options.output)).toBe(false);
  });
});

describe('sizes that llama.cpp does not have are refused, and nothing is written', () => {
  it.each([
    ['minicpm-v-2_6', { hidden_size: 192 }, /a hidden_size that is a multiple of 128, .* but received 192\./],
    ['minicpm-v-4_6', {}, /a linear_value_head_dim equal to linear_key_head_dim 16, .* but received 32\./],
    [
      'minicpm-v-4_7',
      {
        text_config: {
          linear_key_head_dim: 32,
          layer_types: ['full_attention', 'linear_attention', 'full_attention'],
        },
      },
      /layer_types with one full_attention after .* but received full_attention, linear_attention, full_attention\./,
    ],
  ] as const)('%s %j', (version, extra, message) => {
    const [base, output] = [tinyCheckpoint(join(work, `sizes-${count++}`), version, 1, 'float32', extra), fresh()];
    const error = failure(() => exportGguf({ model: base, outtype: 'f16', output }));
    expect(error.message).toMatch(message);
    expect(error.cure).toMatch(/--format safetensors/);
    expect(existsSync(output)).toBe(false);
  });
});

it('tokens of pictures have other positions in llama.cpp where there is no resampler, which is said', () => {
  const base = ggufCheckpoint(join(work, 'native'), 'minicpm-v-4_6');
  const { notices, mmproj } = exportGguf({ model: base, outtype: 'f16', output: fresh() });
  expect(notices).toContainEqual(expect.stringMatching(/other positions than MiniCPM-V-4\.6 was trained with/));
  expect(readGguf(mmproj!).metadata.get('clip.projector_type')?.value).toBe('minicpmv4_6');
});

it('where four patches become a token, the merger inside the tower is left out', () => {
  const base = ggufCheckpoint(join(work, 'four'), 'minicpm-v-4_7', 1, { downsample_mode: '4x' });
  const { metadata, tensors } = readGguf(exportGguf({ model: base, outtype: 'f16', output: fresh() }).mmproj!);
  expect(metadata.get('clip.vision.projector.scale_factor')?.value).toBe(2);
  expect([...tensors.keys()].filter((name) => name.includes('vit_merger'))).toEqual([]);
  expect(tensors.has('mm.up.weight')).toBe(true);
});

it('adapters of linear attention are merged as a merged checkpoint has them', () => {
  const base = ggufCheckpoint(join(work, 'linear'), 'minicpm-v-4_6');
  const targetModules = 'model\\.language_model\\..*\\.linear_attn\\.(in_proj_.*|out_proj)';
  const adapter = randomAdapter(base, join(work, 'linear-adapter'), 1, { targetModules, useDora: true });
  const merged = join(work, 'linear-merged');
  mergeCheckpoint({ model: base, adapters: [adapter], output: merged, dtype: 'float32' });
  const before = liveTensors();
  const ours = exportGguf({ model: base, adapters: [adapter], outtype: 'f32', output: fresh() });
  expect(liveTensors()).toEqual(before);
  const expected = exportGguf({ model: merged, outtype: 'f32', output: fresh() });
  for (const part of ['model', 'mmproj'] as const) {
    const is = numbersOf(ours[part]!);
    for (const [name, numbers] of numbersOf(expected[part]!)) {
      const most = numbers.reduce((sum, x) => Math.max(sum, Math.abs(x)), 0);
      const off = is.get(name)!.reduce((sum, x, i) => Math.max(sum, Math.abs(x - numbers[i]!)), 0);
      expect(off, name).toBeLessThanOrEqual(1e-6 * most);
    }
  }
});

it('a tied token table is written once, and with six bits in q4_k_m', () => {
  const base = tinyCheckpoint(join(work, 'tied'), 'minicpm-v-2_6', 1, 'float32', {
    tie_word_embeddings: true,
    hidden_size: 256,
  });
  const { tensors } = readGguf(exportGguf({ model: base, outtype: 'q4_k_m', output: fresh() }).model);
  expect(tensors.has('output.weight')).toBe(false);
  expect(tensors.get('token_embd.weight')?.type).toBe('q6_k');
  expect(tensors.get('blk.0.attn_q.weight')?.type).toBe('q4_k');
});

describe('what llama.cpp does otherwise', () => {
  it.each([
    ['minicpm-llama3-v-2_5', /two-dimensional positions; MiniCPM-Llama3-V-2_5 was trained as published/],
    ['minicpm-v-2_6', /at most 9 slices, the training into at most 4/],
    ['minicpm-v-2_6', /longer than 56 pixels, the training if its area is larger than that of a square/],
    ['minicpm-v-2_6', /does not normalise text \(Unicode NFC\)/],
    ['minicpm-v-4', /a new line between rows of slices; the training, .* two tokens/],
    ['minicpm-v-4', /chooses the long rotary factors if the context size \(-c\) is larger than 600/],
  ] as const)('is said: %s %s', (version, sentence) => {
    const rope = { rope_type: 'longrope', long_factor: new Array(16).fill(2), short_factor: new Array(16).fill(1) };
    const extra = version === 'minicpm-v-4' ? { rope_scaling: rope } : {};
    const base = tinyCheckpoint(join(work, `said-${count++}`), version, 1, 'float32', extra);
    const { notices } = exportGguf({ model: base, outtype: 'f16', output: fresh() });
    expect(notices).toContainEqual(expect.stringMatching(sentence));
  });
});

describe('a file', () => {
  const tensor = (numbers: Float32Array, type: 'f16' | 'q8_0' | 'bf16' = 'f16') => ({
    type,
    shape: [1, numbers.length],
    rows: (): Tensor => ops.reshape(scopeTensor(numbers), [1, -1]),
  });
  const scopeTensor = (numbers: Float32Array): Tensor =>
    ops.cat(
      [...numbers].map((x) => ops.full([1], x, { dtype: 'float32' })),
      0,
    );

  it.each([
    ['q8_0', 70_000, /at most 65504 in w for q8_0 but received 70000/],
    ['f16', 70_000, /at most 65504 in w for f16 but received 70000/],
    ['f16', Number.NaN, /Expected finite numbers in w but received NaN/],
    ['bf16', Number.POSITIVE_INFINITY, /Expected finite numbers in w but received Infinity/],
  ] as const)('of %s refuses %d', (type, number, message) => {
    const numbers = new Float32Array(32).fill(1);
    numbers[5] = number;
    const error = failure(() => writeGguf(fresh(), new Map(), new Map([['w', tensor(numbers, type)]])));
    expect(error.message).toMatch(message);
  });

  it('is never written over', () => {
    const path = fresh();
    writeFileSync(path, 'mine');
    expect(() => writeGguf(path, new Map(), new Map([['w', tensor(new Float32Array(32))]]))).toThrow(/EEXIST/);
    expect(readFileSync(path, 'utf8')).toBe('mine');
  });
});

it('the output is a new folder that appears whole, or not at all', () => {
  const base = tinyCheckpoint(join(work, 'whole'), 'minicpm-v-2_6');
  const output = fresh();
  const seen: boolean[] = [];
  exportGguf({ model: base, outtype: 'f16', output, onProgress: () => seen.push(existsSync(output)) });
  expect(seen.length).toBeGreaterThan(10);
  expect(new Set(seen)).toEqual(new Set([false]));
  expect(readdirSync(output).sort()).toEqual(['MiniCPM-V-2_6-f16.gguf', 'Modelfile', 'mmproj-MiniCPM-V-2_6-f16.gguf']);
  const again = failure(() => exportGguf({ model: base, outtype: 'f16', output }));
  expect(again.message).toBe('Expected a new or empty folder for the exported model but received one with files.');
  // a weight that is damaged: nothing appears
  const file = join(base, 'model.safetensors');
  const source = new SafetensorsFile(file);
  scope(() => {
    const tensors = new Map([...source.infos.keys()].map((name) => [name, source.tensor(name)]));
    const norm = keep(ops.full([128], Number.NaN, { dtype: 'float32' }));
    writeSafetensors(file, new Map([...tensors, ['llm.model.norm.weight', norm]]));
    norm.dispose();
  });
  const broken = fresh();
  expect(failure(() => exportGguf({ model: base, outtype: 'f16', output: broken })).message).toBe(
    'Expected finite numbers in output_norm.weight but received NaN.',
  );
  expect(readdirSync(work).filter((name) => name.includes(broken.slice(work.length + 1)))).toEqual([]);
});

it('a resampler without a projection, as wide as the tower, gets one that changes nothing', () => {
  const { vision_config } = JSON.parse(
    readFileSync(join(tinyCheckpoint(join(work, 'narrow'), 'minicpm-v-2_6'), 'config.json'), 'utf8'),
  ) as { vision_config: object };
  const wide = { vision_config: { ...vision_config, hidden_size: 128, num_attention_heads: 4 } };
  const base = tinyCheckpoint(join(work, 'wide'), 'minicpm-v-2_6', 1, 'float32', wide);
  for (const outtype of ['f32', 'q4_k_m'] as const) {
    const before = liveTensors();
    const { mmproj } = exportGguf({ model: base, outtype, output: fresh() });
    expect(liveTensors()).toEqual(before);
    expect(readGguf(mmproj!).tensors.get('resampler.kv.weight')!.shape).toEqual([128, 128]);
    if (outtype !== 'f32') continue;
    const identity = numbersOf(mmproj!).get('resampler.kv.weight')!;
    expect([...identity]).toEqual(Array.from({ length: 128 * 128 }, (_, i) => (i % 129 === 0 ? 1 : 0)));
  }
});
