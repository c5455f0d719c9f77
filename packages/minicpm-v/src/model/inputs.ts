/** The inputs of a forward pass: types only. */
import type { Tensor } from '@minicpm-finetune/torch';
import type { Picture } from './patches.js';

/** One batch. The tensors stay the caller's and must live as long as plans made of them. */
export interface ModelInputs {
  /** (B, L) int64, padded on the right (on the left for generation) */
  readonly inputIds: Tensor;
  /** The same ids row by row, where they are at hand: nobody then has to wait for the device to read them. */
  readonly ids?: BigInt64Array;
  /** (B, L) int64, or (3, B, L): time, row and column of models with a canvas; with `rows`, of the sequences one after the other */
  readonly positionIds: Tensor;
  /** Pictures of each sequence, in the order of the text. */
  readonly pictures: readonly (readonly Picture[])[];
  /** Half-open token ranges of each sequence's pictures, in the same order, each as long as its picture has tokens. */
  readonly imageBounds: readonly (readonly (readonly [start: number, end: number])[])[];
  /** How many pictures of each sequence share each range, frames of a video that become the tokens of one picture; absent: one each. */
  readonly groups?: readonly (readonly number[])[];
  /** Lengths of sequences that are packed into the one row of this batch (B = 1), without padding; absent: a sequence a row. */
  readonly lengths?: readonly number[];
  /**
   * Where packed sequences share their first tokens, which are in the row once: of the sequences one after the other, the place in the row of
   * each token. Together they have as many tokens as `lengths` say; each place of the row occurs. Absent: nothing is shared.
   */
  readonly rows?: BigInt64Array;
}

/** Features of the pictures of a batch, computed earlier: constants that replace the vision side in a plan. */
export interface KnownPictures {
  /** features: the tower's output, (rows * cols of it, vision width). tokens: the connector's, (Q, D). */
  readonly level: 'features' | 'tokens';
  /** One for each picture of the batch, in order. They stay the caller's and must live as long as the plan. */
  readonly values: readonly Tensor[];
}

export interface PlanOptions {
  /** Whether gradients will be wanted: a token table that trains is then read through a node of the rows that occur. */
  readonly train: boolean;
  /**
   * Gives rows of the token table (R, D), which are asked for in ascending order, where the table itself is not there: training or not, the plan
   * then has the node of the rows. Absent: they are taken from the table. Never for a table that is the head as well.
   */
  readonly rowsOf?: (rows: BigInt64Array) => Tensor;
  /**
   * Where vision tower or resampler train, a batch without pictures runs a zero picture whose tokens count zero times, so that their parameters
   * get zero gradients instead of none: what the official trainer does.
   */
  readonly zeroPicture?: boolean;
  /** Not where the pictures of a batch influence each other (2.5). */
  readonly known?: KnownPictures;
  /**
   * Whether pictures of all shapes lie one after the other in a row that goes through tower and resampler at once, instead of the pictures of
   * one shape as a batch. Absent: where attention over such a row is one call, as it is in half precision on a GPU with flash attention.
   */
  readonly packPictures?: boolean;
}
