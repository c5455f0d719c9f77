/** The mergers of 4.6 and later as llama.cpp has them. One is inside the vision tower, the other makes tokens. */
import type { ModelConfig } from '@minicpm-finetune/processor';
import type { GgufValue } from './format.js';

/** How many patches of a side one token has. */
const SIDES = { '4x': 2, '16x': 4 } as const;

export function mergerKeys({ llm, merger }: ModelConfig): Record<string, GgufValue> {
  const { insertLayer, downsampleMode } = merger!;
  return {
    'clip.vision.projection_dim': { type: 'u32', value: llm.hiddenSize },
    'clip.vision.projector.scale_factor': { type: 'u32', value: SIDES[downsampleMode] },
    'clip.vision.wa_layer_indexes': { type: 'array', of: 'i32', value: [insertLayer] },
  };
}

const CONNECTOR: readonly (readonly [inFile: string, inModel: string])[] = [
  ['mm.input_norm', 'mlp.0.pre_norm'],
  ['mm.up', 'mlp.0.linear_1'],
  ['mm.down', 'mlp.0.linear_2'],
];

const IN_TOWER: readonly (readonly [inFile: string, inModel: string])[] = [
  ['ln1', 'layer_norm1'],
  ['attn_q', 'self_attn.q_proj'],
  ['attn_k', 'self_attn.k_proj'],
  ['attn_v', 'self_attn.v_proj'],
  ['attn_out', 'self_attn.out_proj'],
  ['ds_ln', 'pre_norm'],
  ['ds_ffn_up', 'linear_1'],
  ['ds_ffn_down', 'linear_2'],
];

/** Modules of both mergers: their names in the file and in the checkpoint. The one in the tower is not used where four patches become a token. */
export function mergerModules(
  { merger }: ModelConfig,
  { vision, connector }: { readonly vision: string; readonly connector: string },
): (readonly [inFile: string, inModel: string])[] {
  const inTower = IN_TOWER.map(
    ([inFile, inModel]) => [`v.vit_merger.${inFile}`, `${vision}.vit_merger.${inModel}`] as const,
  );
  return [
    ...CONNECTOR.map(([inFile, inModel]) => [inFile, `${connector}.${inModel}`] as const),
    ...(merger!.downsampleMode === '4x' ? [] : inTower),
  ];
}
