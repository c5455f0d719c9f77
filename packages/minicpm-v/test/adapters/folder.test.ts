import { cpSync, mkdtempSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { UserError } from '@minicpm-finetune/run';
import { liveTensors, noGrad, ops, SafetensorsFile, type Tensor, writeSafetensors } from '@minicpm-finetune/torch';
import { afterAll, beforeEach, describe, expect, it } from 'vitest';
import { baseFingerprint } from '../../src/adapters/checksums.js';
import { describeBase, loadAdapter, saveAdapter } from '../../src/adapters/folder.js';
import { applyLora, loraAdapters, trainableParameters } from '../../src/adapters/lora.js';
import { readManifest } from '../../src/adapters/manifest.js';
import { relativeDifference } from '../support/reference.js';
import { FIXTURES, toy } from '../support/toy.js';

const work = mkdtempSync(join(tmpdir(), 'adapter-'));
afterAll(() => rmSync(work, { recursive: true }));

/** A base folder with the toy's weights. */
function baseFolder(name: string): string {
  const folder = join(work, name);
  cpSync(FIXTURES, folder, {
    recursive: true,
    filter: (path) => path === FIXTURES || path.endsWith('base.safetensors'),
  });
  renameSync(join(folder, 'base.safetensors'), join(folder, 'model.safetensors'));
  const config = {
    architectures: ['MiniCPMV'],
    auto_map: { AutoConfig: 'configuration.Config', AutoModel: 'modeling_minicpmv.MiniCPMV' },
  };
  writeFileSync(join(folder, 'config.json'), JSON.stringify(config));
  return folder;
}

const base = baseFolder('MiniCPM-V-2_6');
const readJson = (path: string): Record<string, unknown> => JSON.parse(readFileSync(path, 'utf8'));

function refusal(folder: string, fingerprint?: string): string {
  const model = toy();
  const before = liveTensors().tensors;
  try {
    loadAdapter(folder, model, {
      trainable: false,
      ...(fingerprint === undefined ? {} : { fingerprint: () => fingerprint }),
    });
  } catch (error) {
    expect(error).toBeInstanceOf(UserError);
    expect(loraAdapters(model).next().done).toBe(true);
    expect(liveTensors().tensors).toBe(before);
    return (error as UserError).format();
  }
  throw new Error('Expected a refusal');
}

describe('adapters of every kind', () => {
  for (const kind of ['plain', 'rslora', 'dora', 'patterns']) {
    it(`${kind}: written again as they were read`, () => {
      const model = toy();
      const applied = loadAdapter(join(FIXTURES, kind), model, { trainable: true });
      const folder = join(work, kind);
      saveAdapter(folder, model, applied, describeBase(base));

      const written = new SafetensorsFile(join(folder, 'adapter_model.safetensors'));
      const original = new SafetensorsFile(join(FIXTURES, kind, 'adapter_model.safetensors'));
      const names = [...original.infos.keys()].filter((name) => !/original_module|modules_to_save/.test(name));
      expect([...written.infos.keys()].sort()).toEqual(names.sort());
      for (const name of names) expect(relativeDifference(written.tensor(name), original.tensor(name))).toBe(0);

      const config = readJson(join(folder, 'adapter_config.json'));
      const peft = readJson(join(FIXTURES, kind, 'adapter_config.json'));
      const sorted = (value: unknown): unknown => (Array.isArray(value) ? [...value].sort() : value);
      for (const key of Object.keys(peft)) {
        if (key === 'auto_mapping' || key === 'base_model_name_or_path') continue;
        expect(sorted(config[key]), key).toEqual(sorted(peft[key]));
      }
      expect(Object.keys(config).sort()).toEqual(Object.keys(peft).sort());
      expect(config.base_model_name_or_path).toBe(base);
      expect(config.auto_mapping).toEqual({
        base_model_class: 'MiniCPMV',
        parent_library: 'transformers_modules.MiniCPM-V-2_6.modeling_minicpmv',
      });

      const manifest = readManifest(folder)!;
      expect(Object.keys(manifest.parameters).sort()).toEqual(names.sort());
      expect(manifest.base_model.path).toBe(base);
      const count = [...trainableParameters(model).values()].reduce((sum, { data }) => sum + data.numel, 0);
      expect(manifest.parameter_count).toBe(count);
    });
  }

  it('is continued: what was saved trains on, from where it was', () => {
    const model = toy();
    const applied = loadAdapter(join(FIXTURES, 'plain'), model, { trainable: true });
    noGrad(() => {
      for (const [, { data }] of trainableParameters(model)) ops.addScalar_(data, 0.25);
    });
    saveAdapter(join(work, 'continued'), model, applied, describeBase(base));
    const again = toy();
    loadAdapter(join(work, 'continued'), again, {
      trainable: true,
      fingerprint: (format) => baseFingerprint(base, format),
    });
    expect([...trainableParameters(again).keys()]).toEqual([...trainableParameters(model).keys()]);
    const ids = new SafetensorsFile(join(FIXTURES, 'plain', 'expected.safetensors')).tensor('ids');
    expect(
      relativeDifference(
        noGrad(() => again.forward(ids)),
        noGrad(() => model.forward(ids)),
      ),
    ).toBe(0);
  });

  it('writes targets that PEFT reads otherwise as a list of modules', () => {
    const model = toy();
    const lora = { r: 2, alpha: 4, targetModules: '.*q_proj', layersToTransform: [1] };
    const applied = applyLora(model, lora, { seed: 0 });
    saveAdapter(join(work, 'layers'), model, applied, describeBase(base));
    const written = readJson(join(work, 'layers', 'adapter_config.json'));
    expect(written.target_modules).toEqual(['llm.model.layers.1.self_attn.q_proj']);
    expect(written.layers_to_transform).toBeNull();
    expect(written.modules_to_save).toBeNull();
    loadAdapter(join(work, 'layers'), toy(), { trainable: false });
  });

  it('takes the type of the base, or the one asked for', () => {
    const half = toy('bfloat16');
    loadAdapter(join(FIXTURES, 'plain'), half, { trainable: false, dtype: 'float32' });
    const [, linear, adapter] = [...loraAdapters(half)][0]!;
    expect(adapter.loraA.weight.data.dtype).toBe('float32');
    expect(linear.weight.data.dtype).toBe('bfloat16');
    expect(half.resampler.query.data.dtype).toBe('bfloat16');
    expect(trainableParameters(half).size).toBe(0);
  });
});

describe('the base', () => {
  it('is known by its weights, in whatever shards and beside whatever config', () => {
    const other = baseFolder('other');
    writeFileSync(join(other, 'config.json'), '{"architectures": ["X"]}');
    const source = new SafetensorsFile(join(other, 'model.safetensors'));
    const names = [...source.infos.keys()];
    const half = names.slice(0, 9);
    const part = (wanted: string[]): Map<string, Tensor> => new Map(wanted.map((name) => [name, source.tensor(name)]));
    writeSafetensors(join(other, 'a.safetensors'), part(half));
    writeSafetensors(join(other, 'b.safetensors'), part(names.slice(9)));
    const map = Object.fromEntries(
      names.map((name) => [name, half.includes(name) ? 'a.safetensors' : 'b.safetensors']),
    );
    writeFileSync(join(other, 'model.safetensors.index.json'), JSON.stringify({ weight_map: map }));
    rmSync(join(other, 'model.safetensors'));
    expect(baseFingerprint(other)).toBe(baseFingerprint(base));
  });

  it('is refused when its weights are others', () => {
    const model = toy();
    const applied = loadAdapter(join(FIXTURES, 'plain'), model, { trainable: true });
    saveAdapter(join(work, 'mine'), model, applied, describeBase(base));
    const changed = baseFolder('changed');
    const tensors = new Map([...toy().namedParameters()].map(([name, { data }]) => [name, data]));
    ops.mulScalar_(tensors.get('llm.lm_head.weight')!, 2);
    writeSafetensors(join(changed, 'model.safetensors'), tensors);
    const text = refusal(join(work, 'mine'), baseFingerprint(changed));
    expect(text).toContain(base);
    expect(text).toContain('minicpm_manifest.json');
  });
});

describe('refused folders', () => {
  let folder: string;
  let number = 0;
  beforeEach(() => {
    folder = join(work, `broken-${number++}`);
    const model = toy();
    saveAdapter(folder, model, loadAdapter(join(FIXTURES, 'plain'), model, { trainable: true }), describeBase(base));
  });

  const edit = (change: (config: Record<string, unknown>) => void): void => {
    const file = join(folder, 'adapter_config.json');
    const config = readJson(file);
    change(config);
    writeFileSync(file, JSON.stringify(config));
  };
  const rewrite = (change: (tensors: Map<string, Tensor>) => void): void => {
    const file = join(folder, 'adapter_model.safetensors');
    const source = new SafetensorsFile(file);
    const tensors = new Map([...source.infos.keys()].map((name) => [name, ops.clone(source.tensor(name))]));
    change(tensors);
    writeSafetensors(file, tensors);
    for (const tensor of tensors.values()) tensor.dispose();
  };

  it('no such folder, no adapter in it', () => {
    expect(refusal(join(work, 'nowhere'))).toContain('Check the path');
    expect(refusal(base)).toContain('adapter_config.json');
  });

  it('configurations that are none, or of another kind', () => {
    edit((config) => {
      config.peft_type = 'IA3';
    });
    expect(refusal(folder)).toContain('peft_type is "IA3"');
    edit((config) => {
      config.peft_type = 'LORA';
      config.r = 0;
    });
    expect(refusal(folder)).toContain('r is 0');
    edit((config) => {
      config.r = 2;
      config.lora_bias = true;
    });
    expect(refusal(folder)).toContain('without lora_bias');
    edit((config) => {
      config.lora_bias = false;
      config.init_lora_weights = 'pissa_niter_4';
    });
    expect(refusal(folder)).toContain('init_lora_weights is "pissa_niter_4"');
    writeFileSync(join(folder, 'adapter_config.json'), '{');
    expect(refusal(folder)).toContain('JSON');
  });

  it('missing, unexpected and misshapen tensors, all at once', () => {
    const kept = 'base_model.model.resampler.query';
    rewrite((tensors) => {
      tensors.set('base_model.model.llm.lm_head.lora_A.weight', ops.zeros([2, 6]));
      tensors.delete('base_model.model.resampler.ln.bias');
      tensors.set(kept, ops.zeros([5]));
    });
    const text = refusal(folder);
    expect(text).toContain('1 missing (base_model.model.resampler.ln.bias)');
    expect(text).toContain('1 unexpected (base_model.model.llm.lm_head.lora_A.weight)');
    expect(text).toContain(`${kept}: [6] expected, [5] received`);
    expect(text).toContain('give the model it was trained on');
  });

  it('another rank than the configuration says', () => {
    edit((config) => {
      config.r = 4;
    });
    expect(refusal(folder)).toContain('[4, 6] expected, [2, 6] received');
  });

  it('changed, cut and missing weights', () => {
    rewrite((tensors) => {
      ops.addScalar_(tensors.get('base_model.model.resampler.query')!, 1);
    });
    expect(refusal(folder)).toContain('checksum');
    const file = join(folder, 'adapter_model.safetensors');
    writeFileSync(file, readFileSync(file).subarray(0, 900));
    expect(refusal(folder)).toContain('cut');
    rmSync(file);
    expect(refusal(folder)).toContain('the file is missing');
  });

  it('a manifest that cannot be read; without one the adapter loads unchecked', () => {
    const file = join(folder, 'minicpm_manifest.json');
    writeFileSync(file, '{"format": 2}');
    expect(refusal(folder)).toContain('Remove the file');
    rmSync(file);
    rewrite((tensors) => {
      ops.addScalar_(tensors.get('base_model.model.resampler.query')!, 1);
    });
    loadAdapter(folder, toy(), { trainable: false, fingerprint: () => 'sha256:other' });
  });

  it('leaves no temporary files', () => {
    expect(readdirSync(folder).sort()).toEqual([
      'adapter_config.json',
      'adapter_model.safetensors',
      'minicpm_manifest.json',
    ]);
  });
});
