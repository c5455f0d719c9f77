/**
 * Exports a checkpoint, with adapters merged into it, as GGUF. A file with the language model, and one with vision tower
 * and resampler (`mmproj`); or an adapter alone. They are written under other names and read back before they appear.
 */
import { join } from 'node:path';
import {
  type ChatTemplate,
  chatTemplate,
  checkVocabulary,
  type ModelConfig,
  readConfig,
  Tokenizer,
  VERSIONS,
} from '@minicpm-finetune/processor';
import type { Outtype } from '@minicpm-finetune/run';
import type { HashProgress } from '../checkpoint/content.js';
import { inNewFolder } from '../checkpoint/new-folder.js';
import { writeAdapterGguf } from './adapter.js';
import { ggufChatTemplate } from './chat-template.js';
import { differences } from './differences.js';
import { familyOf } from './families.js';
import type { GgufMetadata } from './format.js';
import { languageMetadata, languageTensors } from './language-model.js';
import { refuseSizes } from './limits.js';
import { MergedWeights } from './merged-weights.js';
import { writeModelfile } from './modelfile.js';
import { MMPROJ_TYPES } from './outtype.js';
import { visionMetadata, visionTensors } from './vision.js';
import { vocabularyOf } from './vocabulary.js';
import { type GgufTensor, ggufBytes, writeGguf } from './writer.js';

export interface ExportOptions {
  /** Folder of the base checkpoint. */
  readonly model: string;
  /** Adapter folders, each applied on top of the previous result. */
  readonly adapters?: readonly string[];
  /** Folder to make. It must not exist, or be empty. */
  readonly output: string;
  readonly outtype: Outtype;
  /** Bytes written and read back, of all. */
  readonly onProgress?: (done: number, of: number) => void;
  readonly onHash?: HashProgress;
}

/** What was written. */
export interface GgufExport {
  /** The language model's file. */
  readonly model: string;
  /** Vision tower and resampler; null: llama.cpp does not read those of this model. */
  readonly mmproj: string | null;
  /** Ollama's description of the model. */
  readonly modelfile: string;
  readonly bytes: number;
  /** What a user should know of the adapters, and of what llama.cpp does otherwise. */
  readonly notices: readonly string[];
}

/** One file of an export. */
interface File {
  readonly name: string;
  readonly metadata: GgufMetadata;
  readonly tensors: ReadonlyMap<string, GgufTensor>;
}

/**
 * Writes the files into a new folder, reading and writing a few rows at a time.
 *
 * @throws UserError for what does not fit, or has no form in GGUF
 */
export function exportGguf(options: ExportOptions): GgufExport {
  const { model, adapters = [], output, outtype, onHash } = options;
  const { config, template } = openForExport(model);
  return inNewFolder(output, { what: 'the exported model', flag: '--output' }, (folder, claim) => {
    using weights = new MergedWeights(config, { model, adapters, ...(onHash === undefined ? {} : { onHash }) });
    const vocabulary = vocabularyOf(config, model);
    const files = filesOf(config, weights, outtype, [
      ...vocabulary.metadata,
      ['tokenizer.chat_template', { type: 'string', value: ggufChatTemplate(template) }],
    ]);
    const sizes = files.map(({ metadata, tensors }) => ggufBytes(metadata, tensors));
    const bytes = sizes.reduce((sum, size) => sum + size, 0);
    claim(bytes);
    writeFiles(folder, files, sizes, options.onProgress);
    const [language, mmproj] = files.map(({ name }) => name) as [string, string | undefined];
    const modelfile = writeModelfile(folder, { model: language, mmproj: mmproj ?? null, template });
    return {
      model: join(output, language),
      mmproj: mmproj === undefined ? null : join(output, mmproj),
      modelfile: join(output, modelfile),
      bytes,
      notices: [...weights.notices, ...vocabulary.notices, ...differences(config, weights)],
    };
  });
}

/** The model's configuration and how it reads conversations. */
function openForExport(folder: string): { readonly config: ModelConfig; readonly template: ChatTemplate } {
  const config = readConfig(folder);
  const tokenizer = Tokenizer.load(folder);
  checkVocabulary(tokenizer, config.llm.vocabSize);
  refuseSizes(config);
  return { config, template: chatTemplate(VERSIONS[config.version].llmType, tokenizer) };
}

function filesOf(
  config: ModelConfig,
  weights: MergedWeights,
  outtype: Outtype,
  vocabulary: Iterable<readonly [string, GgufMetadata extends ReadonlyMap<string, infer V> ? V : never]>,
): File[] {
  const { title } = VERSIONS[config.version];
  const tensors = languageTensors(config, weights, outtype);
  const metadata = new Map([...languageMetadata(config, outtype, tensors), ...vocabulary]);
  const language = { name: `${title}-${outtype}.gguf`, metadata, tensors };
  if (familyOf(config).projector === null) return [language];
  const type = MMPROJ_TYPES[outtype];
  return [
    language,
    {
      name: `mmproj-${title}-${type}.gguf`,
      metadata: visionMetadata(config, weights.slice, type),
      tensors: visionTensors(config, weights, type),
    },
  ];
}

function writeFiles(
  folder: string,
  files: readonly File[],
  sizes: readonly number[],
  onProgress: ((done: number, of: number) => void) | undefined,
): void {
  const all = sizes.reduce((sum, size) => sum + size, 0);
  let before = 0; // written and read back
  files.forEach(({ name, metadata, tensors }, i) => {
    const tell = (done: number): void => onProgress?.(before + done, 2 * all);
    writeGguf(join(folder, name), metadata, tensors, {
      onWrite: tell,
      onVerify: (done) => tell(sizes[i]! + done),
    });
    before += 2 * sizes[i]!;
  });
}

/** What was written of an adapter alone. */
export interface GgufAdapterExport {
  readonly adapter: string;
  readonly notices: readonly string[];
}

/** Writes an adapter alone into a new folder. @throws UserError for an adapter that has no form in GGUF */
export function exportGgufAdapter(
  options: Pick<ExportOptions, 'model' | 'output' | 'onHash'> & { readonly adapter: string },
): GgufAdapterExport {
  const { model, adapter, output, onHash } = options;
  const { config } = openForExport(model);
  const name = `${VERSIONS[config.version].title}-lora.gguf`;
  return inNewFolder(output, { what: 'the exported adapter', flag: '--output' }, (folder) => {
    const notices = writeAdapterGguf(join(folder, name), config, { model, adapter, onHash });
    return { adapter: join(output, name), notices };
  });
}
