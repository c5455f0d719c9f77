/**
 * Weights between a Hugging Face checkpoint and a model. Every tensor is placed or an error lists what is wrong; saving
 * writes all of them back. Tensors of parts that are not built here (MiniCPM-o's audio and speech) are carried from the
 * source into the copy.
 *
 * Not here: the file format (packages/torch), adapters (adapter.ts), random weights (create.ts).
 */
import { strict as assert } from 'node:assert';
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  realpathSync,
  renameSync,
  writeFileSync,
} from 'node:fs';
import { basename, extname, join } from 'node:path';
import { type ModelConfig, readConfig, withEncoding, withSlice, withVideo } from '@minicpm-finetune/processor';
import { atOnce, fileKindOf, RUN_FILES, type Steps, shown, shownPath, UserError } from '@minicpm-finetune/run';
import {
  DTYPES,
  type DType,
  isFloat,
  keep,
  Linear,
  noGrad,
  openSafetensors,
  ops,
  type Parameter,
  SafetensorsError,
  scope,
  type Tensor,
  type TensorInfo,
  type TensorKind,
  type TensorSource,
  writeShardedSafetensors,
} from '@minicpm-finetune/torch';
import type { MiniCPMV } from '../model/minicpm-v.js';

/** The source of a model's weights, from which a saved checkpoint takes its other files. */
export interface WeightSource {
  readonly folder: string;
  readonly tensors: TensorSource;
  /** Tensors of the checkpoint that are no parameters of the model. */
  readonly carried: readonly string[];
}

export interface LoadOptions {
  /** Type of all weights; the stored one when absent, in which case nothing is copied. */
  readonly dtype?: DType;
  readonly onProgress?: (done: { readonly tensors: number; readonly of: number; readonly bytes: number }) => void;
}

export interface SaveOptions {
  /** Type of the saved weights; as they are when absent. Carried tensors keep theirs. */
  readonly dtype?: DType;
  readonly maxShardBytes?: number;
  /** How the saved model cuts pictures; as its configuration says when absent. */
  readonly slice?: ModelConfig['slice'];
  /** How the saved model reads videos; absent: as the model. */
  readonly video?: ModelConfig['video'];
  /** How records were encoded in the training of the saved model; absent: as its configuration says. */
  readonly encoding?: ModelConfig['encoding'];
  /** The source of weights, code and tokenizer files, as `loadWeights` returned it; absent for a model that was created here. */
  readonly source?: WeightSource | undefined;
  /** Told how many bytes the weights will have, before the first is written. */
  readonly onBytes?: (bytes: number) => void;
}

/** Of the shards that a model is saved in, unless one tensor has more. */
export const MAX_SHARD_BYTES = 5_000_000_000;
const SHOWN = 5;
/** Tables that older versions of transformers stored; they are computed here. */
const BUFFERS = /\.(rotary_emb\.inv_freq|position_ids)$/;

/**
 * Gives all parameters of the model their tensors from `<folder>/model.safetensors` or its shards. Without `dtype` they are mapped from
 * the file, not read. Throws a UserError that lists missing, unknown and wrongly shaped tensors before anything is loaded.
 */
export const loadWeights = (model: MiniCPMV, folder: string, options: LoadOptions = {}): WeightSource =>
  atOnce(loadingWeights(model, folder, options));

/** The same in steps. */
export function* loadingWeights(model: MiniCPMV, folder: string, options: LoadOptions = {}): Steps<WeightSource> {
  const tensors = openCheckpoint(folder);
  const parameters = new Map(model.namedParameters());
  const carried = compare(model, parameters, tensors);
  let count = 0;
  let bytes = 0;
  for (const [name, parameter] of parameters) {
    const { dtype, bytes: size } = tensors.infos.get(name)!;
    parameter.data = noGrad(() => scope(() => keep(converted(tensors.tensor(name), options.dtype ?? dtype))));
    count++;
    bytes += size;
    options.onProgress?.({ tensors: count, of: parameters.size, bytes });
    yield;
  }
  return { folder, tensors, carried };
}

/** The tensor in another type, or itself. */
function converted(tensor: Tensor, dtype: DType): Tensor {
  return tensor.dtype === dtype ? tensor : ops.to(tensor, dtype);
}

/** The weights of a checkpoint folder. Throws a UserError for what is not there or not safetensors. */
export function openCheckpoint(folder: string): TensorSource {
  try {
    return openSafetensors(folder);
  } catch (cause) {
    if (!(cause instanceof SafetensorsError)) throw cause;
    const wrong = wrongFile(folder);
    if (wrong !== undefined) throw wrong;
    throw new UserError(cause.message, { file: folder, cure: weightsCure(folder), cause });
  }
}

/** The error for a file of weights that is something else, by its first bytes. */
function wrongFile(folder: string): UserError | undefined {
  for (const name of namesIn(folder).filter((one) => /^model.*\.safetensors(\.index\.json)?$/.test(one))) {
    const file = join(folder, name);
    const kind = fileKindOf(file);
    if (kind === undefined || kind.what === 'a safetensors file' || kind.group === 'text') continue;
    return new UserError(`Expected weights in ${shownPath(name)} but received ${kind.what}.`, {
      file,
      cure: kind.cure ?? 'Copy or download the checkpoint again.',
    });
  }
  return undefined;
}

const namesIn = (folder: string): string[] => (existsSync(folder) ? readdirSync(folder).sort() : []);

function weightsCure(folder: string): string {
  const names = namesIn(folder);
  const pickle = names.find((name) => /\.(bin|pt|pth|ckpt)$/.test(name));
  if (pickle !== undefined && !names.some((name) => name.endsWith('.safetensors')))
    return `Only safetensors are read, and ${shownPath(pickle)} is a pickle, which can run code. Convert it with save_pretrained(…, safe_serialization=True) of transformers.`;
  return 'Copy or download the checkpoint again.';
}

/** Compares a checkpoint with a model; returns the names that are carried. Throws a UserError that lists the differences. */
function compare(model: MiniCPMV, parameters: ReadonlyMap<string, Parameter>, tensors: TensorSource): string[] {
  const missing: string[] = [];
  const wrong: string[] = [];
  for (const [name, { shape }] of parameters) {
    const info = tensors.infos.get(name);
    if (info === undefined) missing.push(name);
    else if (!isFloat(info.dtype)) wrong.push(`${name} (expected floats, received ${info.dtype})`);
    else if (shape.join() !== info.shape.join())
      wrong.push(`${name} (expected [${shape.join(', ')}], received [${info.shape.join(', ')}])`);
  }
  const others = [...tensors.infos.keys()].filter((name) => !parameters.has(name));
  const extra = others.filter((name) => !isCarried(model, name));
  if (missing.length + wrong.length + extra.length === 0) return others;
  const parts = [
    list('missing', missing),
    list('of another shape or type', wrong),
    list('unknown to the model', extra),
  ].filter((part) => part !== '');
  throw new UserError(
    `Expected the ${parameters.size} tensors of ${model.version.title} for the checkpoint but received others: ${parts.join('; ')}.`,
    { file: tensors.path, cure: cureFor(missing, extra, tensors.infos, model.config.file) },
  );
}

const headOf = (model: MiniCPMV): string => `${model.parts.head}.weight`;

function isCarried(model: MiniCPMV, name: string): boolean {
  const tiedHead = model.config.llm.tieWordEmbeddings && name === headOf(model);
  return tiedHead || BUFFERS.test(name) || model.version.carried.some((prefix) => name.startsWith(prefix));
}

function list(what: string, names: readonly string[]): string {
  if (names.length === 0) return '';
  const rest = names.length - SHOWN;
  return `${names.length} ${what}: ${names
    .slice(0, SHOWN)
    .map((name) => shown(name).slice(1, -1))
    .join(', ')}${rest > 0 ? `, … and ${rest} more` : ''}`;
}

function cureFor(
  missing: readonly string[],
  extra: readonly string[],
  infos: ReadonlyMap<string, TensorInfo>,
  configFile: string,
): string {
  if ([...infos.keys()].some((name) => name.includes('lora_')))
    return 'This is an adapter: give the base model as the model and this folder as the adapter.';
  const quantized = [...infos.keys()].find((name) =>
    /\.(qweight|qzeros|scales|absmax|quant_map|SCB|weight_format)$/.test(name),
  );
  if (quantized !== undefined) {
    const method = /\.q(weight|zeros)|\.scales$/.test(quantized) ? 'GPTQ or AWQ' : 'bitsandbytes';
    return `The weights are quantized by ${method}: start from the unquantized model; --q_lora keeps it in 4 bits.`;
  }
  if (missing.length > 0 && extra.length === 0)
    return 'The checkpoint is incomplete: copy or download all of its files again.';
  return `Weights and configuration belong to different models: put the weights' own config.json at ${configFile}.`;
}

/**
 * Writes the model as a checkpoint folder that transformers loads: all tensors under their names in shards of at most `maxShardBytes`,
 * config.json with the weights' type, and, from the source folder, the tokenizer, processor and code files. The folder must not hold
 * weights yet.
 */
export function saveCheckpoint(model: MiniCPMV, folder: string, options: SaveOptions = {}): void {
  const { source, dtype, maxShardBytes = MAX_SHARD_BYTES, onBytes } = options;
  mkdirSync(folder, { recursive: true });
  refuseOldWeights(folder);
  scope(() => {
    const tensors = checkpointTensors(model, source);
    const carried = new Set(source?.carried.filter((name) => name !== headOf(model)));
    const dtypeOf = (name: string, tensor: TensorKind): DType =>
      dtype === undefined || carried.has(name) ? tensor.dtype : dtype;
    const sizes = [...tensors].map(([name, tensor]) => tensor.numel * DTYPES[dtypeOf(name, tensor)].bytes);
    onBytes?.(sizes.reduce((sum, size) => sum + size, 0));
    writeShardedSafetensors(folder, tensors, { maxShardBytes, dtypeOf });
  });
  writeCheckpointFiles(model, folder, options);
}

/** The tensors of the checkpoint that a model is saved as, in the order of its shards. In the caller's scope. */
export function checkpointTensors(model: MiniCPMV, source: WeightSource | undefined): Map<string, Tensor> {
  const adapted = [...model.namedModules()].find(
    ([, module]) => module instanceof Linear && module.adapter !== undefined,
  );
  assert.equal(adapted, undefined, `adapters must be merged before the model is saved: ${adapted?.[0]}`);
  const tensors = new Map([...model.namedParameters()].map(([name, parameter]) => [name, parameter.data]));
  for (const name of source?.carried ?? []) {
    const tied = name === headOf(model); // a copy that tied checkpoints may have: it follows the embeddings
    tensors.set(name, tied ? model.llm.model.embedTokens.weight.data : source!.tensors.tensor(name));
  }
  return tensors;
}

/** Writes what a checkpoint has beside weights: config.json, and what is copied from the source. */
export function writeCheckpointFiles(
  model: MiniCPMV,
  folder: string,
  {
    source,
    dtype,
    slice,
    video,
    encoding,
  }: Pick<SaveOptions, 'source' | 'dtype' | 'slice' | 'video' | 'encoding'> = {},
): void {
  if (source !== undefined) copySideFiles(source.folder, folder);
  const saved = dtype ?? model.llm.model.embedTokens.weight.data.dtype;
  const sliced = withSlice(model.config, slice ?? model.config.slice);
  const read = withVideo(sliced, video ?? model.config.video);
  const { text } = withEncoding(read, encoding ?? model.config.encoding);
  writeAtomically(join(folder, 'config.json'), configText(text, saved));
  if (source !== undefined) setPreprocessorSlice(source.folder, folder, sliced);
}

function refuseOldWeights(folder: string): void {
  const old = readdirSync(folder).find((name) => /^model.*\.safetensors(\.index\.json)?$/.test(name));
  if (old === undefined) return;
  throw new UserError(`Expected a folder without weights for the saved checkpoint but received one with ${old}.`, {
    file: folder,
    cure: 'Give another folder, or delete the old weights first.',
  });
}

const SIDE_FILES = new Set(['.py', '.json', '.jinja', '.model', '.txt', '.tiktoken']);
/** Of a base that is the result of a training: its run's own files. */
const OF_A_RUN = new Set<string>([RUN_FILES.config, RUN_FILES.result, RUN_FILES.profile, RUN_FILES.manifest]);

/** Copies tokenizer, processor, generation settings and the model's code. */
function copySideFiles(from: string, to: string): void {
  if (realpathSync(from) === realpathSync(to)) return;
  for (const name of sideFiles(from)) copyFileSync(join(from, name), join(to, basename(name)));
}

/** Names of the files of a checkpoint folder that `saveCheckpoint` copies beside the weights. */
export function sideFiles(folder: string): string[] {
  return readdirSync(folder, { withFileTypes: true })
    .filter((entry) => !entry.isDirectory() && SIDE_FILES.has(extname(entry.name)))
    .map(({ name }) => name)
    .filter((name) => name !== 'config.json' && !name.endsWith('.index.json') && !OF_A_RUN.has(name));
}

const PREPROCESSOR = 'preprocessor_config.json';

/** The slices of Python's image processor, where they are others than those of the source: it reads them from a file of its own. */
function setPreprocessorSlice(from: string, to: string, { slice }: ModelConfig): void {
  const file = join(to, PREPROCESSOR);
  if (!existsSync(file)) return;
  const before = readConfig(from).slice;
  if (before.maxSliceNums === slice.maxSliceNums && before.scaleResolution === slice.scaleResolution) return;
  const raw = JSON.parse(readFileSync(file, 'utf8')) as Record<string, unknown>;
  const changed = { ...raw, max_slice_nums: slice.maxSliceNums, scale_resolution: slice.scaleResolution };
  writeAtomically(file, `${JSON.stringify(changed, null, 2)}\n`);
}

/** The config's own text with the type of the weights put in; nothing else changes. */
function configText(text: string, dtype: DType): string {
  const key = /"(torch_dtype|dtype)"(\s*):(\s*)"[^"]*"/;
  if (key.test(text)) return text.replace(key, `"$1"$2:$3"${dtype}"`);
  return text.replace('{', `{\n  "torch_dtype": "${dtype}",`);
}

function writeAtomically(path: string, text: string): void {
  const temporary = `${path}.${process.pid}.tmp`;
  writeFileSync(temporary, text);
  renameSync(temporary, path);
}
