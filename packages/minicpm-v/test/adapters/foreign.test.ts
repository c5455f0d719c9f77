/** Adapters as other programs leave them: half of them in other files, under other names, of another model, or without effect. */
import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { readConfig } from '@minicpm-finetune/processor';
import { UserError } from '@minicpm-finetune/run';
import { ops, SafetensorsFile, scope, setThreads, type Tensor, writeSafetensors } from '@minicpm-finetune/torch';
import { afterAll, beforeEach, describe, expect, it } from 'vitest';
import { type LoadedAdapter, loadAdapter, planAdapters } from '../../src/adapters/folder.js';
import { adapterTargets } from '../../src/adapters/header.js';
import { readManifest } from '../../src/adapters/manifest.js';
import { mergeCheckpoint } from '../../src/adapters/merge.js';
import { loadWeights } from '../../src/checkpoint/weights.js';
import { loadModel } from '../../src/generation/load.js';
import { MiniCPMV } from '../../src/model/minicpm-v.js';
import { randomAdapter } from '../support/random-adapter.js';
import { tinyCheckpoint } from '../support/tiny.js';

setThreads(1);
const work = mkdtempSync(join(tmpdir(), 'foreign-'));
afterAll(() => rmSync(work, { recursive: true }));

const base = tinyCheckpoint(work, 'minicpm-v-2_6');
const made = randomAdapter(base, join(work, 'made'), 1);
const A = 'base_model.model.llm.model.layers.0.self_attn.q_proj.lora_A.weight';

let folder: string;
let number = 0;
beforeEach(() => {
  folder = join(work, `copy-${number++}`);
  cpSync(made, folder, { recursive: true });
});

type Json = Record<string, unknown>;
const edit = (changes: Json, file = 'adapter_config.json'): void => {
  const path = join(folder, file);
  writeFileSync(path, JSON.stringify({ ...(JSON.parse(readFileSync(path, 'utf8')) as Json), ...changes }));
};

/** Writes the tensors anew, without a manifest, which would know the old ones. */
function rewrite(change: (name: string, tensor: Tensor) => [string, Tensor][]): void {
  const file = join(folder, 'adapter_model.safetensors');
  scope(() => {
    const source = new SafetensorsFile(file);
    const tensors = [...source.infos.keys()].flatMap((name) => change(name, ops.clone(source.tensor(name))));
    writeSafetensors(file, new Map(tensors));
  });
  rmSync(join(folder, 'minicpm_manifest.json'), { force: true });
}

/** What is said of the adapter when it is loaded. */
function loaded(on = base): Omit<LoadedAdapter, 'notices'> & { text: string } {
  const model = new MiniCPMV(readConfig(on));
  loadWeights(model, on);
  try {
    const result = loadAdapter(folder, model, { trainable: false });
    return { ...result, text: result.notices.join('\n') };
  } finally {
    model.dispose();
  }
}

function refusal(run: () => unknown = loaded): string {
  try {
    run();
  } catch (error) {
    expect(error).toBeInstanceOf(UserError);
    return (error as UserError).format();
  }
  throw new Error('Expected a refusal');
}

describe('files beside the adapter', () => {
  it.each([
    'vpm_resampler_embedtokens.pt',
    'non_lora_trainables.bin',
    'value_head.pth',
    'extra.ckpt',
    'pytorch_model.bin',
  ])('%s is refused in every use, with the way into safetensors', async (name) => {
    writeFileSync(join(folder, name), 'PK');
    const output = join(work, 'never');
    const uses = [
      () => loaded(),
      () => mergeCheckpoint({ model: base, adapters: [folder], output }),
      () => planAdapters(new MiniCPMV(readConfig(base)), { folder }),
    ];
    for (const use of uses) {
      const text = refusal(use);
      expect(text).toContain(`received ${name} beside it`);
      expect(text).toContain(`torch.load('${name}'`);
      expect(text).toContain('modules_to_save');
    }
    await expect(loadModel({ model: base, adapter: folder })).rejects.toThrow(name);
  });

  it('what trainers save is left alone; other safetensors and a second copy are named', () => {
    for (const name of [
      'optimizer.pt',
      'scheduler.pt',
      'rng_state_0.pth',
      'records.safetensors',
      'training_args.bin',
      'scaler.pt',
      'optimizer.safetensors',
    ])
      writeFileSync(join(folder, name), 'x');
    expect(loaded().text).toBe('');
    writeFileSync(join(folder, 'vision.safetensors'), 'x');
    writeFileSync(join(folder, 'adapter_model.bin'), 'x');
    const { text } = loaded();
    expect(text).toContain('NOT READ: vision.safetensors beside adapter_model.safetensors');
    expect(text).toContain('adapter_model.bin is not read');
  });

  it('weights in another form alone are refused with the command that turns them', () => {
    rmSync(join(folder, 'adapter_model.safetensors'));
    expect(refusal()).toContain('the file is missing');
    writeFileSync(join(folder, 'adapter_model.bin'), 'PK');
    const text = refusal();
    expect(text).toContain(
      'Expected the weights of the adapter in adapter_model.safetensors but received adapter_model.bin',
    );
    expect(text).toContain("torch.load('adapter_model.bin'");
  });
});

describe('names of tensors', () => {
  const additions: Record<string, (name: string) => string> = {
    'the name of the adapter': (name) =>
      name.replace(/(lora_[AB])\./, '$1.default.').replace('resampler.', 'resampler.modules_to_save.default.'),
    'another name of the adapter': (name) => name.replace(/(lora_[AB])\./, '$1.invoices.'),
    DataParallel: (name) => `module.${name}`,
    'torch.compile': (name) => `_orig_mod.${name}`,
    'torch.compile, inside': (name) => name.replace('layers.', 'layers._orig_mod.'),
    FSDP: (name) => name.replace(/layers\.(\d+)\./, 'layers.$1._fsdp_wrapped_module.'),
    'nothing of PEFT': (name) => name.replace('base_model.model.', ''),
    'all at once': (name) =>
      `module._orig_mod.${name.replace('base_model.model.', '').replace(/(lora_[AB])\./, '$1.default.')}`,
  };
  for (const [what, change] of Object.entries(additions)) {
    it(`are read with ${what}, which is said`, () => {
      const renamed = new Map(
        [...new SafetensorsFile(join(made, 'adapter_model.safetensors')).infos.keys()].map((name) => [
          name,
          change(name),
        ]),
      );
      const count = [...renamed].filter(([before, after]) => before !== after).length;
      rewrite((name, tensor) => [[renamed.get(name)!, tensor]]);
      const { text, changes, targets } = loaded();
      expect(changes).toBe(true);
      expect(text).toContain(`${count} names were read without additions`);
      expect(adapterTargets(folder)!.sort()).toEqual([...targets].sort());
    });
  }

  it('that do not fit are shown with the one that was expected, and the command that renames them', () => {
    rewrite((name, tensor) => [[name.replace('lora_A.weight', 'adapter_down.weight'), tensor]]);
    const text = refusal();
    expect(text).toContain(`${A.replace('lora_A', 'adapter_down')} should be ${A}`);
    expect(text).toContain("name.replace('adapter_down.weight', 'lora_A.weight')");
  });

  it('two that would become one stay as they are', () => {
    rewrite((name, tensor) =>
      name === A
        ? [
            [`module.${A}`, tensor],
            [`_orig_mod.${A}`, ops.clone(tensor)],
          ]
        : [[name, tensor]],
    );
    expect(refusal()).toContain(`1 missing (${A})`);
  });
});

describe('keys of adapter_config.json', () => {
  it.each<[string, unknown]>([
    ['fan_in_fan_out', true],
    ['lora_bias', true],
    ['trainable_token_indices', [1, 2]],
    ['target_parameters', ['experts.w']],
    ['use_qalora', true],
    ['layer_replication', [[0, 1]]],
    ['ensure_weight_tying', true],
    ['init_lora_weights', 'pissa_niter_4'],
    ['init_lora_weights', 'corda'],
    ['init_lora_weights', 'loftq'],
    ['init_lora_weights', 'something_new'],
    ['use_something_new', true],
    ['something_new', { rank: 3 }],
    ['rank_pattern', { 'q_proj(': 2 }],
  ])('%s %j is refused by name and value', (key, value) => {
    edit({ [key]: value });
    const text = refusal();
    expect(text).toContain(key);
    expect(text).toContain(key === 'rank_pattern' ? 'q_proj(' : JSON.stringify(value));
  });

  it.each<[string, unknown]>([
    ['corda_config', { cache_file: 'x' }],
    ['eva_config', { rho: 2 }],
    ['revision', 'abc'],
    ['something_new_size', 16],
    ['rank_pattern', { k_proj: 2 }],
    ['alpha_pattern', { 'layers.9.self_attn.q_proj': 2 }],
  ])('%s %j is named in a notice', (key, value) => {
    edit({ [key]: value });
    expect(loaded().text).toContain(`${key} `);
  });

  it.each(['gaussian', 'orthogonal', 'eva', false])('init_lora_weights %s changes nothing', (start) => {
    edit({ init_lora_weights: start });
    expect(loaded().text).toBe('');
  });

  it('exclude_modules, layers_to_transform and layers_pattern are obeyed', () => {
    const q0 = 'llm.model.layers.0.self_attn.q_proj';
    const only = (keep: RegExp): void =>
      rewrite((name, tensor) => (!name.includes('lora_') || keep.test(name) ? [[name, tensor]] : []));
    only(/layers\.0\.self_attn\.q_proj/);
    edit({
      target_modules: ['q_proj', 'v_proj'],
      exclude_modules: '.*(v_proj|vpm.*)',
      layers_to_transform: [0],
      layers_pattern: 'layers',
    });
    expect(loaded().targets).toEqual([q0]);
    edit({ exclude_modules: ['v_proj', 'vpm.encoder.layers.0.self_attn.q_proj'] });
    expect(loaded().targets).toEqual([q0]);
  });
});

describe('another model', () => {
  const other = tinyCheckpoint(work, 'minicpm-o-2_6');
  it('is named with the adapter’s own, by the manifest', () => {
    const text = refusal(() => loaded(other));
    expect(text).toContain('Expected an adapter of MiniCPM-o-2_6 for this model but received one of MiniCPM-V-2_6.');
    expect(readManifest(folder)!.base_model).toMatchObject({ model: 'MiniCPM-V-2_6', sizes: { hidden_size: 128 } });
  });

  it.each([
    ['openbmb/MiniCPM-V-4', 'MiniCPM-V-4'],
    ['/models/MiniCPM-V-4_5', 'MiniCPM-V-4_5'],
    ['/hub/models--openbmb--MiniCPM-o-2_6/snapshots/abc', 'MiniCPM-o-2_6'],
    ['openbmb/MiniCPM-Llama3-V-2_5-int4', 'MiniCPM-Llama3-V-2_5'],
    ['openbmb/MiniCPM-V-2', 'MiniCPM-V-2'],
    ['Qwen/Qwen2-VL-7B-Instruct', 'Qwen2-VL'],
    ['liuhaotian/llava-v1.5-7b', 'llava'],
  ])('is known by the name of its base: %s', (path, title) => {
    rmSync(join(folder, 'minicpm_manifest.json'));
    edit({ base_model_name_or_path: path, auto_mapping: null });
    expect(refusal()).toContain(`Expected an adapter of MiniCPM-V-2_6 for this model but received one of ${title}.`);
  });

  it('is known by the width of its language model, and by foreign names', () => {
    rmSync(join(folder, 'minicpm_manifest.json'));
    edit({ base_model_name_or_path: 'base', auto_mapping: null });
    rewrite((name, tensor) => [[name, name.endsWith('lora_A.weight') ? ops.zeros([4, 2560]) : tensor]]);
    expect(refusal()).toContain('one of MiniCPM-V-4.');
    rewrite((name, tensor) => [
      [name.replace('llm.model', 'model.language_model').replace('resampler', 'visual.merger'), tensor],
    ]);
    expect(refusal()).toContain('one of another kind of model');
  });

  it('another base of the same model is refused by what differs', () => {
    edit({ base_model: { ...readManifest(folder)!.base_model, fingerprint: 'sha256:0' } }, 'minicpm_manifest.json');
    const on = (): unknown => mergeCheckpoint({ model: base, adapters: [folder], output: join(work, 'never') });
    expect(refusal(on)).toContain('with other weights (fingerprint');
    const { sizes } = readManifest(folder)!.base_model;
    edit(
      { base_model: { path: 'there', fingerprint: 'sha256:0', sizes: { ...sizes, num_hidden_layers: 28 } } },
      'minicpm_manifest.json',
    );
    expect(refusal(on)).toContain('num_hidden_layers 28 there and 2 here');
  });

  it('a quantized base is said', () => {
    rmSync(join(folder, 'minicpm_manifest.json'));
    edit({ base_model_name_or_path: 'openbmb/MiniCPM-V-2_6-int4' });
    expect(loaded().text).toContain('trained on quantized weights (openbmb/MiniCPM-V-2_6-int4)');
  });
});

describe('what it changes', () => {
  const low = (name: string, part: string): boolean => name.endsWith(`lora_${part}.weight`);
  const plain = tinyCheckpoint(mkdtempSync(join(work, 'half-')), 'minicpm-v-2_6', 1, 'bfloat16');
  const withoutSaved = (change: (name: string, tensor: Tensor) => Tensor): void => {
    rewrite((name, tensor) => (name.includes('lora_') ? [[name, change(name, tensor)]] : []));
    edit({ modules_to_save: null });
  };
  const merged = (model = base, dtype?: 'float32') =>
    mergeCheckpoint({
      model,
      adapters: [folder],
      output: join(work, `merged-${number++}`),
      ...(dtype ? { dtype } : {}),
    });

  it('nothing: zero lora_B, zero lora_A, alpha 0, with the reason and a count of 0', async () => {
    withoutSaved((name, tensor) => (low(name, 'B') ? ops.zeros(tensor.shape) : tensor));
    const report = merged();
    expect(report.changed).toBe(0);
    expect(report.notices.join()).toContain(
      'THE ADAPTER CHANGES NOTHING: its lora_B are all zero: it was saved before it learned anything',
    );
    using model = await loadModel({ model: base, adapter: folder });
    expect(model.notices).toEqual(report.notices);
    expect(loaded().changes).toBe(false);
    withoutSaved((name, tensor) => (low(name, 'A') ? ops.zeros(tensor.shape) : ops.addScalar(tensor, 1)));
    expect(loaded().text).toContain('its lora_A are all zero');
    withoutSaved((_, tensor) => ops.addScalar(tensor, 1));
    edit({ lora_alpha: 0 });
    expect(loaded().text).toContain('its alpha is 0');
  });

  it('a part: some layers, or only modules saved whole', () => {
    rewrite((name, tensor) => [[name, low(name, 'B') && name.includes('layers.0') ? ops.zeros(tensor.shape) : tensor]]);
    expect(loaded()).toMatchObject({
      changes: true,
      text: expect.stringContaining('2 of the 4 layers with an adapter are not changed'),
    });
    rewrite((name, tensor) => [[name, low(name, 'B') ? ops.zeros(tensor.shape) : tensor]]);
    expect(loaded().text).toContain('Only the modules saved whole (resampler) change the model.');
  });

  it('DoRA at its start changes nothing either', () => {
    const dora = randomAdapter(base, join(work, `dora-${number}`), 1, { useDora: true });
    cpSync(dora, folder, { recursive: true, force: true });
    const weights = new SafetensorsFile(join(base, 'model.safetensors'));
    withoutSaved((name, tensor) => {
      if (low(name, 'B')) return ops.zeros(tensor.shape);
      if (!name.endsWith('lora_magnitude_vector')) return tensor;
      const weight = weights.tensor(name.replace('base_model.model.', '').replace('lora_magnitude_vector', 'weight'));
      return ops.linalgVectorNorm(weight, 2, [1]);
    });
    expect(loaded()).toMatchObject({ changes: false, text: expect.stringContaining('lora_B are all zero') });
  });

  it('below the rounding of the saved type: said, and not so in float32', () => {
    rmSync(folder, { recursive: true });
    cpSync(randomAdapter(plain, join(work, 'for-half'), 1), folder, { recursive: true });
    withoutSaved((name, tensor) => (low(name, 'B') ? ops.mulScalar(tensor, 1e-9) : tensor));
    const report = merged(plain);
    expect(report.changed).toBe(0);
    expect(report.notices.join()).toContain('below the rounding of bfloat16');
    const exact = merged(plain, 'float32');
    expect(exact.changed).toBe(4);
    expect(exact.notices).toEqual([]);
  });

  it.each([Number.NaN, Number.POSITIVE_INFINITY])('%s is refused by the tensor’s name', (value) => {
    rewrite((name, tensor) => [[name, name === A ? ops.mulScalar(ops.addScalar(tensor, 1), value) : tensor]]);
    expect(refusal()).toContain(`${A} has NaN or infinite ones`);
    expect(refusal(() => merged())).toContain(A);
  });
});

describe('slices of the training', () => {
  const withSlices = (most: number, scale: number): string => {
    const copy = join(work, `slices-${number++}`);
    cpSync(folder, copy, { recursive: true });
    const file = join(copy, 'minicpm_manifest.json');
    const manifest = JSON.parse(readFileSync(file, 'utf8')) as Json;
    writeFileSync(file, JSON.stringify({ ...manifest, slices: { max_slice_nums: most, scale_resolution: scale } }));
    return copy;
  };

  it('are in the manifest, and taken by answers and merges', async () => {
    expect(readManifest(folder)!.slices).toEqual({ max_slice_nums: 4, scale_resolution: 56 });
    const adapter = withSlices(2, 70);
    using model = await loadModel({ model: base, adapter });
    expect(model.slice).toMatchObject({ maxSliceNums: 2, scaleResolution: 70 });
    expect(model.notices).toEqual([
      `adapter ${adapter} was trained with 2 slices at 70, the base says 4 slices at 56: pictures are cut as in the training.`,
    ]);
    expect(model.otherReading({})).toEqual([]);
    expect(model.otherReading({ maxSliceNums: 1 })).toEqual(['trained with 2 slices at 70, asked with 1 slice at 70.']);
    const output = join(work, `merged-${number++}`);
    mergeCheckpoint({ model: base, adapters: [adapter], output });
    expect(readConfig(output).slice).toMatchObject({ maxSliceNums: 2, scaleResolution: 70 });
    expect(JSON.parse(readFileSync(join(output, 'config.json'), 'utf8')).slice_config).toMatchObject({
      max_slice_nums: 2,
      scale_resolution: 70,
    });
  });

  it('of adapters that disagree: the last one’s, and it is said', async () => {
    const [a, b] = [withSlices(2, 70), withSlices(9, 56)];
    using model = await loadModel({ model: base, adapter: [a, b] });
    expect(model.slice).toMatchObject({ maxSliceNums: 9, scaleResolution: 56 });
    expect(model.notices.join()).toContain(`${a} with 2 slices at 70, ${b} with 9 slices at 56`);
  });
});
