import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { readConfig } from '@minicpm-finetune/processor';
import { UserError } from '@minicpm-finetune/run';
import {
  grad,
  liveTensors,
  manualSeed,
  noGrad,
  ops,
  SafetensorsFile,
  scope,
  setThreads,
} from '@minicpm-finetune/torch';
import { describe, expect, it } from 'vitest';
import { BACKWARD, FORWARD } from '../../../torch/test/precision.js';
import { loadAdapter } from '../../src/adapters/folder.js';
import { applyLora, loraAdapters, removeLora, setLoraTraining, trainableParameters } from '../../src/adapters/lora.js';
import { type LoraConfig, loraConfig } from '../../src/adapters/lora-config.js';
import { selectModules } from '../../src/adapters/lora-targets.js';
import { MiniCPMV } from '../../src/model/minicpm-v.js';
import { relativeDifference } from '../support/reference.js';
import { tinyCheckpoint } from '../support/tiny.js';
import { FIXTURES, Toy, toy } from '../support/toy.js';

setThreads(1);

const PATTERN = 'llm\\..*layers\\.\\d+\\.self_attn\\.(q_proj|o_proj)';
const CONFIG: LoraConfig = loraConfig({ r: 2, alpha: 8, targetModules: PATTERN });

function targets(config: Partial<LoraConfig>): readonly string[] {
  return applyLora(toy(), { ...CONFIG, ...config }, { seed: 0 }).targets;
}

function refusal(config: Partial<LoraConfig>): string {
  try {
    targets(config);
  } catch (error) {
    expect(error).toBeInstanceOf(UserError);
    return (error as UserError).format();
  }
  throw new Error('Expected a refusal');
}

const at = (layer: number, name: string): string => `llm.model.layers.${layer}.self_attn.${name}`;

describe('which modules get adapters', () => {
  it('takes a pattern that matches the whole name', () => {
    expect(targets({})).toEqual([at(0, 'q_proj'), at(0, 'o_proj'), at(1, 'q_proj'), at(1, 'o_proj')]);
    expect(refusal({ targetModules: 'q_proj.*' })).toContain('matches none');
  });

  it('takes names and name endings', () => {
    expect(targets({ targetModules: ['v_proj'] })).toEqual([at(0, 'v_proj'), at(1, 'v_proj')]);
    expect(targets({ targetModules: [at(1, 'v_proj')] })).toEqual([at(1, 'v_proj')]);
    expect(refusal({ targetModules: ['proj'] })).toContain('["proj"] matches none');
  });

  it('takes all linear layers but the output head and what is saved whole', () => {
    const names = targets({ targetModules: 'all-linear', modulesToSave: ['resampler'] });
    expect(names).toHaveLength(6);
    expect(targets({ targetModules: 'all-linear' })).toEqual(names);
    expect(names).not.toContain('llm.lm_head');
  });

  it('takes layers by index, by pattern or list', () => {
    expect(targets({ layersToTransform: [1] })).toEqual([at(1, 'q_proj'), at(1, 'o_proj')]);
    expect(targets({ targetModules: ['q_proj'], layersToTransform: [0] })).toEqual([at(0, 'q_proj')]);
  });

  it('names what would match when nothing does', () => {
    const text = refusal({ targetModules: 'llm.*attention.*' });
    expect(text).toContain('at: --lora_target_modules');
    expect(text).toContain(at(0, 'q_proj'));
    expect(refusal({ targetModules: ['q_porj', 'v_proj'] })).toContain('Did you mean q_proj?');
    expect(refusal({ targetModules: ['embed_tokens'] })).toContain('is an embedding');
    expect(refusal({ targetModules: ['kv_proj'], modulesToSave: ['resampler'] })).toContain('trains whole');
    expect(refusal({ layersToTransform: [7] })).toContain('Layers are numbered 0 to 1');
    expect(refusal({ layersToTransform: [0, 7] })).toContain('received 7');
    expect(refusal({ modulesToSave: ['resamlper'] })).toContain('Did you mean resampler?');
    expect(refusal({ targetModules: 'q_proj(' })).toContain('regular expression');
  });

  it('refuses numbers that make no adapter', () => {
    expect(refusal({ r: 0 })).toContain('--lora_r');
    expect(refusal({ dropout: 1 })).toContain('--lora_dropout');
  });

  it('refuses a second set of adapters on the same layers', () => {
    const model = toy();
    applyLora(model, CONFIG, { seed: 0 });
    expect(() => applyLora(model, CONFIG, { seed: 0 })).toThrow('without adapters');
  });
});

describe('what trains', () => {
  it('is the adapters and every parameter of the saved modules, and nothing else', () => {
    const model = toy();
    applyLora(model, { ...CONFIG, modulesToSave: ['embed_tokens', 'resampler'] }, { seed: 0 });
    const names = [...trainableParameters(model).keys()];
    expect(names).toHaveLength(8 + 1 + 4);
    expect(names).toContain('resampler.query');
    expect(names).toContain(`${at(0, 'q_proj')}.lora_A.weight`);
    expect(names).not.toContain(`${at(0, 'q_proj')}.weight`);
  });

  it('is the biases asked for', () => {
    const biases = (bias: LoraConfig['bias']): string[] => {
      const model = toy();
      applyLora(model, { ...CONFIG, bias }, { seed: 0 });
      return [...trainableParameters(model).keys()].filter((name) => name.endsWith('.bias'));
    };
    expect(biases('none')).toEqual([]);
    expect(biases('lora_only')).toEqual([`${at(0, 'q_proj')}.bias`, `${at(1, 'q_proj')}.bias`]);
    expect(biases('all')).toHaveLength(7);
  });
});

describe('the start', () => {
  it('changes nothing, with or without DoRA', () => {
    const ids = new SafetensorsFile(join(FIXTURES, 'plain', 'expected.safetensors')).tensor('ids');
    const before = noGrad(() => toy().forward(ids));
    for (const useDora of [false, true]) {
      const model = toy();
      applyLora(model, { ...CONFIG, useDora }, { seed: 0 });
      expect(
        relativeDifference(
          noGrad(() => model.forward(ids)),
          before,
        ),
      ).toBeLessThan(FORWARD);
    }
  });

  it('is uniform within 1/sqrt(in), decided by the seed, and leaves the generator alone', () => {
    const a = (seed: number): number[] => {
      const model = toy();
      applyLora(model, CONFIG, { seed });
      return [...loraAdapters(model)].flatMap(([, , adapter]) => adapter.loraA.weight.data.toNumbers());
    };
    expect(a(3)).toEqual(a(3));
    expect(a(3)).not.toEqual(a(4));
    const largest = Math.max(...a(3).map(Math.abs));
    expect(largest).toBeGreaterThan(0.3);
    expect(largest).toBeLessThanOrEqual(0.5); // o_proj has 4 inputs
    manualSeed(11);
    const expected = ops.rand([3]).toNumbers();
    manualSeed(11);
    a(3);
    expect(ops.rand([3]).toNumbers()).toEqual(expected);
  });

  it('has the type of the weight beside it, or the one asked for', () => {
    const half = toy('bfloat16');
    applyLora(half, CONFIG, { seed: 0 });
    expect([...loraAdapters(half)][0]![2].loraA.weight.data.dtype).toBe('bfloat16');
    const mixed = toy('bfloat16');
    applyLora(mixed, CONFIG, { seed: 0, dtype: 'float32' });
    expect([...loraAdapters(mixed)][0]![2].loraA.weight.data.dtype).toBe('float32');
    expect(noGrad(() => mixed.forward(ops.zeros([1, 2], { dtype: 'int64' }))).dtype).toBe('bfloat16');
  });
});

describe('numbers of PEFT', () => {
  for (const kind of ['plain', 'rslora', 'dora', 'patterns']) {
    it(`${kind}: logits and gradients`, () => {
      const expected = new SafetensorsFile(join(FIXTURES, kind, 'expected.safetensors'));
      const model = toy();
      loadAdapter(join(FIXTURES, kind), model, { trainable: true });
      const trainable = trainableParameters(model);
      scope(() => {
        const logits = model.forward(expected.tensor('ids'));
        expect(relativeDifference(logits, expected.tensor('logits'))).toBeLessThan(FORWARD);
        const names = [...trainable.keys()];
        const gradients = grad(
          [ops.sumAll(ops.square(logits))],
          [...trainable.values()].map(({ data }) => data),
        );
        const stored = [...expected.infos.keys()].filter((name) => name.startsWith('grad.'));
        expect(names.map((name) => `grad.${name}`).sort()).toEqual(stored.sort());
        names.forEach((name, i) => {
          expect(relativeDifference(gradients[i]!, expected.tensor(`grad.${name}`)), name).toBeLessThan(BACKWARD);
        });
      });
    });
  }

  it('DoRA gives the same when nothing trains and its scale is kept', () => {
    const expected = new SafetensorsFile(join(FIXTURES, 'dora', 'expected.safetensors'));
    const model = toy();
    loadAdapter(join(FIXTURES, 'dora'), model, { trainable: false });
    for (let i = 0; i < 2; i++) {
      const logits = noGrad(() => model.forward(expected.tensor('ids')));
      expect(relativeDifference(logits, expected.tensor('logits'))).toBeLessThan(FORWARD);
    }
  });
});

describe('dropout', () => {
  for (const useDora of [false, true]) {
    it(`works in training only, and keeps the mean${useDora ? ' (DoRA)' : ''}`, () => {
      const ids = ops.zeros([1, 2], { dtype: 'int64' });
      const model = toy();
      applyLora(model, { ...CONFIG, dropout: 0.5, useDora }, { seed: 1 });
      noGrad(() => {
        for (const [, , adapter] of loraAdapters(model)) ops.fill_(adapter.loraB.weight.data, 0.02);
      });
      const run = (): number[] => noGrad(() => scope(() => model.forward(ids).toNumbers()));
      const still = run();
      expect(run()).toEqual(still);
      setLoraTraining(model, true);
      expect(run()).not.toEqual(run());
      const mean = new Array(still.length).fill(0);
      for (let i = 0; i < 300; i++)
        run().forEach((value, k) => {
          mean[k] += value / 300;
        });
      mean.forEach((value, k) => {
        expect(Math.abs(value - still[k]!)).toBeLessThan(0.05);
      });
      setLoraTraining(model, false);
      expect(run()).toEqual(still);
    });
  }
});

it('taking adapters off restores the model and frees them', () => {
  const model = toy();
  const before = liveTensors().tensors;
  const names = [...model.namedParameters()].map(([name]) => name);
  applyLora(model, { ...CONFIG, useDora: true }, { seed: 0 });
  expect([...model.namedParameters()]).toHaveLength(names.length + 12);
  removeLora(model);
  expect([...model.namedParameters()].map(([name]) => name)).toEqual(names);
  expect(liveTensors().tensors).toBe(before);
  expect([...new Toy().namedParameters()].map(([name]) => name)).toEqual(names);
});

describe('on a real model', () => {
  const work = mkdtempSync(join(tmpdir(), 'lora-'));
  const model = new MiniCPMV(readConfig(tinyCheckpoint(work, 'minicpm-v-2_6')));
  rmSync(work, { recursive: true });
  const select = (targetModules: LoraConfig['targetModules'], strict = true): readonly string[] =>
    selectModules(model, { ...CONFIG, targetModules }, strict).targets;

  it('all-linear and bare names mean the language model for new adapters, and what PEFT means for those that exist', () => {
    const names = select('all-linear');
    expect(names).toHaveLength(2 * 7);
    expect(names.every((name) => name.startsWith('llm.'))).toBe(true);
    expect(select('all-linear', false)).toHaveLength(2 * 7 + 2 * 6 + 2);
    expect(select(['q_proj', 'self_attn.v_proj'])).toHaveLength(4);
    expect(select(['q_proj', 'self_attn.v_proj'], false)).toHaveLength(8);
  });

  it('the vision tower needs a pattern or whole names, which errors show', () => {
    expect(select('(llm|vpm)\\..*q_proj')).toHaveLength(4);
    expect(select(['v_proj', 'vpm.encoder.layers.0.mlp.fc1'])).toHaveLength(3);
    const cure = (targets: string[]): string | undefined => {
      try {
        select(targets);
      } catch (error) {
        return (error as UserError).cure;
      }
      return undefined;
    };
    expect(cure(['fc1'])).toContain("give the pattern 'vpm\\..*\\.fc1'");
    expect(cure(['q_proj', 'fc2'])).toContain("give the pattern 'vpm\\..*\\.fc2'");
  });

  it('leaves out what PEFT would not apply', () => {
    expect(() => select('resampler.*out_proj')).toThrow(UserError);
    expect(select('resampler.*out_proj', false)).toEqual(['resampler.attn.out_proj']); // as an adapter of PEFT may have it
  });

  it('the official pattern hits the attention of the language model only', () => {
    const names = select('llm\\..*layers\\.\\d+\\.self_attn\\.(q_proj|k_proj|v_proj|o_proj)');
    expect(names).toHaveLength(8);
    expect(names.every((name) => name.startsWith('llm.model.layers.'))).toBe(true);
  });
});
