/** Quantized weights: levels, error bounds, sizes, which weights, and gradients through them. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { readConfig } from '@minicpm-finetune/processor';
import {
  type CompactTensor,
  enableGrad,
  grad,
  Linear,
  liveTensors,
  manualSeed,
  ops,
  scope,
  type Tensor,
  tensor,
} from '@minicpm-finetune/torch';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { applyLora } from '../../src/adapters/lora.js';
import {
  Int8Tensor,
  NF4_BLOCK,
  NF4_LEVELS,
  NF4_SCALE_BLOCK,
  Nf4Tensor,
  quantizeLayers,
} from '../../src/adapters/quantize.js';
import { loadWeights } from '../../src/checkpoint/weights.js';
import { MiniCPMV } from '../../src/model/minicpm-v.js';
import { tinyCheckpoint } from '../support/tiny.js';

/** Half the distance from a level to the farther one of its neighbours. */
const HALF_GAP = NF4_LEVELS.map((level, i) => {
  const gaps = [NF4_LEVELS[i - 1], NF4_LEVELS[i + 1]].map((other) => Math.abs((other ?? level) - level));
  return Math.max(...gaps) / 2;
});

function nearestLevel(x: number): number {
  return NF4_LEVELS.reduce((best, level, i) => (Math.abs(level - x) < Math.abs(NF4_LEVELS[best]! - x) ? i : best), 0);
}

const numbers = (x: Tensor): number[] => ops.reshape(x, [-1]).toNumbers();
const largest = (values: readonly number[]): number => Math.max(...values.map(Math.abs));
const slices = <T>(values: readonly T[], size: number): T[][] =>
  Array.from({ length: Math.ceil(values.length / size) }, (_, i) => values.slice(i * size, (i + 1) * size));

/** A weight's numbers, and those of its quantized form. */
function roundTrip(weight: Tensor, make: new (weight: Tensor) => CompactTensor): [number[], number[]] {
  const compact = new make(weight);
  try {
    return scope(() => [numbers(weight), numbers(compact.expand())]);
  } finally {
    compact.dispose();
  }
}

beforeAll(() => manualSeed(7));

describe('NF4', () => {
  it("has the code book's sixteen levels, quantiles of the normal distribution", () => {
    expect(NF4_LEVELS).toHaveLength(16);
    expect([NF4_LEVELS[0], NF4_LEVELS[7], NF4_LEVELS[15]]).toEqual([-1, 0, 1]);
    expect([...NF4_LEVELS].sort((a, b) => a - b)).toEqual(NF4_LEVELS);
  });

  it('keeps weights that are levels, whatever the byte', () => {
    // all 256 pairs; each block has a level of magnitude one, so that its largest magnitude is 0.5
    const pairs = NF4_LEVELS.flatMap((high) => NF4_LEVELS.map((low) => [high * 0.5, low * 0.5]));
    const blocks = slices(pairs, 31).map((block) => [...block, ...Array(31 - block.length).fill([0, 0]), [0.5, -0.5]]);
    const weight = tensor(blocks.map((block) => block.flat()));
    expect(weight.shape).toEqual([9, 64]);
    const [before, after] = roundTrip(weight, Nf4Tensor);
    expect(after).toEqual(before);
  });

  it.each([
    ['many blocks of different size', () => ops.mul(ops.randn([520, 256]), ops.exp(ops.randn([520, 1])))],
    ['uniform numbers', () => ops.uniform_(ops.empty([64, 96]), -0.02, 0.02)],
    ['a last block that is not whole', () => ops.randn([7, 13])],
    ['more than one piece', () => ops.randn([1030, 1024])],
  ])('errs by half a gap of the code book and the rounding of the scale: %s', (_, make) => {
    const [before, after] = roundTrip(scope(make), Nf4Tensor);
    const exact = slices(before, NF4_BLOCK).map(largest);
    const rounded = slices(after, NF4_BLOCK).map(largest); // each block has a weight at ±1
    const mean = exact.reduce((sum, x) => sum + x / exact.length, 0);
    const scaleBounds = slices(exact, NF4_SCALE_BLOCK).flatMap((group) => {
      const bound = largest(group.map((x) => x - mean)) / 254;
      return group.map(() => bound);
    });
    const wrong = exact.filter((x, i) => Math.abs(x - rounded[i]!) > scaleBounds[i]! * 1.001 + 1e-6 * mean);
    expect(wrong).toEqual([]);
    let worst = 0;
    let misplaced = 0;
    before.forEach((x, i) => {
      const block = Math.floor(i / NF4_BLOCK);
      const level = nearestLevel(x / exact[block]!);
      if (Math.abs(after[i]! - NF4_LEVELS[level]! * rounded[block]!) > 1e-5 * exact[block]!) misplaced++;
      const bound = HALF_GAP[level]! * exact[block]! + Math.abs(exact[block]! - rounded[block]!);
      worst = Math.max(worst, Math.abs(x - after[i]!) / (bound + 1e-6 * exact[block]!));
    });
    expect(misplaced).toBe(0);
    expect(worst).toBeLessThanOrEqual(1);
    expect(worst).toBeGreaterThan(0.5); // the bound is no idle one
  });

  it('errs on normal weights as the paper says: less than 4 evenly spaced bits', () => {
    const [before, after] = roundTrip(ops.randn([256, 256]), Nf4Tensor);
    const rms = (error: (x: number, i: number) => number): number =>
      Math.sqrt(before.reduce((sum, x, i) => sum + error(x, i) ** 2, 0) / before.length);
    const scales = slices(before, NF4_BLOCK).map(largest);
    const even = rms((x, i) => {
      const step = scales[Math.floor(i / NF4_BLOCK)]! / 7;
      return x - step * Math.round(x / step);
    });
    const nf4 = rms((x, i) => x - after[i]!);
    expect(nf4).toBeLessThan(0.1);
    expect(nf4).toBeLessThan(even);
  });

  it('takes 4.127 bits a weight, and a table of 2 kB', () => {
    const weight = ops.zeros([1024, 1024], { dtype: 'bfloat16' });
    const compact = new Nf4Tensor(weight);
    expect(((compact.nbytes - 2048) * 8) / weight.numel).toBeCloseTo(4 + 8 / 64 + 32 / (64 * 256), 4);
    compact.dispose();
  });
});

describe('int8', () => {
  it('errs by half a step of its row', () => {
    const weight = ops.mul(ops.randn([300, 70]), ops.exp(ops.randn([300, 1])));
    const [before, after] = roundTrip(weight, Int8Tensor);
    const rows = [slices(before, 70), slices(after, 70)] as const;
    const worst = rows[0].map((row, i) => largest(row.map((x, j) => x - rows[1][i]![j]!)) / (largest(row) / 254));
    expect(largest(worst)).toBeLessThanOrEqual(1.0001);
    expect(largest(worst)).toBeGreaterThan(0.9);
  });

  it('takes 8 bits a weight, and 32 a row', () => {
    const compact = new Int8Tensor(ops.ones([10, 64]));
    expect(compact.nbytes).toBe(640 + 40);
    compact.dispose();
  });
});

describe.each([
  ['nf4', Nf4Tensor],
  ['int8', Int8Tensor],
] as const)('both kinds: %s', (_, make) => {
  it('keeps zeros, and has the type of the weight', () => {
    const [, zeros] = roundTrip(ops.zeros([3, 64]), make);
    expect(zeros.every((x) => x === 0)).toBe(true);
    const exact = ops.randn([8, 64]);
    const [, float] = roundTrip(ops.to(ops.to(exact, 'bfloat16'), 'float32'), make);
    const [, half] = roundTrip(ops.to(exact, 'bfloat16'), make);
    expect(half).toEqual(ops.to(tensor(float), 'bfloat16').toNumbers());
  });

  it('frees everything', () => {
    const weight = ops.randn([8, 64]);
    const before = liveTensors().tensors;
    const compact = new make(weight);
    compact.expand().dispose();
    compact.dispose();
    expect(liveTensors().tensors).toBe(before);
    weight.dispose();
  });

  it('is a layer with the same output and input gradient as one with the dequantized weight', () => {
    const layer = new Linear(64, 8, { bias: true });
    layer.weight.compact = new make(ops.randn([8, 64]));
    layer.bias!.data = ops.randn([8]);
    const plain = layer.weight.data;
    const x = ops.randn([2, 3, 64]);
    x.requiresGrad = true;
    const [y, expected] = enableGrad(() => [layer.forward(x), ops.linear(x, plain, layer.bias!.data)]);
    expect(numbers(y!)).toEqual(numbers(expected!));
    const gradOutputs = [ops.randn([2, 3, 8])];
    const [got, wanted] = [y!, expected!].map((output) => grad([output], [x], { gradOutputs })[0]!);
    expect(numbers(got!)).toEqual(numbers(wanted!));
    layer.dispose();
    expect(layer.weight.isLoaded).toBe(false);
  });

  it('leaves nothing behind a forward pass without a graph but its output', () => {
    const layer = new Linear(64, 8, { bias: false });
    layer.weight.compact = new make(ops.randn([8, 64]));
    const x = ops.randn([3, 64]);
    const before = liveTensors().tensors;
    layer.forward(x);
    expect(liveTensors().tensors).toBe(before + 1);
    layer.dispose();
  });
});

describe('a parameter in a smaller form', () => {
  it('refuses another shape, and gives way to a tensor', () => {
    const layer = new Linear(64, 8, { bias: false });
    const other = new Int8Tensor(ops.ones([4, 64]));
    expect(() => {
      layer.weight.compact = other;
    }).toThrow('Expected shape [8, 64] for a parameter but received [4, 64]');
    layer.weight.compact = new Int8Tensor(ops.ones([8, 64]));
    expect(layer.weight.requiresGrad).toBe(false);
    const data = ops.zeros([8, 64]);
    layer.weight.data = data;
    expect(layer.weight.compact).toBeUndefined();
    expect(layer.weight.data).toBe(data);
    layer.dispose();
    other.dispose();
  });
});

describe('quantizeLayers', () => {
  const parent = mkdtempSync(join(tmpdir(), 'quantize-'));
  afterAll(() => rmSync(parent, { recursive: true }));
  const LORA = { r: 4, alpha: 8, targetModules: ['q_proj'], bias: 'all' } as const;

  it("takes the frozen linear weights of the language model's layers, and nothing else", () => {
    const folder = tinyCheckpoint(parent, 'minicpm-v-2_6');
    const model = new MiniCPMV(readConfig(folder));
    loadWeights(model, folder);
    const whole = 'llm.model.layers.1.mlp.up_proj';
    applyLora(model, { ...LORA, modulesToSave: [whole, 'resampler'] }, { seed: 1 });
    const before = new Map([...model.namedParameters()].map(([name, p]) => [name, scope(() => numbers(p.data))]));
    const done = quantizeLayers(model, 'nf4');
    const compact = [...model.namedParameters()].filter(([, p]) => p.compact !== undefined).map(([name]) => name);
    const layer = (i: number): string[] =>
      ['self_attn.q_proj', 'self_attn.k_proj', 'self_attn.v_proj', 'self_attn.o_proj']
        .concat(['mlp.gate_proj', 'mlp.up_proj', 'mlp.down_proj'])
        .map((name) => `llm.model.layers.${i}.${name}.weight`);
    expect(compact).toEqual([...layer(0), ...layer(1)].filter((name) => name !== `${whole}.weight`));
    expect(done.tensors).toBe(13);
    const sizes = compact.map((name) => 4 * before.get(name)!.length);
    expect(done.bytesBefore).toBe(sizes.reduce((sum, size) => sum + size, 0));
    expect(done.layerBytes).toBe(sizes.slice(0, 7).reduce((sum, size) => sum + size, 0));
    const parameters = new Map(model.namedParameters());
    const after = compact.reduce((sum, name) => sum + parameters.get(name)!.compact!.nbytes, 0);
    expect(done.bytesAfter).toBe(after);
    const others = [...parameters].filter(([name]) => !compact.includes(name));
    for (const [name, parameter] of others) expect(scope(() => numbers(parameter.data))).toEqual(before.get(name));
    expect(quantizeLayers(model, 'nf4').tensors).toBe(0);
    model.dispose();
  });
});
