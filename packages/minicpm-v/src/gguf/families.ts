/** The differences between the models in GGUF files, as data. llama.cpp's names and numbers for each. */
import { VERSIONS, type VersionName } from '@minicpm-finetune/processor';
import { UserError } from '@minicpm-finetune/run';

export interface GgufFamily {
  /** `general.architecture` of the language model. */
  readonly architecture: 'minicpm' | 'llama' | 'qwen2';
  /** Whether rows of the query and key projections are reordered: llama.cpp turns neighbouring numbers there, transformers the halves of a head. */
  readonly interleaved: boolean;
  /** `tokenizer.ggml.pre`: how text is split before byte-level BPE. */
  readonly pre: 'default' | 'llama-bpe' | 'qwen2';
  /** `clip.minicpmv_version`; null: llama.cpp does not read this model's vision tower. */
  readonly vision: number | null;
}

const FAMILIES: Readonly<Partial<Record<VersionName, GgufFamily>>> = {
  'minicpm-v-2': { architecture: 'minicpm', interleaved: true, pre: 'default', vision: null },
  'minicpm-llama3-v-2_5': { architecture: 'llama', interleaved: true, pre: 'llama-bpe', vision: 2 },
  'minicpm-v-2_6': { architecture: 'qwen2', interleaved: false, pre: 'qwen2', vision: 3 },
  'minicpm-o-2_6': { architecture: 'qwen2', interleaved: false, pre: 'qwen2', vision: 4 },
  'minicpm-v-4': { architecture: 'llama', interleaved: true, pre: 'default', vision: 5 },
};

/** How a model is written. @throws UserError for a model that this version does not write as GGUF */
export function familyOf(version: VersionName): GgufFamily {
  const family = FAMILIES[version];
  if (family !== undefined) return family;
  const known = Object.keys(FAMILIES).map((name) => VERSIONS[name as VersionName].title);
  throw new UserError(`Expected a model that GGUF is written of but received ${VERSIONS[version].title}.`, {
    flag: '--format',
    cure: `Known are ${known.join(', ')}. --format safetensors writes a folder for transformers, vLLM and SGLang.`,
  });
}
