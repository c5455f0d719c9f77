/**
 * Adapters of one layer, each for rows of its own. The layer's own product is that of all rows, read once; each adapter
 * then changes its rows (S-LoRA, Sheng et al., 2024; Punica, Chen et al., 2024). For generation, where a row depends on no other row.
 */
import { type Linear, LinearAdapter, ops, type Tensor } from '@minicpm-finetune/torch';
import type { LoraAdapter } from './lora.js';

/** An adapter of a layer, and which rows (of the first dimension) are its. */
export interface AdaptedRows {
  readonly from: number;
  readonly count: number;
  readonly adapter: LoraAdapter;
}

/** Owns nothing: the adapters stay whose they are. Rows of nobody stay as the layer computes them. */
export class RowGroups extends LinearAdapter {
  readonly #groups: readonly AdaptedRows[];

  constructor(groups: readonly AdaptedRows[]) {
    super();
    this.#groups = groups;
  }

  /** x (N, …, in) and y = linear's output (N, …, out), which is written to and returned. */
  override apply(linear: Linear, x: Tensor, y: Tensor): Tensor {
    for (const { from, count, adapter } of this.#groups) {
      const rows = (all: Tensor): Tensor => ops.narrow(all, 0, from, count);
      ops.copy_(rows(y), adapter.apply(linear, rows(x), rows(y)));
    }
    return y;
  }
}
