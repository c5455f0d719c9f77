/**
 * NEFTune: uniform noise on token embeddings. Jain et al., "Noisy Embeddings Improve Instruction Finetuning", 2023, as
 * transformers does it: in training, every number of the token embeddings (B, L, D) gets uniform noise of ±alpha /
 * sqrt(L · D), padding counted in L. The noise is on the table's output, before MiniCPM's scaling, and pictures replace
 * what it did in their places.
 *
 * It is put around a plan from outside; the models know nothing of it.
 */
import type { MiniCPMV, ModelInputs, Plan } from '@minicpm-finetune/minicpm-v';
import { fromTypedArray, noGrad, ops, scope, type Tensor } from '@minicpm-finetune/torch';

/** The plan with noise on its token embeddings. The noise is drawn in the block, so recomputing it draws the same again. */
export function withNoise(plan: Plan, inputs: ModelInputs, model: MiniCPMV, alpha: number): Plan {
  return plan.map((node) => {
    if (node.name !== model.llm.tableName) return node;
    return {
      ...node,
      forward: (...from: Tensor[]) => {
        const embeds = node.forward(...from);
        return ops.add(embeds, noise(embeds, inputs, alpha, model.config.llm.embeddingScale));
      },
    };
  });
}

/** Noise for embeddings (B, L, D), zero where pictures are. */
function noise(embeds: Tensor, { imageBounds }: ModelInputs, alpha: number, scale: number): Tensor {
  const [B, L, D] = embeds.shape as [number, number, number];
  const magnitude = (alpha / Math.sqrt(L * D)) * scale;
  return noGrad(() =>
    scope(() => {
      const all = ops.uniform_(ops.emptyLike(embeds), -magnitude, magnitude);
      const rows = imageBounds.flatMap((bounds, b) =>
        bounds.flatMap(([start, end]) => Array.from({ length: end - start }, (_, i) => BigInt(b * L + start + i))),
      );
      if (rows.length === 0) return all;
      const index = fromTypedArray(BigInt64Array.from(rows), [rows.length], 'int64', all.device);
      const none = ops.zeros([rows.length, D], { dtype: all.dtype, device: all.device });
      return ops.reshape(ops.indexCopy(ops.reshape(all, [B * L, D]), 0, index, none), [B, L, D]);
    }),
  );
}
