/** The resolved options of a chat. */
import type { AnswerOptions } from '@minicpm-finetune/minicpm-v';
import type { VideoChoices } from '@minicpm-finetune/processor';
import type { FloatDType } from '@minicpm-finetune/run';

export interface ChatOptions {
  /** Folder of a checkpoint. */
  readonly model: string;
  /** Adapter folders, applied in this order. */
  readonly adapters: readonly string[];
  /** Pictures put before the first question, in this order. */
  readonly images: readonly string[];
  /** Videos put after these pictures, in this order: files or folders of frames. */
  readonly videos: readonly string[];
  /** The question to answer before ending; null: a conversation on the terminal. */
  readonly prompt: string | null;
  /** System prompt; null: the model's own. */
  readonly system: string | null;
  readonly maxNewTokens: number;
  /** 0: the most likely token, always. */
  readonly temperature: number;
  readonly topP: number;
  /** 0: all tokens. */
  readonly topK: number;
  readonly repetitionPenalty: number;
  /** Whether the model thinks before it answers. */
  readonly enableThinking: boolean;
  readonly seed: number;
  /** null: the type of the weights. */
  readonly dtype: FloatDType | null;
  /** Keep the language model's linear weights as 8-bit integers. */
  readonly loadIn8Bit: boolean;
  /** Most slices a picture is cut into; null: those of the training, or the checkpoint's. */
  readonly maxSliceNums: number | null;
  /** Side in pixels of the square a slice's area aims at; null: likewise. */
  readonly scaleResolution: number | null;
  /** How frames of videos are sampled; null: as published. */
  readonly video: VideoChoices;
  readonly device: 'auto' | 'cpu' | 'cuda' | 'mps';
  /** null: one per physical core. */
  readonly threads: number | null;
}

/** How answers are made, in the model's terms. */
export function answerOptions(
  options: Pick<
    ChatOptions,
    | ('maxNewTokens' | 'temperature' | 'topP' | 'topK' | 'repetitionPenalty' | 'seed')
    | ('enableThinking' | 'maxSliceNums' | 'scaleResolution' | 'video')
  >,
): AnswerOptions {
  const { maxNewTokens, temperature, topP, topK, repetitionPenalty, seed } = options;
  const { enableThinking, maxSliceNums, scaleResolution, video } = options;
  return {
    ...{ maxNewTokens, temperature, topP, topK, repetitionPenalty, seed },
    enableThinking,
    video,
    ...(maxSliceNums === null ? {} : { maxSliceNums }),
    ...(scaleResolution === null ? {} : { scaleResolution }),
  };
}
