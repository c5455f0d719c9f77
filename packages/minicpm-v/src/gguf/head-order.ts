/**
 * The order of value heads in llama.cpp. Where linear attention has more value heads than key heads, checkpoints have the value heads of a key head
 * side by side; files have the first value head of every key head, then the second of every one, and so on.
 */
import type { LlmConfig } from '@minicpm-finetune/processor';
import { ops, type Tensor } from '@minicpm-finetune/torch';

/** Blocks of `size` rows or columns: at place i of the file stands block `blocks[i]` of the checkpoint. */
export interface HeadOrder {
  readonly size: number;
  readonly blocks: readonly number[];
}

/** Of the rows of a module of the file; null: they stay in their order. */
export function rowOrder(llm: LlmConfig, module: string): HeadOrder | null {
  const part = partOf(module);
  if (part === 'ssm_alpha' || part === 'ssm_beta' || part === 'ssm_a' || part === 'ssm_dt') return valueHeads(llm, 1);
  if (part === 'attn_gate') return valueHeads(llm, llm.linearAttention!.valueHeadDim);
  if (part === 'attn_qkv' || part === 'ssm_conv1d') return afterKeys(llm);
  return null;
}

/** Of the columns of a module of the file; null: they stay in their order. */
export function columnOrder(llm: LlmConfig, module: string): HeadOrder | null {
  return partOf(module) === 'ssm_out' ? valueHeads(llm, llm.linearAttention!.valueHeadDim) : null;
}

const partOf = (module: string): string => module.slice(module.lastIndexOf('.') + 1);

function valueHeads({ linearAttention }: LlmConfig, size: number): HeadOrder | null {
  const { numKeyHeads, numValueHeads } = linearAttention!;
  if (numKeyHeads === numValueHeads) return null;
  const each = numValueHeads / numKeyHeads;
  const blocks = Array.from(
    { length: numValueHeads },
    (_, i) => (i % numKeyHeads) * each + Math.floor(i / numKeyHeads),
  );
  return { size, blocks };
}

/** Queries and keys first, whose heads are as wide as those of the values (limits.ts). */
function afterKeys(llm: LlmConfig): HeadOrder | null {
  const { numKeyHeads, keyHeadDim } = llm.linearAttention!;
  const values = valueHeads(llm, keyHeadDim);
  if (values === null) return null;
  const before = Array.from({ length: 2 * numKeyHeads }, (_, i) => i);
  return { size: keyHeadDim, blocks: [...before, ...values.blocks.map((block) => before.length + block)] };
}

/** Blocks of a tensor along a dimension, in the order of the file. */
export function inOrder(x: Tensor, dim: 0 | 1, { size, blocks }: HeadOrder): Tensor {
  return ops.cat(
    blocks.map((block) => ops.narrow(x, dim, block * size, size)),
    dim,
  );
}
