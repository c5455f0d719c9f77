/** The differences between the models in GGUF files, as data. llama.cpp's names and numbers for each. */
import { type ModelConfig, VERSIONS, type VersionName } from '@minicpm-finetune/processor';
import { UserError } from '@minicpm-finetune/run';

export interface GgufFamily {
  /** `general.architecture` of the language model. */
  readonly architecture: 'minicpm' | 'llama' | 'qwen2' | 'qwen3';
  /** Whether rows of the query and key projections are reordered: llama.cpp turns neighbouring numbers there, transformers the halves of a head. */
  readonly interleaved: boolean;
  /** `tokenizer.ggml.pre`: how text is split before byte-level BPE. */
  readonly pre: 'default' | 'llama-bpe' | 'qwen2';
  /** `clip.minicpmv_version`; null: llama.cpp does not read this model's vision tower. */
  readonly vision: number | null;
}

/** null: not written as GGUF. */
const FAMILIES: Readonly<Record<VersionName, GgufFamily | null>> = {
  'minicpm-v-2': { architecture: 'minicpm', interleaved: true, pre: 'default', vision: null },
  'minicpm-llama3-v-2_5': { architecture: 'llama', interleaved: true, pre: 'llama-bpe', vision: 2 },
  'minicpm-v-2_6': { architecture: 'qwen2', interleaved: false, pre: 'qwen2', vision: 3 },
  'minicpm-o-2_6': { architecture: 'qwen2', interleaved: false, pre: 'qwen2', vision: 4 },
  'minicpm-v-4': { architecture: 'llama', interleaved: true, pre: 'default', vision: 5 },
  'minicpm-v-4_5': { architecture: 'qwen3', interleaved: false, pre: 'qwen2', vision: 6 },
  'minicpm-o-4_5': { architecture: 'qwen3', interleaved: false, pre: 'qwen2', vision: 100045 },
  'minicpm-v-4_6': null,
  'minicpm-v-4_7': null,
};

/** @throws UserError for a model that is not written as GGUF */
export function familyOf({ version, file }: Pick<ModelConfig, 'version' | 'file'>): GgufFamily {
  const family = FAMILIES[version];
  if (family !== null) return family;
  throw new UserError(`Expected a model that can be written as GGUF but received ${VERSIONS[version].title}.`, {
    file,
    cure: 'Give --format safetensors, which vLLM, SGLang and transformers take.',
  });
}
