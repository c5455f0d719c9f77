import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { UserError } from '@minicpm-finetune/run';
import { describe, expect, it } from 'vitest';
import { readReference } from '../../minicpm-v/test/support/reference.js';
import { checkLlmType, parseConfig, readConfig, withDownsampleMode, withSlice } from '../src/config.js';
import { VERSIONS, type VersionName } from '../src/versions.js';

const VERSION_NAMES = Object.keys(VERSIONS) as VersionName[];
type Raw = Record<string, unknown>;
const raw = (version: VersionName): Raw => readReference(version).config as Raw;
const parse = (config: Raw) => parseConfig(JSON.stringify(config), 'somewhere/config.json');

/** The UserError that parsing throws, as a user sees it. */
function complaint(config: Raw): string {
  try {
    parse(config);
  } catch (error) {
    expect(error).toBeInstanceOf(UserError);
    return (error as UserError).format();
  }
  throw new Error('Expected an error but there was none');
}

describe('parseConfig', () => {
  it.each(VERSION_NAMES)('recognises %s', (version) => {
    expect(parse(raw(version)).version).toBe(version);
  });

  it('reads sizes and fills in defaults', () => {
    const config = parse(raw('minicpm-v-2_6'));
    expect(config.llm).toEqual({
      hiddenSize: 128,
      intermediateSize: 48,
      numLayers: 2,
      numHeads: 4,
      numKeyValueHeads: 2,
      headDim: 32,
      vocabSize: 96,
      rmsNormEps: 1e-6,
      maxPositionEmbeddings: 4096,
      ropeTheta: 1_000_000,
      normOffset: 0,
      rotaryDim: 32,
      mropeSection: null,
      longRope: null,
      qkvBias: true,
      outputBias: false,
      qkNorm: false,
      outputGate: false,
      mlpBias: false,
      linearAttention: null,
      linearLayers: new Set(),
      tieWordEmbeddings: false,
      embeddingScale: 1,
      residualScale: 1,
      logitDivisor: 1,
    });
    expect(config.vision).toMatchObject({ hiddenSize: 16, numLayers: 2, positionSide: 70, batchSize: 16 });
    expect(config.slice).toEqual({ maxSliceNums: 9, scaleResolution: 448, patchSize: 14, multiple: 14 });
    expect(config).toMatchObject({ batchVision: true, sliceMode: true, useImageId: null, dtype: 'float32' });
  });

  it('reads the scalings of MiniCPM and drops the last vision layer', () => {
    const { llm, vision, batchVision } = parse(raw('minicpm-v-2'));
    expect(llm).toMatchObject({ embeddingScale: 12, logitDivisor: 4, qkvBias: false });
    expect(llm.residualScale).toBeCloseTo(1.4 / Math.sqrt(2), 12);
    expect(vision).toMatchObject({ numLayers: 2, intermediateSize: 30, positionSide: 8 });
    expect(batchVision).toBe(false);
  });

  it('has the published sizes for a vision tower that is only named', () => {
    const { vision_encoder_args: _, ...config } = raw('minicpm-v-2');
    expect(parse(config).vision).toMatchObject({
      hiddenSize: 1152,
      intermediateSize: 4304,
      numLayers: 26,
      numHeads: 16,
      positionSide: 27,
    });
  });

  it('reads longrope, with the attention factor that follows from its lengths', () => {
    const config = raw('minicpm-v-4');
    expect(parse(config).llm.longRope?.attentionFactor).toBeCloseTo(Math.sqrt(1 + Math.log(256) / Math.log(16)), 12);
    expect(parse({ ...config, max_position_embeddings: 16 }).llm.longRope?.attentionFactor).toBe(1);
    const { rope_scaling, ...rest } = config;
    expect(parse({ ...rest, rope_parameters: { ...(rope_scaling as Raw), rope_theta: 5 } }).llm).toMatchObject({
      longRope: parse(config).llm.longRope,
      ropeTheta: 10_000,
    });
  });

  it('reads a hybrid decoder, with the defaults of what 4.6 leaves out', () => {
    const { llm, merger, pictureTokens, slice, canvas } = parse(raw('minicpm-v-4_6'));
    expect(llm).toMatchObject({ normOffset: 1, rotaryDim: 16, mropeSection: null, qkNorm: true, outputGate: true });
    expect([...llm.linearLayers]).toEqual([0, 1, 2]);
    expect(llm.linearAttention).toMatchObject({ numKeyHeads: 2, numValueHeads: 4, keyHeadDim: 16, valueHeadDim: 24 });
    expect(merger).toEqual({ insertLayer: 0, downsampleMode: '16x' });
    expect(pictureTokens).toEqual({ patchesPerToken: 16 });
    expect(slice).toEqual({ maxSliceNums: 9, scaleResolution: 448, patchSize: 14, multiple: 56 });
    expect(canvas).toBeNull();
    const four = parse(raw('minicpm-v-4_7'));
    expect(four.llm.mropeSection).toEqual([3, 3, 2]);
    expect(four.canvas).toEqual({ imageStart: 92, imageEnd: 93, sliceStart: 94, sliceEnd: 95, newline: 1 });
  });

  it('reads slices and 4x from preprocessor_config.json, where config.json does not say', () => {
    const text = JSON.stringify(raw('minicpm-v-4_6'));
    const preprocessor = { max_slice_nums: 4, scale_resolution: 112, downsample_mode: '4x' };
    const config = parseConfig(text, 'config.json', JSON.stringify(preprocessor));
    expect(config.slice).toMatchObject({ maxSliceNums: 4, scaleResolution: 112 });
    expect(config.pictureTokens).toEqual({ patchesPerToken: 4 });
    const other = withDownsampleMode(config, '16x');
    expect(other.pictureTokens).toEqual({ patchesPerToken: 16 });
    expect(JSON.parse(other.text)).toMatchObject({ downsample_mode: '16x' });
  });

  it.each<[string, Raw, string]>([
    ['a mixture of experts', { model_type: 'qwen3_5_moe_text' }, 'mixtures of experts are not supported'],
    ['heads that do not divide', { linear_num_value_heads: 3 }, 'a multiple of 2 key heads'],
    ['types of other layers', { layer_types: ['full_attention'] }, '4 layers'],
  ])('refuses in a hybrid decoder %s', (_, change, message) => {
    const config = raw('minicpm-v-4_6');
    expect(complaint({ ...config, text_config: { ...(config.text_config as Raw), ...change } })).toContain(message);
  });

  it('names the models that are known where a newer one comes', () => {
    const text = complaint({ ...raw('minicpm-v-4_7'), architectures: ['MiniCPMV4_9ForConditionalGeneration'] });
    expect(text).toContain('"MiniCPMV4_9ForConditionalGeneration"');
    expect(text).toContain('MiniCPM-V-4.7 (MiniCPMV4_7ForConditionalGeneration');
  });

  it.each<[string, Raw, string]>([
    [
      'a missing key',
      { hidden_size: undefined },
      "Expected a positive whole number for 'hidden_size' but received nothing.",
    ],
    [
      'a number of the wrong kind',
      { vocab_size: 2.5 },
      "Expected a positive whole number for 'vocab_size' but received 2.5.",
    ],
    [
      'an activation that is not built',
      { hidden_act: 'gelu' },
      `Expected "silu" for 'hidden_act' but received "gelu".`,
    ],
    [
      'dropout',
      { attention_dropout: 0.1 },
      "Expected 0 (dropout is not supported) for 'attention_dropout' but received 0.1.",
    ],
    ['sliding windows', { use_sliding_window: true }, "for 'use_sliding_window' but received true."],
    [
      'heads that do not divide',
      { num_key_value_heads: 3 },
      "Expected a divisor of 4 heads for 'num_key_value_heads' but received 3.",
    ],
    ['another rope', { rope_scaling: { rope_type: 'yarn' } }, `for 'rope_scaling.rope_type' but received "yarn".`],
    [
      'a nested key',
      { vision_config: { hidden_size: 16 } },
      "for 'vision_config.intermediate_size' but received nothing.",
    ],
    ['another version', { version: 5 }, 'MiniCPM-V-2_6 (MiniCPMV, version 2.6)'],
    [
      'another architecture',
      { architectures: ['LlamaForCausalLM'] },
      'but received "LlamaForCausalLM", version 2.6, with vision_config',
    ],
  ])('refuses %s', (_, change, message) => {
    const text = complaint({ ...raw('minicpm-v-2_6'), ...change });
    expect(text).toContain(message);
    expect(text).toContain('somewhere/config.json');
    expect(text).toContain('cure:');
  });

  it('refuses what is not JSON, and a folder without the file', () => {
    expect(() => parseConfig('{', 'x/config.json')).toThrow(UserError);
    const folder = mkdtempSync(join(tmpdir(), 'config-'));
    expect(() => readConfig(folder)).toThrow('Expected a readable config.json');
    rmSync(folder, { recursive: true });
  });
});

describe('withSlice', () => {
  const slice = { maxSliceNums: 3, scaleResolution: 70, patchSize: 14, multiple: 14 };
  const values = { max_slice_nums: 3, scale_resolution: 70 };
  const config = (keys: object) => {
    return parse({ ...raw('minicpm-v-2_6'), ...keys });
  };

  it.each<[string, object, object]>([
    [
      'slice_config',
      { slice_config: { patch_size: 14, model_type: 'minicpmv' } },
      { slice_config: { patch_size: 14, model_type: 'minicpmv', ...values } },
    ],
    ['the outermost level', { slice_config: undefined, max_slice_nums: 9 }, { ...values }],
    [
      'both',
      { slice_config: { max_slice_nums: 9, patch_size: 14 }, max_slice_nums: 9 },
      { slice_config: { patch_size: 14, ...values }, max_slice_nums: 3 },
    ],
  ])('writes into %s, where the file has it, and reads it back', (_, keys, expected) => {
    const before = config(keys);
    const after = withSlice(before, slice);
    expect(after.slice).toEqual(slice);
    expect(parseConfig(after.text, 'config.json').slice).toEqual(slice);
    expect(JSON.parse(after.text)).toEqual({ ...(JSON.parse(before.text) as object), ...expected });
    expect(withSlice(before, before.slice)).toBe(before);
  });
});

describe('checkLlmType', () => {
  it('accepts the right one and names it when another is given', () => {
    const config = parse(raw('minicpm-llama3-v-2_5'));
    expect(() => checkLlmType(config, 'llama3')).not.toThrow();
    expect(() => checkLlmType(config, 'qwen')).toThrow(
      'Expected "llama3" for --llm_type of MiniCPM-Llama3-V-2_5 but received "qwen".',
    );
  });
});
