/** The configuration of a model as sizes: types only. `config.ts` reads them. */
import type { Compat, FloatDType, ThinkingMode } from '@minicpm-finetune/run';
import type { PictureTokens } from './picture-tokens.js';
import type { VersionName } from './versions.js';
import type { VideoConfig } from './video-config.js';

/** Rotary positions with two sets of divisors, for short and long sequences (LongRoPE, Ding et al., 2024). */
export interface LongRope {
  readonly shortFactor: readonly number[];
  readonly longFactor: readonly number[];
  /** The long factors apply when a sequence is longer than this. */
  readonly originalMaxPositions: number;
  /** Multiplies cosines and sines. */
  readonly attentionFactor: number;
}

/** Gated DeltaNet (Yang et al., 2025). */
export interface LinearAttentionConfig {
  readonly numKeyHeads: number;
  readonly numValueHeads: number;
  readonly keyHeadDim: number;
  readonly valueHeadDim: number;
  /** Positions that the convolution sees, its own included. */
  readonly convKernel: number;
}

export interface LlmConfig {
  readonly hiddenSize: number;
  readonly intermediateSize: number;
  readonly numLayers: number;
  readonly numHeads: number;
  readonly numKeyValueHeads: number;
  readonly headDim: number;
  readonly vocabSize: number;
  readonly rmsNormEps: number;
  /** What norms add to their weight. */
  readonly normOffset: 0 | 1;
  readonly maxPositionEmbeddings: number;
  readonly ropeTheta: number;
  /** Dimensions of a head that are rotated, its first ones. */
  readonly rotaryDim: number;
  /**
   * Where tokens have three positions (time, row, column): how many frequencies of each there are. They take turns: of the frequencies 0, 1, 2, …
   * the third one each belongs to the column, the second to the row, as far as those reach, and what is left to the time.
   */
  readonly mropeSection: readonly [time: number, row: number, column: number] | null;
  readonly longRope: LongRope | null;
  readonly qkvBias: boolean;
  readonly outputBias: boolean;
  /** Whether each head's queries and keys pass a norm before rotation. */
  readonly qkNorm: boolean;
  /** Whether the query projection has a gate beside each head, whose sigmoid multiplies the output of attention. */
  readonly outputGate: boolean;
  readonly mlpBias: boolean;
  /** The sizes of layers with linear attention, which are `linearLayers`; null: there is none. */
  readonly linearAttention: LinearAttentionConfig | null;
  readonly linearLayers: ReadonlySet<number>;
  readonly tieWordEmbeddings: boolean;
  /** Multiplies token embeddings. */
  readonly embeddingScale: number;
  /** Multiplies what every attention and MLP adds to the residual stream. */
  readonly residualScale: number;
  /** Divides the final hidden states before lm_head. */
  readonly logitDivisor: number;
}

export interface VisionConfig {
  readonly hiddenSize: number;
  readonly intermediateSize: number;
  /** Number of existing layers: one less than configured where the last is dropped. */
  readonly numLayers: number;
  readonly numHeads: number;
  readonly patchSize: number;
  /** Side of the square position table, in patches. */
  readonly positionSide: number;
  readonly layerNormEps: number;
  /** Pictures of full size (448 px, 1024 patches) that go through the tower at once. */
  readonly batchSize: number;
}

/** How patches become tokens where no resampler does it. Every merging makes one of each 2x2. */
export interface MergerConfig {
  /** The layer of the tower after which patches are merged first; not in the mode of 4x. */
  readonly insertLayer: number;
  readonly downsampleMode: DownsampleMode;
}

/** Patches that become a token. */
export type DownsampleMode = '4x' | '16x';

/** Ids of the tokens by which the places of a picture and its slices on their canvas are found. */
export interface CanvasMarks {
  readonly imageStart: number;
  readonly imageEnd: number;
  readonly sliceStart: number;
  readonly sliceEnd: number;
  readonly newline: number;
}

/** A configuration without its origin. */
export interface ModelParts {
  readonly llm: LlmConfig;
  readonly vision: VisionConfig;
  readonly pictureTokens: PictureTokens;
  /** null: a resampler makes the tokens of pictures. */
  readonly merger: MergerConfig | null;
  /** null: tokens have one position each. */
  readonly canvas: CanvasMarks | null;
  /** Whether pictures travel as strips of patches [3, patch, patch * patches]; else as [3, H, W]. */
  readonly batchVision: boolean;
  readonly sliceMode: boolean;
  readonly slice: {
    readonly maxSliceNums: number;
    readonly scaleResolution: number;
    readonly patchSize: number;
    /** What the sides of pictures and slices are multiples of, in pixels. */
    readonly multiple: number;
  };
  /** Whether sliced pictures get an image id; null where the config does not say. */
  readonly useImageId: boolean | null;
  readonly initializerRange: number;
  /** The type the checkpoint's weights were published in. */
  readonly dtype: FloatDType;
}

/** How the records of a training were encoded, by the names of the flags. */
export interface RecordEncoding {
  readonly compat: Compat;
  readonly thinking: ThinkingMode;
}

export interface ModelConfig extends ModelParts {
  readonly version: VersionName;
  /** How videos are read: as published, or as in the training that saved the checkpoint; null: not at all. */
  readonly video: VideoConfig | null;
  /** How records were encoded in the training that saved the checkpoint; as at inference where nobody wrote it down. */
  readonly encoding: RecordEncoding;
  /** The file's text, kept so that saved checkpoints carry what is not understood here. */
  readonly text: string;
  readonly file: string;
}
