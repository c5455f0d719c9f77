/**
 * Reads a folder of reference results of the data pipeline. Its JSON files and arrays become plain data. The README of
 * such a folder lists its files; nothing is checked here.
 */
import { createHash } from 'node:crypto';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { PictureTokens, SliceConfig } from '@minicpm-finetune/processor';
import { type LlmType, UserError } from '@minicpm-finetune/run';

/** An array of a safetensors file. int64 is read into numbers. */
export interface StoredArray {
  shape: number[];
  data: ArrayLike<number>;
}

/** How images are cut in a sample. */
export interface Profile {
  sliceConfig: SliceConfig | null;
  patchSize: number;
  pictureTokens: PictureTokens;
}

export interface Sample {
  id: string;
  options: { profile: string; max_length: number };
  record: { image?: unknown; [key: string]: unknown };
}

interface StoredProfile {
  slice_config: { max_slice_nums: number; scale_resolution: number; patch_size: number } | null;
  patch_size: number;
  query_nums: number;
}

/** One tokenizer of the folder. */
export interface ModelCase {
  tokenizer: string;
  variant: string;
  llmType: LlmType;
  batchVision: boolean;
  /** Folder of tokenizer.json. */
  folder: string;
}

/** Chat formats by model name, for folders that do not say. */
const LLM_TYPES: Readonly<Record<string, LlmType>> = {
  'minicpm-v-2_6': 'qwen',
  'minicpm-o-2_6': 'qwen',
  'minicpm-v-4': 'llama',
  'minicpm-llama3-v-2_5': 'llama3',
  'minicpm-v-2': 'minicpm',
};

export class DataReference {
  readonly root: string;

  constructor(root: string) {
    this.root = root;
    if (existsSync(root)) return;
    throw new UserError(`Expected a folder of reference data but there is none at ${root}.`, {
      cure: 'Give the path of a folder with samples.json, slices.json, tokenize/ and so on.',
    });
  }

  path(name: string): string {
    return join(this.root, name);
  }

  has(name: string): boolean {
    return existsSync(this.path(name));
  }

  /** A JSON file, or undefined when the folder has none of that name. */
  json<T>(name: string): T | undefined {
    return this.has(name) ? (JSON.parse(readFileSync(this.path(name), 'utf8')) as T) : undefined;
  }

  /** The arrays of a safetensors file; none when the folder has no such file. */
  arrays(name: string): Map<string, StoredArray> {
    return this.has(name) ? readArrays(this.path(name)) : new Map();
  }

  /** Names of the JSON files in a sub-folder, without the ending. */
  list(folder: string): string[] {
    if (!this.has(folder)) return [];
    return readdirSync(this.path(folder))
      .filter((name) => name.endsWith('.json'))
      .map((name) => name.slice(0, -'.json'.length))
      .sort();
  }

  samples(): { samples: Sample[]; profiles: Map<string, Profile> } | undefined {
    const file = this.json<{ samples: Sample[]; profiles: Record<string, StoredProfile> }>('samples.json');
    if (!file) return undefined;
    const profiles = Object.entries(file.profiles).map(([name, stored]): [string, Profile] => {
      const slice = stored.slice_config;
      const sliceConfig = slice && {
        maxSliceNums: slice.max_slice_nums,
        scaleResolution: slice.scale_resolution,
        patchSize: slice.patch_size,
      };
      return [name, { sliceConfig, patchSize: stored.patch_size, pictureTokens: { queryNum: stored.query_nums } }];
    });
    return { samples: file.samples, profiles: new Map(profiles) };
  }

  /** A tokenizer by model name and variant, with what the folder says about it. */
  model(tokenizer: string, variant: string): ModelCase {
    const said = this.json<{ llm_type?: LlmType; batch_vision?: boolean; tokenizer_path?: string }>(
      `expected/${tokenizer}.${variant}.json`,
    );
    const llmType = said?.llm_type ?? LLM_TYPES[tokenizer];
    if (!llmType) {
      throw new UserError(`Expected a known model but received ${tokenizer}.`, {
        file: this.root,
        cure: `Name its chat format as llm_type in expected/${tokenizer}.${variant}.json.`,
      });
    }
    const tokenized = this.json<{ path?: string }>(`tokenize/${tokenizer}.${variant}.json`);
    const folder = this.path(said?.tokenizer_path ?? tokenized?.path ?? `tokenizers/${tokenizer}/${variant}`);
    return { tokenizer, variant, llmType, batchVision: said?.batch_vision ?? llmType !== 'minicpm', folder };
  }
}

const READERS: Readonly<Record<string, (bytes: ArrayBuffer) => ArrayLike<number>>> = {
  I64: (bytes) => Float64Array.from(new BigInt64Array(bytes), Number),
  I32: (bytes) => new Int32Array(bytes),
  F32: (bytes) => new Float32Array(bytes),
  U8: (bytes) => new Uint8Array(bytes),
  BOOL: (bytes) => new Uint8Array(bytes),
};

/** Reads small safetensors files into typed arrays, without libtorch. */
function readArrays(path: string): Map<string, StoredArray> {
  const file = readFileSync(path);
  const start = 8 + Number(file.readBigUInt64LE(0));
  const header = JSON.parse(file.toString('utf8', 8, start)) as Record<
    string,
    { dtype: string; shape: number[]; data_offsets: [number, number] }
  >;
  const arrays = new Map<string, StoredArray>();
  for (const [name, entry] of Object.entries(header)) {
    if (name === '__metadata__') continue;
    const read = READERS[entry.dtype];
    if (!read)
      throw new UserError(`Expected int64, int32, float32, uint8 or bool for ${name} but received ${entry.dtype}.`, {
        file: path,
      });
    const [from, to] = entry.data_offsets;
    const bytes = Uint8Array.from(file.subarray(start + from, start + to)).buffer; // a copy, aligned
    arrays.set(name, { shape: entry.shape, data: read(bytes) });
  }
  return arrays;
}

/** SHA-256 of an array's bytes, in hexadecimal. */
export function sha256(array: Uint8Array | Float32Array): string {
  return createHash('sha256')
    .update(new Uint8Array(array.buffer, array.byteOffset, array.byteLength))
    .digest('hex');
}

/** A flat (n, 2) array as pairs. */
export function pairs(array: StoredArray | undefined): [number, number][] {
  const flat = Array.from(array?.data ?? []);
  return Array.from({ length: flat.length / 2 }, (_, i) => [flat[2 * i]!, flat[2 * i + 1]!]);
}
