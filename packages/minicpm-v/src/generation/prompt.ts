/** How a checkpoint reads conversations. Tokenizer, chat template and slicing; needs no weights. */
import {
  type ChatMessage,
  type ChatTemplate,
  chatTemplate,
  type EncodedPrompt,
  encodePrompt,
  type ModelConfig,
  type PromptOptions,
  readConfig,
  Tokenizer,
  VERSIONS,
} from '@minicpm-finetune/processor';

/** How a conversation is read. */
export interface ReadingOptions {
  /** Most slices a picture is cut into; the checkpoint's when absent. */
  readonly maxSliceNums?: number;
  /** Relative paths of pictures count from here; from the working folder when absent. */
  readonly imageRoot?: string;
  /** Read special tokens in the text as plain text; otherwise they are an error. */
  readonly allowSpecialText?: boolean;
  readonly maxImagePixels?: number;
}

export class PromptEncoder {
  readonly config: ModelConfig;
  readonly template: ChatTemplate;

  constructor(config: ModelConfig, template: ChatTemplate) {
    this.config = config;
    this.template = template;
  }

  /** That of the checkpoint in a folder. Throws UserError for one that cannot be used. */
  static open(folder: string): PromptEncoder {
    const config = readConfig(folder);
    const { llmType } = VERSIONS[config.version];
    return new PromptEncoder(config, chatTemplate(llmType, Tokenizer.load(folder)));
  }

  /** A conversation as a prompt. Throws UserError naming the turn. */
  async encode(messages: readonly ChatMessage[], options: ReadingOptions = {}): Promise<EncodedPrompt> {
    return await encodePrompt(messages, this.promptOptions(options));
  }

  promptOptions(options: ReadingOptions = {}): PromptOptions {
    const { slice, sliceMode, queryNum, batchVision } = this.config;
    const { allowSpecialText, imageRoot, maxImagePixels } = options;
    return {
      tokenizer: this.template.tokenizer,
      llmType: this.template.llmType,
      sliceConfig: sliceMode ? { ...slice, maxSliceNums: options.maxSliceNums ?? slice.maxSliceNums } : null,
      patchSize: slice.patchSize,
      queryNum,
      batchVision,
      ...(allowSpecialText === undefined ? {} : { allowSpecialText }),
      ...(imageRoot === undefined ? {} : { imageRoot }),
      ...(maxImagePixels === undefined ? {} : { maxImagePixels }),
    };
  }
}
