/**
 * The language model as llama.cpp has it. Its key-values and tensors, with the names and in the order of llama.cpp's
 * converter. Not here: the vocabulary (vocabulary.ts), types of tensors (outtype.ts).
 */
import { type LlmConfig, type ModelConfig, VERSIONS } from '@minicpm-finetune/processor';
import { fromTypedArray, ops, type Tensor } from '@minicpm-finetune/torch';
import { familyOf } from './families.js';
import type { GgufValue } from './format.js';
import type { MergedWeights } from './merged-weights.js';
import { FILE_TYPES, languageType, type Outtype } from './outtype.js';
import type { GgufTensor } from './writer.js';

const u32 = (value: number): GgufValue => ({ type: 'u32', value });
const f32 = (value: number): GgufValue => ({ type: 'f32', value });
const string = (value: string): GgufValue => ({ type: 'string', value });

/** All key-values but those of the tokenizer. */
export function languageMetadata(
  config: ModelConfig,
  outtype: Outtype,
  tensors: ReadonlyMap<string, GgufTensor>,
): Map<string, GgufValue> {
  const { architecture } = familyOf(config);
  const { llm } = config;
  const count = [...tensors.values()].reduce((sum, { shape }) => sum + numelOf(shape), 0);
  const own = Object.entries(ownKeys(config)).map(([key, value]) => [`${architecture}.${key}`, value] as const);
  return new Map<string, GgufValue>([
    ['general.architecture', string(architecture)],
    ['general.type', string('model')],
    ['general.name', string(VERSIONS[config.version].title)],
    ['general.size_label', string(sizeLabel(count))],
    [`${architecture}.block_count`, u32(llm.numLayers)],
    [`${architecture}.context_length`, u32(llm.maxPositionEmbeddings)],
    [`${architecture}.embedding_length`, u32(llm.hiddenSize)],
    [`${architecture}.feed_forward_length`, u32(llm.intermediateSize)],
    [`${architecture}.attention.head_count`, u32(llm.numHeads)],
    [`${architecture}.attention.head_count_kv`, u32(llm.numKeyValueHeads)],
    [`${architecture}.rope.freq_base`, f32(llm.ropeTheta)],
    [`${architecture}.attention.layer_norm_rms_epsilon`, f32(llm.rmsNormEps)],
    ...own,
    ['general.file_type', u32(FILE_TYPES[outtype])],
    ['general.quantization_version', u32(2)],
  ]);
}

/** What only some architectures have. */
function ownKeys(config: ModelConfig): Record<string, GgufValue> {
  const { architecture } = familyOf(config);
  const { llm } = config;
  if (architecture === 'minicpm')
    return {
      embedding_scale: f32(llm.embeddingScale),
      residual_scale: f32(llm.residualScale),
      logit_scale: f32(llm.logitDivisor),
    };
  const size = u32(llm.headDim);
  const heads = { 'attention.key_length': size, 'attention.value_length': size };
  if (architecture === 'qwen3') return heads;
  if (architecture === 'qwen2') return llm.headDim * llm.numHeads === llm.hiddenSize ? {} : heads;
  return { ...heads, vocab_size: u32(llm.vocabSize), 'rope.dimension_count': size, ...longRopeKeys(llm) };
}

function longRopeKeys({ longRope }: LlmConfig): Record<string, GgufValue> {
  if (longRope === null) return {};
  return {
    'rope.scaling.type': string('longrope'),
    'rope.scaling.original_context_length': u32(longRope.originalMaxPositions),
    'rope.scaling.attn_factor': f32(longRope.attentionFactor),
  };
}

/** `419K`, `8.0B`: two digits at least. */
function sizeLabel(count: number): string {
  const [unit, letter] = [[1e12, 'T'] as const, [1e9, 'B'] as const, [1e6, 'M'] as const, [1e3, 'K'] as const].find(
    ([size]) => count > size,
  ) ?? [1e3, 'K'];
  const scaled = count / unit;
  const digits = String(Math.round(scaled)).replace(/^0+/, '').length;
  return `${scaled.toFixed(Math.max(0, 2 - digits))}${letter}`;
}

const numelOf = (shape: readonly number[]): number => shape.reduce((product, size) => product * size, 1);

/** Names in a file by the end of their names in a layer of the checkpoint. */
const LAYER: readonly (readonly [inFile: string, inLayer: string])[] = [
  ['attn_norm', 'input_layernorm'],
  ['ffn_down', 'mlp.down_proj'],
  ['ffn_gate', 'mlp.gate_proj'],
  ['ffn_up', 'mlp.up_proj'],
  ['ffn_norm', 'post_attention_layernorm'],
  ['attn_k_norm', 'self_attn.k_norm'],
  ['attn_k', 'self_attn.k_proj'],
  ['attn_output', 'self_attn.o_proj'],
  ['attn_q_norm', 'self_attn.q_norm'],
  ['attn_q', 'self_attn.q_proj'],
  ['attn_v', 'self_attn.v_proj'],
];

/** The modules of the language model: their names in the file and in the checkpoint, in the order of the file. */
export function languageModules({ llm }: ModelConfig): (readonly [inFile: string, inModel: string])[] {
  const layers = Array.from({ length: llm.numLayers }, (_, i) =>
    LAYER.map(([inFile, inLayer]) => [`blk.${i}.${inFile}`, `llm.model.layers.${i}.${inLayer}`] as const),
  );
  return [
    ...(llm.tieWordEmbeddings ? [] : [['output', 'llm.lm_head'] as const]),
    ['token_embd', 'llm.model.embed_tokens'],
    ...layers.flat(),
    ['output_norm', 'llm.model.norm'],
  ];
}

/** The tensors of the language model. */
export function languageTensors(
  config: ModelConfig,
  weights: MergedWeights,
  outtype: Outtype,
): Map<string, GgufTensor> {
  const { llm } = config;
  const tensors = new Map<string, GgufTensor>(ropeFactors(llm));
  for (const [module, source] of languageModules(config))
    for (const part of ['bias', 'weight']) {
      const name = `${module}.${part}`;
      const inModel = `${source}.${part}`;
      const shape = weights.shapes.get(inModel);
      if (shape === undefined) continue;
      const type = languageType(outtype, { name, shape, numLayers: llm.numLayers, tied: llm.tieWordEmbeddings });
      tensors.set(name, { type, shape, ...rowsOf(config, weights, module, inModel) });
    }
  return tensors;
}

function rowsOf(
  config: ModelConfig,
  weights: MergedWeights,
  module: string,
  name: string,
): Pick<GgufTensor, 'rows' | 'together'> {
  const shape = weights.shapes.get(name)!;
  if (shape.length === 1) {
    const whole = (): Tensor => ops.reshape(weights.rows(name, 0, shape[0]!), [1, shape[0]!]);
    if (!isReordered(config, module)) return { rows: whole };
    return { rows: () => ops.reshape(inPairs(ops.reshape(whole(), [-1, 1]), config.llm.headDim), [1, -1]) };
  }
  if (!isReordered(config, module)) return { rows: (start, count) => weights.rows(name, start, count) };
  const { headDim } = config.llm;
  return { together: headDim, rows: (start, count) => inPairs(weights.rows(name, start, count), headDim) };
}

/** Whether rows of this module are others in the file than in the checkpoint. */
export function isReordered(config: ModelConfig, module: string): boolean {
  return familyOf(config).interleaved && /\.attn_[qk]$/.test(module);
}

/** Rows (n, width) of whole heads: the first and second half of each head's rows in turn. */
export function inPairs(rows: Tensor, headDim: number): Tensor {
  const [count, width] = rows.shape as [number, number];
  const halves = ops.reshape(rows, [count / headDim, 2, headDim / 2, width]);
  return ops.reshape(ops.transpose(halves, 1, 2), [count, width]);
}

/** LongRoPE's divisors, which llama.cpp's own converter leaves out of models of this kind. */
function ropeFactors({ longRope }: LlmConfig): [string, GgufTensor][] {
  if (longRope === null) return [];
  const tensor = (values: readonly number[]): GgufTensor => ({
    type: 'f32',
    shape: [values.length],
    rows: () => fromTypedArray(Float32Array.from(values), [1, values.length]),
  });
  return [
    ['rope_factors_long.weight', tensor(longRope.longFactor)],
    ['rope_factors_short.weight', tensor(longRope.shortFactor)],
  ];
}
