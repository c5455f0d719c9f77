/**
 * The language model as llama.cpp has it. Its key-values and tensors, with the names and in the order of llama.cpp's
 * converter. Not here: the vocabulary (vocabulary.ts), types of tensors (outtype.ts).
 */
import { type LlmConfig, type ModelConfig, VERSIONS } from '@minicpm-finetune/processor';
import type { Outtype } from '@minicpm-finetune/run';
import { fromTypedArray, ops, type Tensor } from '@minicpm-finetune/torch';
import { familyOf } from './families.js';
import type { GgufValue } from './format.js';
import { columnOrder, inOrder, rowOrder } from './head-order.js';
import { attentionInterval } from './limits.js';
import type { MergedWeights } from './merged-weights.js';
import { FILE_TYPES, languageType } from './outtype.js';
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
  if (architecture === 'qwen35') return { ...heads, ...linearAttentionKeys(llm) };
  if (architecture === 'qwen2') return llm.headDim * llm.numHeads === llm.hiddenSize ? {} : heads;
  return { ...heads, vocab_size: u32(llm.vocabSize), 'rope.dimension_count': size, ...longRopeKeys(llm) };
}

/** Frequencies of time, row and column where a configuration does not say: transformers' default. */
const SECTIONS = [11, 11, 10] as const;

function linearAttentionKeys(llm: LlmConfig): Record<string, GgufValue> {
  const { convKernel, keyHeadDim, valueHeadDim, numKeyHeads, numValueHeads } = llm.linearAttention!;
  const sections = [...(llm.mropeSection ?? SECTIONS), 0];
  return {
    'ssm.conv_kernel': u32(convKernel),
    'ssm.state_size': u32(keyHeadDim),
    'ssm.group_count': u32(numKeyHeads),
    'ssm.time_step_rank': u32(numValueHeads),
    'ssm.inner_size': u32(numValueHeads * valueHeadDim),
    full_attention_interval: u32(attentionInterval(llm)!), // limits.ts
    'rope.dimension_count': u32(llm.rotaryDim),
    'rope.dimension_sections': { type: 'array', of: 'i32', value: sections },
  };
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

/** Modules in a file by the end of their names in a layer of the checkpoint. */
const layerModules = (feedForwardNorm: string): readonly (readonly [inFile: string, inLayer: string])[] => [
  ['attn_norm', 'input_layernorm'],
  ['ffn_down', 'mlp.down_proj'],
  ['ffn_gate', 'mlp.gate_proj'],
  ['ffn_up', 'mlp.up_proj'],
  [feedForwardNorm, 'post_attention_layernorm'],
  ['attn_k_norm', 'self_attn.k_norm'],
  ['attn_k', 'self_attn.k_proj'],
  ['attn_output', 'self_attn.o_proj'],
  ['attn_q_norm', 'self_attn.q_norm'],
  ['attn_q', 'self_attn.q_proj'],
  ['attn_v', 'self_attn.v_proj'],
  ['attn_qkv', 'linear_attn.in_proj_qkv'],
  ['attn_gate', 'linear_attn.in_proj_z'],
  ['ssm_alpha', 'linear_attn.in_proj_a'],
  ['ssm_beta', 'linear_attn.in_proj_b'],
  ['ssm_conv1d', 'linear_attn.conv1d'],
  ['ssm_norm', 'linear_attn.norm'],
  ['ssm_out', 'linear_attn.out_proj'],
];

/** The modules of the language model: their names in the file and in the checkpoint, in the order of the file. */
export function languageModules(config: ModelConfig): (readonly [inFile: string, inModel: string])[] {
  const { llm, version } = config;
  const { decoder, head } = VERSIONS[version].parts;
  const modules = layerModules(familyOf(config).feedForwardNorm);
  const layers = Array.from({ length: llm.numLayers }, (_, i) =>
    modules.map(([inFile, inLayer]) => [`blk.${i}.${inFile}`, `${decoder}.layers.${i}.${inLayer}`] as const),
  );
  return [
    ...(llm.tieWordEmbeddings ? [] : [['output', head] as const]),
    ['token_embd', `${decoder}.embed_tokens`],
    ...layers.flat(),
    ['output_norm', `${decoder}.norm`],
  ];
}

/** A parameter of the language model. */
interface Place {
  /** The module in the file that it belongs to. */
  readonly module: string;
  readonly inFile: string;
  readonly inModel: string;
}

/** All that a language model can have, in the order of the file. */
function languagePlaces(config: ModelConfig): Place[] {
  const { llm, version } = config;
  const ofModules = languageModules(config).flatMap(([module, source]) =>
    ['bias', 'weight'].map((part) => ({ module, inFile: `${module}.${part}`, inModel: `${source}.${part}` })),
  );
  const ofLinearLayers = [...llm.linearLayers].flatMap((i) => {
    const layer = `${VERSIONS[version].parts.decoder}.layers.${i}.linear_attn`;
    return [
      { module: `blk.${i}.ssm_a`, inFile: `blk.${i}.ssm_a`, inModel: `${layer}.A_log` },
      { module: `blk.${i}.ssm_dt`, inFile: `blk.${i}.ssm_dt.bias`, inModel: `${layer}.dt_bias` },
    ];
  });
  return [...ofModules, ...ofLinearLayers];
}

/** The tensors of the language model. */
export function languageTensors(
  config: ModelConfig,
  weights: MergedWeights,
  outtype: Outtype,
): Map<string, GgufTensor> {
  const { llm } = config;
  const tensors = new Map<string, GgufTensor>(ropeFactors(llm));
  for (const place of languagePlaces(config)) {
    const whole = weights.shapes.get(place.inModel);
    if (whole === undefined) continue;
    const shape = whole.filter((size, i) => i === 0 || i === whole.length - 1 || size > 1); // kernels of a convolution have a size of 1 between
    const { numLayers, tieWordEmbeddings: tied } = llm;
    const type = languageType(outtype, { name: place.inFile, shape, numLayers, tied });
    tensors.set(place.inFile, { type, shape, ...rowsOf(config, weights, place) });
  }
  return tensors;
}

type Rows = Pick<GgufTensor, 'rows' | 'together'>;

function rowsOf(config: ModelConfig, weights: MergedWeights, { module, inModel: name }: Place): Rows {
  const { llm } = config;
  const shape = weights.shapes.get(name)!;
  if (shape.length === 1) {
    const column = (): Tensor => fileRows(config, module, weights.rows(name, 0, shape[0]!));
    return { rows: () => ops.reshape(fileNumbers(llm, module, column()), [1, shape[0]!]) };
  }
  if (isReordered(config, module))
    return { together: llm.headDim, rows: (start, count) => inPairs(weights.rows(name, start, count), llm.headDim) };
  const order = rowOrder(llm, module);
  if (order !== null) {
    const { size, blocks } = order;
    const block = (i: number): Tensor => weights.rows(name, i * size, size);
    return {
      together: size,
      rows: (start, count) => ops.cat(blocks.slice(start / size, (start + count) / size).map(block), 0),
    };
  }
  const columns = columnOrder(llm, module);
  if (columns !== null) return { rows: (start, count) => inOrder(weights.rows(name, start, count), 1, columns) };
  return { rows: (start, count) => weights.rows(name, start, count) };
}

/** All rows of a module's parameter, or of an adapter's part of it, in the order of the file. */
export function fileRows(config: ModelConfig, module: string, rows: Tensor): Tensor {
  if (isReordered(config, module)) return inPairs(rows, config.llm.headDim);
  const order = rowOrder(config.llm, module);
  return order === null ? rows : inOrder(rows, 0, order);
}

/** The numbers of a vector as the file has them: norms with what they add to their weight, the decay of linear attention without its logarithm. */
function fileNumbers({ normOffset }: LlmConfig, module: string, numbers: Tensor): Tensor {
  if (module.endsWith('.ssm_a')) return ops.neg(ops.exp(numbers));
  const isNorm = module.endsWith('_norm') && !module.endsWith('.ssm_norm'); // of linear attention, which adds nothing
  return isNorm && normOffset !== 0 ? ops.addScalar(numbers, normOffset) : numbers;
}

/** Whether rows of this module are others in the file than in the checkpoint. */
function isReordered(config: ModelConfig, module: string): boolean {
  return familyOf(config).interleaved && /\.attn_[qk]$/.test(module);
}

/** Rows (n, width) of whole heads: the first and second half of each head's rows in turn. */
function inPairs(rows: Tensor, headDim: number): Tensor {
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
