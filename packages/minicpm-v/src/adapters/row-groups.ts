/**
 * Adapters of one layer, each for rows of its own. The layer's own product is that of all rows, read once; each adapter
 * then changes its rows (S-LoRA, Sheng et al., 2024; Punica, Chen et al., 2024). For generation, where a row depends on no other row.
 */
import {
  type DType,
  type Linear,
  LinearAdapter,
  type LowRankRows,
  lowRankArguments,
  ops,
  type Tensor,
} from '@minicpm-finetune/torch';
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
    const factors: LowRankRows[] = [];
    for (const group of this.#groups) {
      const own = lowRankOf(group, x.dtype);
      if (own !== undefined) factors.push(...own);
      else {
        const rows = (all: Tensor): Tensor => ops.narrow(all, 0, group.from, group.count);
        ops.copy_(rows(y), group.adapter.apply(linear, rows(x), rows(y)));
      }
    }
    return factors.length === 0 ? y : ops.rowsLowRank_(y, x, ...lowRankArguments([factors]));
  }

  override lowRank(_rows: number, dtype: DType): readonly LowRankRows[] | undefined {
    const all = this.#groups.map((group) => lowRankOf(group, dtype)).filter((own) => own !== undefined);
    return all.length < this.#groups.length ? undefined : all.flat();
  }
}

const lowRankOf = ({ from, count, adapter }: AdaptedRows, dtype: DType): readonly LowRankRows[] | undefined =>
  adapter.lowRank(count, dtype)?.map((own) => ({ ...own, from: from + own.from }));
