/** The types of encoded samples. Encoder, loader, collator and generation share them. */
import type { Compat, LlmType, ThinkingMode } from '@minicpm-finetune/run';
import type { SliceConfig } from './image/geometry.js';
import type { EncodedPicture } from './image/pictures.js';
import type { CanvasMarks } from './model-config.js';
import type { PictureTokens } from './picture-tokens.js';
import type { Tokenizer } from './tokenizer.js';
import type { VideoLimits } from './video/ffmpeg.js';
import type { VideoConfig } from './video-config.js';

export type { EncodedPicture };

/** Half-open ranges of tokens. */
export type Range = [start: number, end: number];

/** One record ready for the collator: pure data, structured-cloneable, no tensors. */
export interface EncodedSample {
  /** (L) */
  inputIds: Int32Array;
  /** (L), already shifted: labels[i] is the id at i + 1, -100 where nothing is supervised. */
  labels: Int32Array;
  /** Half-open token ranges, one per picture (or group of frames), in order of the text. */
  imageBounds: Range[];
  /** In the order of imageBounds. */
  pictures: EncodedPicture[];
  /** Pictures of each range, where frames of a video form groups; absent: one each. */
  groups?: number[];
  /** (3 * L): positions in time, rows and columns of a model with a canvas, one after the other; of two answers, L counts both whole; absent: 0, 1, … */
  positionIds?: Int32Array;
  /** Its videos, for whoever shows them; absent: none. */
  videos?: EncodedVideo[];
  /** Of two answers that are compared: how the tokens divide into two sequences. Absent: they are one. */
  answers?: TwoAnswers;
}

/** Two sequences in one row: the first one whole, then of the second one what it does not share with the first. */
export interface TwoAnswers {
  /** Tokens at the beginning that both sequences have; they are in the row once. */
  shared: number;
  /** Tokens of the first sequence, the shared ones included. */
  first: number;
  /** Whether the first answer is called good; absent: it is compared with the other one. */
  desirable?: boolean;
}

/** What a sample shows of a video. */
export interface EncodedVideo {
  /** Its ranges among the sample's. */
  bounds: Range;
  /** When its frames were taken, in seconds. */
  times: number[];
}

/** A prompt ready for generation. */
export type EncodedPrompt = Omit<EncodedSample, 'labels'>;

/** What to do with a record longer than `maxLength`. */
export type Overlong = 'fewer_slices' | 'truncate_text' | 'drop' | 'error';

/** A change of a record that is counted. */
export interface EncodeNotice {
  kind: 'first_frame' | 'fewer_slices' | 'fewer_frames' | 'truncate_text' | 'drop';
  message: string;
}

/** How one model reads images and conversations. */
export interface ModelInput {
  tokenizer: Tokenizer;
  llmType: LlmType;
  /** null: images keep their size and are not cut. */
  sliceConfig: SliceConfig | null;
  /** Pixels on the side of a patch. */
  patchSize: number;
  /** How many features a picture has for the language model. */
  pictureTokens: PictureTokens;
  /** Pictures in patch layout (all models but MiniCPM-V-2). */
  batchVision: boolean;
  /** Whether pictures are numbered where the format can. Default: true. */
  imageIds?: boolean;
  /** null or absent: tokens have one position each. */
  canvas?: CanvasMarks | null;
  /** null or absent: the model reads no videos. */
  video?: VideoConfig | null;
}

export interface PromptOptions extends ModelInput {
  /** Read special tokens in the text as plain text; otherwise they are an error. Default: false. */
  allowSpecialText?: boolean;
  /** Largest image accepted, in pixels. Default: Pillow's limit of 179 million. */
  maxImagePixels?: number;
  /** Relative paths of images count from here. Default: the working folder. */
  imageRoot?: string;
  /** The last turn is the beginning of an answer, which the model continues. Default: false, it answers the last turn. */
  continueFinal?: boolean;
  /** Whether the model shall think before it answers, where it can. Default: false. */
  enableThinking?: boolean;
  notice?: (notice: EncodeNotice) => void;
  /** Of videos that a stranger sent: how far they are read. */
  videoLimits?: VideoLimits | undefined;
}

export interface RecordOptions extends PromptOptions {
  /** Longest sequence in tokens. */
  maxLength: number;
  /** Default: 'inference'. */
  compat?: Compat;
  /** Default: 'inference'. */
  thinking?: ThinkingMode;
  /** Default: 'fewer_slices', which falls back to 'truncate_text'. */
  overlong?: Overlong;
  /**
   * false: the sample has no pictures, only their places; images and videos are still checked to be whole (not for 'official').
   * 'header': no pictures either, and of images and videos only headers are read. Default: true.
   */
  pixels?: boolean | 'header';
}
