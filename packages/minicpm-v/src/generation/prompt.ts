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
  type VideoChoices,
  type VideoLimits,
  videoOf,
} from '@minicpm-finetune/processor';
import { UserError } from '@minicpm-finetune/run';
import { modelOrigin } from '../adapters/family.js';
import { inspectAdapter } from '../adapters/folder.js';
import { slicesOfAdapters } from '../adapters/slices.js';
import { videosOfAdapters } from '../adapters/videos.js';

/** How pictures are cut, and videos read. */
export type Reading = Pick<ModelConfig, 'slice' | 'video'>;

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
  /** Whether the model thinks before it answers; a chat template without think blocks refuses it. Default: false. */
  readonly enableThinking?: boolean;
  /** How videos are read; as in the training when absent. */
  readonly video?: VideoChoices;
  /** Of videos that a stranger sent: how far they are read. */
  readonly videoLimits?: VideoLimits | undefined;
}

export class PromptEncoder {
  readonly config: ModelConfig;
  readonly template: ChatTemplate;
  /** How pictures are cut unless options say otherwise: as in the training of the last adapter, or as the checkpoint says. */
  readonly slice: ModelConfig['slice'];
  /** How videos are read, likewise; null: not at all. */
  readonly video: ModelConfig['video'];

  constructor(config: ModelConfig, template: ChatTemplate, { slice, video }: Reading = config) {
    this.config = config;
    this.template = template;
    this.slice = slice;
    this.video = video;
  }

  /** That of the checkpoint in a folder, which reads pictures and videos as in the training of adapters. Throws UserError for a folder that cannot be used. */
  static open(folder: string, adapters: readonly string[] = []): PromptEncoder {
    const config = readConfig(folder);
    const { llmType } = VERSIONS[config.version];
    const tokenizer = Tokenizer.load(folder);
    checkVocabulary(tokenizer, config.llm.vocabSize);
    const trained = adapters.map((adapter) => {
      const { manifest } = inspectAdapter(adapter, modelOrigin(config));
      return { adapter, slices: manifest?.slices ?? null, videos: manifest?.videos ?? null };
    });
    const { slice } = slicesOfAdapters(trained, config.slice);
    const { video } = videosOfAdapters(trained, config.video);
    return new PromptEncoder(config, chatTemplate(llmType, tokenizer), { slice, video });
  }

  /** How `options` cut pictures and read videos. */
  readingFor({ maxSliceNums, scaleResolution, video }: ReadingOptions): Reading {
    const slice = {
      ...this.slice,
      maxSliceNums: maxSliceNums ?? this.slice.maxSliceNums,
      scaleResolution: scaleResolution ?? this.slice.scaleResolution,
    };
    return { slice, video: videoOf(this.video, video) };
  }

  /** A conversation as a prompt. Throws UserError naming the turn. */
  async encode(messages: readonly ChatMessage[], options: ReadingOptions = {}): Promise<EncodedPrompt> {
    return await encodePrompt(messages, this.promptOptions(options));
  }

  /** How prompts are encoded. Throws UserError where a model shall think whose chat template has no think blocks. */
  promptOptions(options: ReadingOptions = {}): PromptOptions {
    const { allowSpecialText, imageRoot, maxImagePixels, continueFinal, enableThinking, videoLimits } = options;
    if (enableThinking === true) this.#requireThinking();
    return {
      tokenizer: this.template.tokenizer,
      ...modelInput({ ...this.config, ...this.readingFor(options) }),
      ...(allowSpecialText === undefined ? {} : { allowSpecialText }),
      ...(imageRoot === undefined ? {} : { imageRoot }),
      ...(maxImagePixels === undefined ? {} : { maxImagePixels }),
      ...(continueFinal === undefined ? {} : { continueFinal }),
      ...(enableThinking === undefined ? {} : { enableThinking }),
      ...(videoLimits === undefined ? {} : { videoLimits }),
    };
  }

  /** Whether a prompt can ask for a thought: the checkpoint's chat template knows two ends of a prompt. */
  get thinks(): boolean {
    const { thinking } = this.template;
    return thinking !== null && thinking.asked !== thinking.empty;
  }

  #requireThinking(): void {
    if (this.thinks) return;
    throw new UserError(
      `Expected a chat template with think blocks for --enable_thinking true but received one of ${VERSIONS[this.config.version].title} without them.`,
      {
        flag: '--enable_thinking',
        cure: 'Leave it out, or take MiniCPM-V 4.5, 4.6 or 4.7 or MiniCPM-o 4.5 with the chat template that they come with.',
      },
    );
  }
}
