/**
 * Which type each tensor of a file gets. The choices are those of llama.cpp's converter (f32, f16, bf16, q8_0) and of
 * its quantizer (Q4_K_M), so that files are alike.
 */
import type { Outtype } from '@minicpm-finetune/run';
import { TENSOR_TYPES, type TensorType } from './format.js';

/** `general.file_type`. */
export const FILE_TYPES: Readonly<Record<Outtype, number>> = { f32: 0, f16: 1, q8_0: 7, q4_k_m: 15, bf16: 32 };

/** The type of the image encoder's matrices: at least 16 bits, which pictures need more than text. */
export const MMPROJ_TYPES = {
  f32: 'f32',
  f16: 'f16',
  bf16: 'bf16',
  q8_0: 'f16',
  q4_k_m: 'f16',
} as const satisfies Record<Outtype, Outtype>;

export type MmprojType = (typeof MMPROJ_TYPES)[keyof typeof MMPROJ_TYPES];

/** What decides about a tensor of the language model. */
export interface TensorPlace {
  /** Its name in the file. */
  readonly name: string;
  readonly shape: readonly number[];
  readonly numLayers: number;
  /** Whether the token table is the output head as well. */
  readonly tied: boolean;
}

export function languageType(outtype: Outtype, place: TensorPlace): TensorType {
  if (place.shape.length === 1 || /(_norm|ssm_conv1d)\.weight$/.test(place.name)) return 'f32';
  if (outtype !== 'q4_k_m') return fitting(outtype, place.shape);
  return fitting(isPrecise(place) ? 'q6_k' : 'q4_k', place.shape);
}

/** Tensors that Q4_K_M stores with six bits: the output head, and of some layers the values (or what has them) and the second feed-forward matrix. */
function isPrecise({ name, numLayers, tied }: TensorPlace): boolean {
  if (name === 'output.weight' || (tied && name === 'token_embd.weight')) return true;
  const layer = /^blk\.(\d+)\.(?:attn_v|attn_qkv|ffn_down)\.weight$/.exec(name)?.[1];
  return layer !== undefined && needsMore(Number(layer), numLayers);
}

/** The first and the last eighth of the layers, and every third between. */
function needsMore(layer: number, numLayers: number): boolean {
  const eighth = Math.floor(numLayers / 8);
  return layer < eighth || layer >= Math.floor((7 * numLayers) / 8) || (layer - eighth) % 3 === 2;
}

const FALLBACKS = { q4_k: 'q5_0', q6_k: 'q8_0', q5_0: 'f16', q8_0: 'f16' } as const satisfies Partial<
  Record<TensorType, TensorType>
>;

/** The type, or the next larger one whose blocks fill rows of this width. */
function fitting(type: TensorType, shape: readonly number[]): TensorType {
  if (shape.at(-1)! % TENSOR_TYPES[type].numbers === 0) return type;
  return fitting(FALLBACKS[type as keyof typeof FALLBACKS], shape);
}
