/** How a checkpoint reads conversations. Tokenizer, chat template and slicing; needs no weights. */
import {
  type ChatMessage,
  type ChatTemplate,
  chatTemplate,
  checkVocabulary,
  type EncodedPrompt,
  encodePrompt,
  type ModelConfig,
  modelInput,
  type PromptOptions,
  readConfig,
  Tokenizer,
  VERSIONS,
} from '@minicpm-finetune/processor';
import { modelOrigin } from '../adapters/family.js';
import { inspectAdapter } from '../adapters/folder.js';
import { slicesOfAdapters } from '../adapters/slices.js';

/** How a conversation is read. */
export interface ReadingOptions {
  /** Most slices a picture is cut into; those of the training when absent. */
  readonly maxSliceNums?: number;
  /** Side in pixels of the square a slice's area aims at; that of the training when absent. */
  readonly scaleResolution?: number;
  /** Relative paths of pictures count from here; from the working folder when absent. */
  readonly imageRoot?: string;
  /** Read special tokens in the text as plain text; otherwise they are an error. */
  readonly allowSpecialText?: boolean;
  readonly maxImagePixels?: number;
  /** The last turn is the beginning of an answer, which the model continues. */
  readonly continueFinal?: boolean;
}

export class PromptEncoder {
  readonly config: ModelConfig;
  readonly template: ChatTemplate;
  /** How pictures are cut unless options say otherwise: as in the training of the last adapter, or as the checkpoint says. */
  readonly slice: ModelConfig['slice'];

  constructor(config: ModelConfig, template: ChatTemplate, slice: ModelConfig['slice'] = config.slice) {
    this.config = config;
    this.template = template;
    this.slice = slice;
  }

  /** That of the checkpoint in a folder, with the slices of adapters. Throws UserError for a folder that cannot be used. */
  static open(folder: string, adapters: readonly string[] = []): PromptEncoder {
    const config = readConfig(folder);
    const { llmType } = VERSIONS[config.version];
    const tokenizer = Tokenizer.load(folder);
    checkVocabulary(tokenizer, config.llm.vocabSize);
    const trained = adapters.map((adapter) => {
      const { manifest } = inspectAdapter(adapter, modelOrigin(config));
      return { adapter, slices: manifest?.slices ?? null };
    });
    const { slice } = slicesOfAdapters(trained, config.slice);
    return new PromptEncoder(config, chatTemplate(llmType, tokenizer), slice);
  }

  /** How `options` cut pictures. */
  sliceFor({ maxSliceNums, scaleResolution }: ReadingOptions): ModelConfig['slice'] {
    return {
      ...this.slice,
      maxSliceNums: maxSliceNums ?? this.slice.maxSliceNums,
      scaleResolution: scaleResolution ?? this.slice.scaleResolution,
    };
  }

  /** A conversation as a prompt. Throws UserError naming the turn. */
  async encode(messages: readonly ChatMessage[], options: ReadingOptions = {}): Promise<EncodedPrompt> {
    return await encodePrompt(messages, this.promptOptions(options));
  }

  promptOptions(options: ReadingOptions = {}): PromptOptions {
    const { allowSpecialText, imageRoot, maxImagePixels, continueFinal } = options;
    return {
      tokenizer: this.template.tokenizer,
      ...modelInput(this.config, { slice: this.sliceFor(options) }),
      ...(allowSpecialText === undefined ? {} : { allowSpecialText }),
      ...(imageRoot === undefined ? {} : { imageRoot }),
      ...(maxImagePixels === undefined ? {} : { maxImagePixels }),
      ...(continueFinal === undefined ? {} : { continueFinal }),
    };
  }
}
