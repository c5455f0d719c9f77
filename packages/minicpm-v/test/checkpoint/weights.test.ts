import {
  cpSync,
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseConfig, readConfig, VERSIONS, type VersionName } from '@minicpm-finetune/processor';
import { UserError } from '@minicpm-finetune/run';
import {
  liveTensors,
  noGrad,
  openSafetensors,
  ops,
  rngState,
  SafetensorsFile,
  scope,
  type Tensor,
  writeSafetensors,
} from '@minicpm-finetune/torch';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { createModel } from '../../src/checkpoint/create.js';
import { loadWeights, saveCheckpoint, type WeightSource } from '../../src/checkpoint/weights.js';
import { MiniCPMV } from '../../src/model/minicpm-v.js';
import { readReference } from '../support/reference.js';

const VERSION_NAMES = Object.keys(VERSIONS) as VersionName[];
let parent: string;

beforeAll(() => {
  parent = mkdtempSync(join(tmpdir(), 'weights-'));
});
afterAll(() => rmSync(parent, { recursive: true }));

const fresh = (): string => mkdtempSync(join(parent, 'folder-'));

/** A random checkpoint of a version. */
function checkpoint(version: VersionName, change: object = {}, seed = 1): string {
  const folder = fresh();
  const text = JSON.stringify({ ...readReference(version).config, ...change }, null, 2);
  const model = createModel(parseConfig(text, join(folder, 'config.json')), { seed });
  saveCheckpoint(model, folder);
  model.dispose();
  return folder;
}

function load(folder: string, options = {}): [MiniCPMV, WeightSource] {
  const model = new MiniCPMV(readConfig(folder));
  return [model, loadWeights(model, folder, options)];
}

/** Rewrites a checkpoint's tensors. */
function edit(folder: string, change: (tensors: Map<string, Tensor>) => void): void {
  scope(() => {
    const path = join(folder, 'model.safetensors');
    const file = new SafetensorsFile(path);
    const tensors = new Map([...file.infos.keys()].map((name) => [name, ops.clone(file.tensor(name))]));
    change(tensors);
    writeSafetensors(path, tensors);
  });
}

/** The UserError of loading a folder, as a user sees it. */
function complaint(folder: string): string {
  const before = liveTensors().tensors;
  try {
    load(folder);
  } catch (error) {
    expect(error).toBeInstanceOf(UserError);
    expect(liveTensors().tensors).toBe(before);
    return (error as UserError).format();
  }
  throw new Error('Expected an error but there was none');
}

/** Whether two folders hold the same tensors. */
function expectSameTensors(actual: string, expected: string): void {
  scope(() => {
    const [ours, theirs] = [openSafetensors(actual), openSafetensors(expected)];
    expect([...ours.infos.keys()].sort()).toEqual([...theirs.infos.keys()].sort());
    for (const [name, { dtype }] of theirs.infos) {
      expect(ours.infos.get(name)!.dtype, name).toBe(dtype);
      expect(ops.equal(ours.tensor(name), theirs.tensor(name)), name).toBe(true);
    }
  });
}

describe('loadWeights and saveCheckpoint', () => {
  it.each(VERSION_NAMES)('give %s back as it was', (version) => {
    const folder = checkpoint(version);
    const [model, source] = load(folder);
    const copy = fresh();
    saveCheckpoint(model, copy, { source });
    expectSameTensors(copy, folder);
    expect(readFileSync(join(copy, 'config.json'), 'utf8')).toBe(readFileSync(join(folder, 'config.json'), 'utf8'));
    model.dispose();
  });

  it('map the file without copying when the type is the stored one', () => {
    const folder = checkpoint('minicpm-v-2_6');
    const before = liveTensors().bytes;
    const [model] = load(folder);
    const stored = new SafetensorsFile(join(folder, 'model.safetensors'));
    const bytes = [...stored.infos.values()].reduce((sum, info) => sum + info.bytes, 0);
    expect(liveTensors().bytes - before).toBeGreaterThanOrEqual(bytes);
    const query = new Map(model.namedParameters()).get('resampler.query')!;
    query.data = noGrad(() => ops.zeros(query.shape));
    noGrad(() => ops.fill_(model.llm.model.norm.weight.data, 7));
    const [again] = load(folder);
    expect(again.llm.model.norm.weight.data.toNumbers()).toEqual(new Array(128).fill(1)); // a change stays in memory
    model.dispose();
    again.dispose();
  });

  it('convert, with progress', () => {
    const folder = checkpoint('minicpm-v-2_6');
    const seen: number[] = [];
    const [model, source] = load(folder, {
      dtype: 'bfloat16',
      onProgress: ({ tensors }: { tensors: number }) => seen.push(tensors),
    });
    const parameters = [...model.namedParameters()];
    expect(new Set(parameters.map(([, { data }]) => data.dtype))).toEqual(new Set(['bfloat16']));
    expect(seen).toEqual(parameters.map((_, i) => i + 1));
    const copy = fresh();
    saveCheckpoint(model, copy, { source });
    expect(readConfig(copy).dtype).toBe('bfloat16');
    const wide = fresh();
    saveCheckpoint(model, wide, { source, dtype: 'float32' });
    expect(readConfig(wide).dtype).toBe('float32');
    expect(new Set([...openSafetensors(wide).infos.values()].map(({ dtype }) => dtype))).toEqual(new Set(['float32']));
    model.dispose();
  });

  it('write shards with an index, and read them', () => {
    const folder = checkpoint('minicpm-v-4');
    const [model, source] = load(folder);
    const copy = fresh();
    saveCheckpoint(model, copy, { source, maxShardBytes: 700_000 });
    const files = readdirSync(copy).sort();
    const shards = files.filter((name) => /^model-\d{5}-of-\d{5}\.safetensors$/.test(name));
    expect(shards.length).toBeGreaterThan(2);
    expect(files).toContain('model.safetensors.index.json');
    expect(files).not.toContain('model.safetensors');
    const index = JSON.parse(readFileSync(join(copy, 'model.safetensors.index.json'), 'utf8'));
    expect(index.metadata.total_size).toBe(
      [...openSafetensors(folder).infos.values()].reduce((sum, { bytes }) => sum + bytes, 0),
    );
    expectSameTensors(copy, folder);
    const [again] = load(copy);
    again.dispose();
    model.dispose();
  });

  it("carry the tensors of parts that are not built, and the folder's other files", () => {
    const folder = checkpoint('minicpm-o-2_6');
    edit(folder, (tensors) => {
      tensors.set('apm.conv1.weight', ops.ones([2, 3]));
      tensors.set('tts.dvae.coef', ops.to(ops.ones([4]), 'float16'));
    });
    for (const name of [
      'tokenizer.json',
      'modeling_minicpmo.py',
      'chat_template.jinja',
      'README.md',
      'pytorch_model.bin',
      'old.index.json',
    ])
      writeFileSync(join(folder, name), name);
    const [model, source] = load(folder, { dtype: 'bfloat16' });
    expect([...source.carried].sort()).toEqual(['apm.conv1.weight', 'tts.dvae.coef']);
    const copy = fresh();
    saveCheckpoint(model, copy, { source });
    const saved = new SafetensorsFile(join(copy, 'model.safetensors'));
    expect(saved.infos.get('apm.conv1.weight')!.dtype).toBe('float32');
    expect(saved.infos.get('tts.dvae.coef')!.dtype).toBe('float16');
    expect(saved.infos.get('resampler.query')!.dtype).toBe('bfloat16');
    expect(readdirSync(copy).sort()).toEqual([
      'chat_template.jinja',
      'config.json',
      'model.safetensors',
      'modeling_minicpmo.py',
      'tokenizer.json',
    ]);
    model.dispose();
  });

  it('tie the output layer to the embeddings where the config says so', () => {
    const folder = checkpoint('minicpm-v-2_6', { tie_word_embeddings: true });
    const names = (): string[] => [...openSafetensors(folder).infos.keys()];
    expect(names()).not.toContain('llm.lm_head.weight');
    edit(folder, (tensors) =>
      tensors.set('llm.lm_head.weight', ops.clone(tensors.get('llm.model.embed_tokens.weight')!)),
    );
    const [model, source] = load(folder);
    expect([...model.headParameters().keys()]).toEqual(['llm.model.embed_tokens.weight']);
    noGrad(() => ops.fill_(model.llm.model.embedTokens.weight.data, 3));
    const copy = fresh();
    saveCheckpoint(model, copy, { source });
    scope(() => {
      const head = openSafetensors(copy).tensor('llm.lm_head.weight');
      expect(ops.all(ops.eqScalar(head, 3)).item()).toBe(1);
    });
    model.dispose();
  });

  it('change nothing in config.json but the type', () => {
    const folder = checkpoint('minicpm-v-4');
    const text = '{"version": 4.0, "rms_norm_eps": 1e-06, ';
    const config = readFileSync(join(folder, 'config.json'), 'utf8');
    const odd = config
      .replace('{', text)
      .replace(/"version": 4,/, '')
      .replace(/"torch_dtype": "float32",?/, '');
    writeFileSync(join(folder, 'config.json'), odd);
    const [model, source] = load(folder, { dtype: 'bfloat16' });
    const copy = fresh();
    saveCheckpoint(model, copy, { source });
    const saved = readFileSync(join(copy, 'config.json'), 'utf8');
    expect(saved).toBe(odd.replace('{', '{\n  "torch_dtype": "bfloat16",'));
    model.dispose();
  });
});

describe('a checkpoint is refused', () => {
  it('with missing tensors', () => {
    const folder = checkpoint('minicpm-v-2_6');
    edit(folder, (tensors) => {
      for (const name of [...tensors.keys()].filter((key) => key.startsWith('llm.model.layers.1.')))
        tensors.delete(name);
    });
    const text = complaint(folder);
    expect(text).toContain('12 missing: llm.model.layers.1.');
    expect(text).toContain('and 7 more');
    expect(text).toContain('The checkpoint is incomplete');
  });

  it('with unknown tensors, even of a part that only another model carries', () => {
    const folder = checkpoint('minicpm-v-2_6');
    edit(folder, (tensors) => tensors.set('apm.conv1.weight', ops.ones([1])));
    expect(complaint(folder)).toContain('1 unknown to the model: apm.conv1.weight');
  });

  it('with tensors of another shape or kind', () => {
    const folder = checkpoint('minicpm-v-2_6');
    edit(folder, (tensors) => {
      tensors.set('resampler.query', ops.ones([5, 128]));
      tensors.set('llm.model.norm.weight', ops.ones([128], { dtype: 'int32' }));
    });
    const text = complaint(folder);
    expect(text).toContain('resampler.query (expected [4, 128], received [5, 128])');
    expect(text).toContain('llm.model.norm.weight (expected floats, received int32)');
  });

  it('with the config of another model', () => {
    const folder = checkpoint('minicpm-v-2_6');
    cpSync(join(checkpoint('minicpm-v-2'), 'config.json'), join(folder, 'config.json'));
    expect(complaint(folder)).toContain('Weights and configuration belong to different models');
  });

  it('when it is an adapter, is cut, is not there, or is pickled', () => {
    const folder = checkpoint('minicpm-v-2_6');
    const file = join(folder, 'model.safetensors');
    truncateSync(file, 100_000);
    expect(complaint(folder)).toContain('The file is cut');
    rmSync(file);
    expect(complaint(folder)).toContain('Expected model.safetensors');
    writeFileSync(join(folder, 'pytorch_model.bin'), '');
    expect(complaint(folder)).toContain('Only safetensors are read');
    scope(() => writeSafetensors(file, new Map([['base_model.model.llm.q_proj.lora_A.weight', ops.ones([1])]])));
    expect(complaint(folder)).toContain('This is an adapter');
  });

  it('when a shard is missing', () => {
    const folder = checkpoint('minicpm-v-4');
    const [model, source] = load(folder);
    const copy = fresh();
    saveCheckpoint(model, copy, { source, maxShardBytes: 700_000 });
    model.dispose();
    const shard = readdirSync(copy).find((name) => name.startsWith('model-00002'))!;
    renameSync(join(copy, shard), join(copy, 'elsewhere'));
    expect(complaint(copy)).toContain(`Expected the shard "${shard}" beside the index`);
  });
});

describe('saving is refused', () => {
  it('into a folder that holds weights, which stay as they were', () => {
    const folder = checkpoint('minicpm-v-2_6');
    const before = readFileSync(join(folder, 'model.safetensors'));
    const [model, source] = load(folder);
    expect(() => saveCheckpoint(model, folder, { source })).toThrow('Expected a folder without weights');
    expect(readFileSync(join(folder, 'model.safetensors')).equals(before)).toBe(true);
    expect(existsSync(join(folder, 'model.safetensors.index.json'))).toBe(false);
    model.dispose();
  });
});

describe('createModel', () => {
  it('gives the same weights for the same seed, others for another, and leaves the generator alone', () => {
    const files = [
      checkpoint('minicpm-v-2', {}, 1),
      checkpoint('minicpm-v-2', {}, 1),
      checkpoint('minicpm-v-2', {}, 2),
    ];
    const [a, b, c] = files.map((folder) => readFileSync(join(folder, 'model.safetensors')));
    expect(a!.equals(b!)).toBe(true);
    expect(a!.equals(c!)).toBe(false);
    const config = parseConfig(JSON.stringify(readReference('minicpm-v-2').config), 'config.json');
    scope(() => {
      const before = rngState();
      createModel(config, { seed: 5 }).dispose();
      expect(ops.equal(rngState(), before)).toBe(true);
    });
  });

  it('starts norms at one, biases at zero and matrices small', () => {
    const config = parseConfig(JSON.stringify(readReference('minicpm-v-2_6').config), 'config.json');
    const model = createModel(config, { seed: 3 });
    const values = (name: string): number[] => new Map(model.namedParameters()).get(name)!.data.toNumbers();
    expect(new Set(values('vpm.encoder.layers.0.layer_norm1.weight'))).toEqual(new Set([1]));
    expect(new Set(values('llm.model.layers.1.self_attn.q_proj.bias'))).toEqual(new Set([0]));
    const matrix = values('llm.model.layers.0.mlp.up_proj.weight');
    const std = Math.sqrt(matrix.reduce((sum, x) => sum + x * x, 0) / matrix.length);
    expect(std).toBeCloseTo(0.02, 3);
    model.dispose();
  });
});
