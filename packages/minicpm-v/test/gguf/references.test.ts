/**
 * Exported files have the key-values and tensors that llama.cpp's own converters (v0.5.0; 4.6: v0.4.0) write for the same configurations and
 * tokenizers; `npm run parity:gguf` compares the numbers, too. What differs on purpose is listed here.
 */

import { createHash } from 'node:crypto';
import { copyFileSync, cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseConfig } from '@minicpm-finetune/processor';
import { setThreads } from '@minicpm-finetune/torch';
import { afterAll, describe, expect, it } from 'vitest';
import { createModel } from '../../src/checkpoint/create.js';
import { saveCheckpoint } from '../../src/checkpoint/weights.js';
import { exportGguf, exportGgufAdapter } from '../../src/gguf/export.js';
import { type GgufHeader, readGguf } from '../../src/gguf/reader.js';
import { randomAdapter } from '../support/random-adapter.js';
import { tokenizerFolder, VERSION_NAMES } from '../support/tiny.js';

setThreads(1);
const work = mkdtempSync(join(tmpdir(), 'gguf-references-'));
afterAll(() => rmSync(work, { recursive: true }));

type Keys = Record<string, [type: string, value: unknown]>;
interface ReferenceFile {
  readonly keys: Keys;
  readonly tensors: Record<string, [type: string, ne: number[]]>;
}
interface Reference {
  readonly config: Record<string, unknown>;
  readonly files: Record<string, ReferenceFile>;
}

const FIXTURES = join(import.meta.dirname, '../fixtures/gguf');
const PROJECTIONS =
  '(llm|model\\.language_model)\\..*layers\\.\\d+\\.(self_attn\\.(q_proj|k_proj|v_proj|o_proj)|linear_attn\\.in_proj_.*)';

/** Keys that have other values on purpose. */
const NAMES = ['general.name', 'tokenizer.chat_template'];
/** What some converters guess from the name of a folder. */
const GUESSED = ['general.finetune', 'general.basename'];
/** Of the image encoder: what no reader uses, and the kind of the file, as newer converters have it. */
const ENCODER = [
  ...['general.type', 'general.description', 'general.size_label', 'general.quantization_version'],
  ...['clip.has_text_encoder', 'clip.has_minicpmv_projector'],
];
/** References have short lists as they are. */
const SHORT = 8;

/** The JSON text whose hash the references have of long lists. */
function listHash(key: string, values: readonly unknown[]): string {
  const number = (value: number): string =>
    Object.is(value, -0) ? '-0.0' : key.endsWith('.scores') ? `${value}.0` : String(value);
  const items = values.map((value) => (typeof value === 'number' ? number(value) : JSON.stringify(value)));
  return createHash('sha256')
    .update(`[${items.join(', ')}]`)
    .digest('hex');
}

function keysOf({ metadata }: GgufHeader, without: readonly string[]): Keys {
  const entries = [...metadata].filter(([key]) => !without.includes(key));
  return Object.fromEntries(
    entries.map(([key, { type, value }]) => [
      key,
      [type, Array.isArray(value) && value.length > SHORT ? listHash(key, value) : value],
    ]),
  );
}

const without = (keys: Keys, names: readonly string[]): Keys =>
  Object.fromEntries(Object.entries(keys).filter(([key]) => !names.includes(key)));

const tensorsOf = ({ tensors }: GgufHeader): ReferenceFile['tensors'] =>
  Object.fromEntries([...tensors].map(([name, { type, shape }]) => [name, [type.toUpperCase(), [...shape].reverse()]]));

/** The converter of image encoders with a resampler writes the two feed-forward layers under each other's names, which readers turn back. */
const turned = (tensors: ReferenceFile['tensors']): ReferenceFile['tensors'] =>
  Object.fromEntries(
    Object.entries(tensors).map(([name, tensor]) => [
      name.replace(/ffn_(up|down)/, (_, part) => (part === 'up' ? 'ffn_down' : 'ffn_up')),
      tensor,
    ]),
  );

describe.each(VERSION_NAMES.filter((version) => existsSync(join(FIXTURES, `${version}.json`))))('%s', (version) => {
  const { config: raw, files }: Reference = JSON.parse(readFileSync(join(FIXTURES, `${version}.json`), 'utf8'));
  const folder = join(work, version);
  mkdirSync(folder);
  cpSync(tokenizerFolder(version), folder, { recursive: true });
  const pieces = join(FIXTURES, `${version}.tokenizer.model`);
  if (existsSync(pieces)) copyFileSync(pieces, join(folder, 'tokenizer.model'));
  const model = createModel(parseConfig(JSON.stringify(raw), 'config.json'), { seed: 1 });
  saveCheckpoint(model, folder);
  model.dispose();
  const exported = exportGguf({ model: folder, outtype: 'f16', output: join(work, `${version}-f16`) });

  it('the language model: key-values, names, types and sizes', () => {
    const header = readGguf(exported.model);
    const expected = files['llm-f32-with-rope-factors'] ?? files['llm-f32']!;
    const own = version === 'minicpm-llama3-v-2_5' ? ['tokenizer.ggml.token_type'] : []; // "!" stays a normal token
    const added = expected.keys['tokenizer.ggml.add_bos_token'] ? [] : ['tokenizer.ggml.add_bos_token'];
    const other = [...NAMES, ...GUESSED, ...own, ...added, 'general.file_type'];
    expect(keysOf(header, other)).toEqual(without(expected.keys, other));
    expect(header.metadata.get('general.file_type')).toEqual({ type: 'u32', value: 1 });
    const norms = /norm|bias|rope_factors|ssm_a$|ssm_conv1d/;
    const half = Object.entries(expected.tensors).map(([name, [type, ne]]) => [
      name,
      [norms.test(name) ? type : 'F16', ne],
    ]);
    expect(tensorsOf(header)).toEqual(Object.fromEntries(half));
  });

  it.each(['q8_0', 'q4_k_m'] as const)('types in %s', (outtype) => {
    const expected = files[`llm-${outtype}`];
    if (expected === undefined) return;
    const { model: file } = exportGguf({ model: folder, outtype, output: join(work, `${version}-${outtype}`) });
    const header = readGguf(file);
    const factors =
      outtype === 'q8_0' && version === 'minicpm-v-4' ? ['rope_factors_long.weight', 'rope_factors_short.weight'] : [];
    const tensors = tensorsOf(header);
    for (const name of factors) delete tensors[name];
    expect(tensors).toEqual(expected.tensors);
    expect(keysOf(header, [])['general.file_type']).toEqual(expected.keys['general.file_type']);
  });

  it('the image encoder: key-values, names, types and sizes', () => {
    const expected = files['mmproj-f16'];
    if (expected === undefined) {
      expect(exported.mmproj).toBeNull();
      expect(exported.notices).toEqual([expect.stringContaining('does not read the vision tower of MiniCPM-V-2')]);
      return;
    }
    const header = readGguf(exported.mmproj!);
    const other = [...NAMES, ...GUESSED, ...ENCODER];
    expect(keysOf(header, other)).toEqual(without(expected.keys, other));
    expect(tensorsOf(header)).toEqual(
      'resampler.query' in expected.tensors ? turned(expected.tensors) : expected.tensors,
    );
  });

  it('an adapter: key-values, names, types and sizes', () => {
    const expected = files.lora;
    if (expected === undefined) return;
    const options = { r: 8, alpha: 16, targetModules: PROJECTIONS, modulesToSave: [] };
    const adapter = randomAdapter(folder, join(work, `${version}-adapter`), 1, options);
    const { adapter: file } = exportGgufAdapter({ model: folder, adapter, output: join(work, `${version}-lora`) });
    const header = readGguf(file);
    expect(keysOf(header, NAMES)).toEqual(without(expected.keys, NAMES));
    expect(tensorsOf(header)).toEqual(expected.tensors);
  });
});

it('"!", which MiniCPM-Llama3-V 2.5 pads with, stays a token that readers print', () => {
  const { metadata } = readGguf(join(work, 'minicpm-llama3-v-2_5-f16', 'MiniCPM-Llama3-V-2_5-f16.gguf'));
  const types = metadata.get('tokenizer.ggml.token_type')?.value;
  expect(Array.isArray(types) && types[0]).toBe(1);
  expect(metadata.get('tokenizer.ggml.add_bos_token')?.value).toBe(false);
});
